"""The detector in the package: found by name, small, and able to detect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tcm_d2 import Detector
from tcm_d2.data.dota.labels import read_label
from tcm_d2.inference.bundled import DEFAULT_NAME, FOLDER, find_bundled, list_bundled
from tcm_d2.ops import box_iou_rotated
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.synthetic import SyntheticConfig, make_synthetic_dota

MAX_BYTES = 10_000_000
# Not a scene of the training: its seeds are 1 for the file in the package.
SEED = 77


def test_files_are_small_and_found_by_name() -> None:
    assert DEFAULT_NAME in list_bundled()
    for name in list_bundled():
        path = find_bundled(name)
        assert path is not None and path.parent == FOLDER and path.stat().st_size <= MAX_BYTES


def test_a_path_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_NAME).mkdir()
    assert find_bundled(DEFAULT_NAME) is None
    assert find_bundled("tcm_atss") is None
    with pytest.raises(FileNotFoundError, match=f"bundled detector.*{DEFAULT_NAME}"):
        Detector.from_pretrained("tcm_atss")


def test_it_finds_most_objects_of_new_scenes(tmp_path: Path) -> None:
    config = SyntheticConfig.easy(image_size_px=512)
    make_synthetic_dota(
        tmp_path, num_train=0, num_val=4, image_size_px=512, seed=SEED, config=config
    )
    detector = Detector.from_pretrained(DEFAULT_NAME, device="cpu")
    found = total = 0
    for image in sorted((tmp_path / "val/images").iterdir()):
        label = read_label(tmp_path / "val/labelTxt" / f"{image.stem}.txt")
        objects = [o for o in label.objects if not o.difficult]
        quads = torch.tensor([o.quad for o in objects]).reshape(-1, 4, 2)
        result = detector(image)
        iou = box_iou_rotated(quads_to_boxes(quads), torch.as_tensor(result.boxes).float())
        same = torch.tensor(
            [[o.class_name == name for name in result.class_names] for o in objects]
        ).reshape(iou.shape)
        found += int(((iou > 0.5) & same).any(dim=1).sum())
        total += len(objects)
    assert total > 40
    assert found > 0.6 * total
