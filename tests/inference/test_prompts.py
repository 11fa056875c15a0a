"""A detector from a file for inference alone, and one whose text tower reads other words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tcm_d2.cli.main import run_command
from tcm_d2.inference.detector import Detector
from tests.inference.small_run import ALL_SCORES, noise_image, write_run

FAST = ["MODEL.TCM.PROMPT_GENERATOR", "meta", "MODEL.TCM.BIMODAL_MATCHING", "True"]


def load(path: Path, **options: object) -> Detector:
    return Detector.from_pretrained(path, device="cpu", score_threshold=ALL_SCORES, **options)


def convert(run_dir: Path, output: Path) -> None:
    files = ["--input", str(run_dir / "model_final.pth"), "--output", str(output)]
    assert (
        run_command(
            "convert", [*files, "--config-file", str(run_dir / "config.yaml"), "--for-inference"]
        )
        == 0
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_file_for_inference_is_a_whole_detector(tmp_path: Path, suffix: str) -> None:
    run_dir = write_run(tmp_path / "out", *FAST)
    alone = tmp_path / "alone" / f"ships{suffix}"
    convert(run_dir, alone)
    expected, found = (load(path)(noise_image(64, 64)) for path in (run_dir, alone))
    assert len(found.scores) > 0 and found.class_names == expected.class_names
    assert np.array_equal(found.boxes, expected.boxes)
    assert np.array_equal(found.scores, expected.scores)
    with pytest.raises(ValueError, match="has no text tower to read others"):
        load(alone, prompts=["aircraft", "vessel"])


def test_open_vocabulary_finds_whatever_is_named(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "out", "MODEL.ROTATED_HEAD.CLASSIFIER", "text")
    found = load(run_dir, class_names=["wind-turbine", "plane", "bus"])
    assert found.classes == ("wind-turbine", "plane", "bus")
    same = load(run_dir, prompts=["wind turbine", "plane", "bus"])
    assert (found.model.class_embeddings() == same.model.class_embeddings()).all()
    assert set(found(noise_image(64, 64)).class_names) <= set(found.classes)
    assert load(run_dir).classes == ("plane", "ship")
    with pytest.raises(ValueError, match="expected different names"):
        load(run_dir, class_names=["bus", "plane", "bus"])


def test_other_prompts_reach_the_text_tower(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "out", "MODEL.TCM.PROMPT_TEMPLATE", "a {label}")
    plain, same, other = (
        load(run_dir, prompts=prompts)
        for prompts in (None, ["plane", "ship"], ["aircraft", "vessel"])
    )
    texts = [detector.model.class_embeddings().detach() for detector in (plain, same, other)]
    assert (texts[0] == texts[1]).all() and not (texts[0] == texts[2]).all(dim=1).any()
    # What the classes are called in results is another matter.
    assert other.classes == plain.classes == ("plane", "ship")
    with pytest.raises(ValueError, match=r"expected 2, got 1; .*their number cannot"):
        load(run_dir, prompts=["ship"])
    without = write_run(tmp_path / "plain", "MODEL.TCM.ENABLED", "False")
    with pytest.raises(ValueError, match="has no text"):
        load(without, prompts=["plane", "ship"])
