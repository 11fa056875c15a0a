from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import RotatedBoxes
from detectron2.utils.env import seed_all_rng

from tcm_d2.config.defaults import get_tcm_config
from tcm_d2.data.augmentation import Augmented, RandomRotation, rotate
from tcm_d2.data.images import BadImageError
from tcm_d2.data.mapper import RotatedDatasetMapper
from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.structures.masks import boxes_to_class_masks

QUADS = [
    [[10, 8], [26, 8], [26, 14], [10, 14]],
    [[60, 30], [70, 40], [65, 45], [55, 35]],
    [[90, 50], [106, 50], [106, 60], [90, 60]],  # cut by the right border, centre inside
]


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_tcm_config()
    cfg.MODEL.ROTATED_HEAD.NUM_CLASSES = 3
    cfg.INPUT.FLIP_PROBS = [0.0, 0.0, 0.0]
    return cfg


def _write(
    folder: Path, name: str, quads: list[Any], *, size_hw: tuple[int, int]
) -> dict[str, Any]:
    rng = np.random.default_rng(sum(map(ord, name)))
    image = rng.integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    assert cv2.imwrite(str(folder / f"{name}.png"), image)
    return {
        "file_name": str(folder / f"{name}.png"),
        "image_id": name,
        "height": size_hw[0],
        "width": size_hw[1],
        "source_image_id": name.split("__")[0],
        "patch_origin_xy": (24.0, 12.0),
        "patch_scale": 0.5,
        "annotations": [
            {"quad": quad, "category_id": index % 3, "difficult": index % 2}
            for index, quad in enumerate(quads)
        ],
    }


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    return _write(tmp_path, "P1__64__24___12", QUADS, size_hw=(64, 100))


def _corner_sets(quads: Any) -> list[np.ndarray]:
    quads = np.asarray(quads, dtype=float).reshape(-1, 4, 2)
    return [quad[np.lexsort(np.round(quad, 3).T)] for quad in quads]


def test_training_sample_holds_image_boxes_and_masks(cfg: CfgNode, item: dict[str, Any]) -> None:
    mapped = RotatedDatasetMapper(cfg, True)(item)
    assert mapped is not None
    rgb = cv2.imread(item["file_name"])[..., ::-1]
    assert mapped["image"].dtype == torch.uint8
    assert np.array_equal(mapped["image"].permute(1, 2, 0).numpy(), rgb)
    assert (mapped["height"], mapped["width"]) == (64, 100)
    for key in ("file_name", "image_id", "source_image_id", "patch_origin_xy", "patch_scale"):
        assert mapped[key] == item[key]
    assert "annotations" not in mapped and "annotations" in item
    instances = mapped["instances"]
    assert instances.image_size == (64, 100)
    assert isinstance(instances.gt_boxes, RotatedBoxes)
    boxes = instances.gt_boxes.tensor
    assert boxes.dtype == torch.float32
    assert (boxes[:, 2] >= boxes[:, 3]).all()
    assert ((boxes[:, 4] >= -90) & (boxes[:, 4] < 90)).all()
    for have, want in zip(_corner_sets(boxes_to_quads(boxes)), _corner_sets(QUADS)):
        np.testing.assert_allclose(have, want, atol=1e-4)  # nothing is clipped
    assert instances.gt_classes.tolist() == [0, 1, 2]
    assert instances.gt_difficult.tolist() == [False, True, False]
    expected = boxes_to_class_masks(
        boxes, instances.gt_classes, num_classes=3, image_size_hw=(64, 100), stride_px=4
    )
    assert mapped["class_masks"].shape == (3, 16, 25)
    assert torch.equal(mapped["class_masks"], expected)


def test_plain_detector_and_test_time_get_no_masks(cfg: CfgNode, item: dict[str, Any]) -> None:
    cfg.MODEL.TCM.ENABLED = False
    mapped = RotatedDatasetMapper(cfg, True)(item)
    assert mapped is not None and "class_masks" not in mapped
    cfg.MODEL.TCM.ENABLED = True
    del item["annotations"]
    mapped = RotatedDatasetMapper(cfg, False)(item)
    assert mapped is not None
    assert not {"instances", "class_masks"} & mapped.keys()
    with pytest.raises(ValueError, match=r"P1__64.*expected annotations in training"):
        RotatedDatasetMapper(cfg, True)(item)


@pytest.mark.parametrize("which", range(3))
def test_flips_move_boxes_with_the_image(cfg: CfgNode, item: dict[str, Any], which: int) -> None:
    cfg.INPUT.FLIP_PROBS = [float(which == index) for index in range(3)]
    mapped = RotatedDatasetMapper(cfg, True)(item)
    assert mapped is not None
    plain = cv2.imread(item["file_name"])[..., ::-1]
    image = mapped["image"].permute(1, 2, 0).numpy()
    quads = np.array(QUADS, dtype=float)
    if which in (0, 2):
        plain, quads[..., 0] = plain[:, ::-1], 100 - quads[..., 0]
    if which in (1, 2):
        plain, quads[..., 1] = plain[::-1], 64 - quads[..., 1]
    assert np.array_equal(image, plain)
    have = _corner_sets(boxes_to_quads(mapped["instances"].gt_boxes.tensor))
    for ours, theirs in zip(have, _corner_sets(quads)):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_resizing_keeps_the_size_of_the_file_in_the_dict(
    cfg: CfgNode, item: dict[str, Any]
) -> None:
    cfg.INPUT.RESIZE_FACTORS_TRAIN = [2.0]
    mapped = RotatedDatasetMapper(cfg, True)(item)
    assert mapped is not None
    assert mapped["image"].shape == (3, 128, 200)
    assert mapped["instances"].image_size == (128, 200)
    assert mapped["class_masks"].shape == (3, 32, 50)
    assert (mapped["height"], mapped["width"]) == (64, 100)
    np.testing.assert_allclose(
        mapped["instances"].gt_boxes.tensor[0, :4].numpy(), [36, 22, 32, 12], atol=1e-4
    )


def test_objects_that_turn_out_of_the_image_are_dropped(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quads = [
        [[45, 27], [55, 27], [55, 37], [45, 37]],  # in the middle: stays
        [[5, 27], [15, 27], [15, 37], [5, 37]],  # turns above the image
        [[101, 10], [109, 10], [109, 20], [101, 20]],  # outside from the start: left alone
    ]
    item = _write(tmp_path, "a", quads, size_hw=(64, 100))
    cfg.INPUT.ROTATION_PROB = 1.0

    def turn_right(
        self: RandomRotation, image: np.ndarray, points: np.ndarray, _: Any
    ) -> Augmented:
        return rotate(image, points, angle_deg=-90.0, border_rgb=(0, 0, 0))

    monkeypatch.setattr(RandomRotation, "__call__", turn_right)
    mapped = RotatedDatasetMapper(cfg, True)(item)
    assert mapped is not None
    assert mapped["instances"].gt_classes.tolist() == [0, 2]
    np.testing.assert_allclose(
        mapped["instances"].gt_boxes.tensor[0, :2].numpy(), [50, 32], atol=1e-4
    )


def test_patch_without_objects_gives_empty_instances(cfg: CfgNode, tmp_path: Path) -> None:
    mapped = RotatedDatasetMapper(cfg, True)(_write(tmp_path, "a", [], size_hw=(33, 47)))
    assert mapped is not None
    assert len(mapped["instances"]) == 0
    assert mapped["instances"].gt_boxes.tensor.shape == (0, 5)
    assert mapped["class_masks"].shape == (3, 8, 11)


def test_objects_without_size_are_dropped_and_counted(
    cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quads = [QUADS[0], [[5, 5], [9, 5], [9, 5], [5, 5]], [[3, 3], [3, 3], [3, 3], [3, 3]]]
    mapper = RotatedDatasetMapper(cfg, True)
    item = _write(tmp_path, "a", quads, size_hw=(64, 100))
    with caplog.at_level(logging.WARNING):
        mapped = mapper(item)
        mapper(item)
    assert mapped is not None and len(mapped["instances"]) == 1
    assert mapper.num_dropped_objects == 4
    assert len([r for r in caplog.records if "without size" in r.message]) == 1


def test_wrong_settings_and_categories_are_refused(cfg: CfgNode, item: dict[str, Any]) -> None:
    cfg.MODEL.ROTATED_HEAD.NUM_CLASSES = 2
    with pytest.raises(ValueError, match=r"P1__64.*category ids in \[0, 2\), got 0\.\.2"):
        RotatedDatasetMapper(cfg, True)(item)
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT"):
        RotatedDatasetMapper(cfg, True)
    cfg.INPUT.FORMAT, cfg.INPUT.ON_BAD_IMAGE = "RGB", "ignore"
    with pytest.raises(ValueError, match=r"INPUT\.ON_BAD_IMAGE"):
        RotatedDatasetMapper(cfg, True)


def test_bgr_is_given_when_asked_for(cfg: CfgNode, item: dict[str, Any]) -> None:
    cfg.INPUT.FORMAT = "BGR"
    mapped = RotatedDatasetMapper(cfg, True)(item)
    assert mapped is not None
    image = mapped["image"].permute(1, 2, 0).numpy()
    assert np.array_equal(image, cv2.imread(item["file_name"]))


# --- bad images ---


def _break(item: dict[str, Any]) -> None:
    path = Path(item["file_name"])
    path.write_bytes(path.read_bytes()[:500])


def test_bad_images_are_errors_that_name_the_file(cfg: CfgNode, item: dict[str, Any]) -> None:
    item["width"] = 99
    with pytest.raises(BadImageError, match=r"P1__64__24___12\.png: expected \(height, width\)"):
        RotatedDatasetMapper(cfg, True)(item)
    _break(item)
    with pytest.raises(BadImageError, match=r"P1__64__24___12\.png: expected a complete image"):
        RotatedDatasetMapper(cfg, True)(item)
    Path(item["file_name"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"P1__64__24___12\.png: image file not found"):
        RotatedDatasetMapper(cfg, True)(item)
    cfg.INPUT.ON_BAD_IMAGE = "skip"  # never at test time: a result would be missing
    with pytest.raises(FileNotFoundError):
        RotatedDatasetMapper(cfg, False)(item)


def test_skipping_feeds_the_last_good_image_and_counts(
    cfg: CfgNode, tmp_path: Path, item: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    bad = _write(tmp_path, "bad", QUADS, size_hw=(64, 100))
    _break(bad)
    mapper = RotatedDatasetMapper(cfg, True)
    mapper(item)
    with caplog.at_level(logging.WARNING):
        mapped = mapper(bad)
    assert mapped is not None and mapped["image_id"] == item["image_id"]
    assert mapper.num_skipped_images == 1
    assert "unreadable image skipped (1 so far)" in caplog.text
    assert "bad.png" in caplog.text


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    items = [_write(tmp_path, f"p{index}", QUADS, size_hw=(64, 100)) for index in range(6)]
    DatasetCatalog.register("t_mapper", lambda: items)
    MetadataCatalog.get("t_mapper").set(thing_classes=["a", "b", "c"])
    yield items
    DatasetCatalog.remove("t_mapper")
    MetadataCatalog.remove("t_mapper")


def test_first_image_bad_takes_another_of_the_data_set(
    cfg: CfgNode, registered: list[dict[str, Any]]
) -> None:
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    cfg.DATASETS.TRAIN = ("t_mapper",)
    for item in registered[:3]:
        _break(item)
    mapper = RotatedDatasetMapper(cfg, True)
    mapped = mapper(registered[0])
    assert mapped is not None and mapped["image_id"] in {"p3", "p4", "p5"}
    assert mapper.num_skipped_images >= 1


def test_nothing_but_bad_images_is_an_error(cfg: CfgNode, registered: list[dict[str, Any]]) -> None:
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    cfg.DATASETS.TRAIN = ("t_mapper",)
    for item in registered:
        _break(item)
    with pytest.raises(RuntimeError, match="6 unreadable images and none that could be read"):
        RotatedDatasetMapper(cfg, True)(registered[0])


def _load_some(
    cfg: CfgNode, items: list[dict[str, Any]], mapper: RotatedDatasetMapper, num_workers: int
) -> list[dict[str, Any]]:
    seed_all_rng(7)
    torch.manual_seed(7)
    loader = build_detection_train_loader(
        items,
        mapper=mapper,
        sampler=TrainingSampler(len(items), seed=3),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        num_workers=num_workers,
    )
    batches = iter(loader)
    return [sample for _ in range(6) for sample in next(batches)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loader_is_reproducible_and_survives_a_bad_image(
    cfg: CfgNode, registered: list[dict[str, Any]], num_workers: int
) -> None:
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    cfg.INPUT.FLIP_PROBS = [0.25, 0.25, 0.25]
    cfg.DATASETS.TRAIN = ("t_mapper",)
    _break(registered[2])
    mappers = [RotatedDatasetMapper(cfg, True) for _ in range(2)]
    first, second = (_load_some(cfg, registered, mapper, num_workers) for mapper in mappers)
    for ours, theirs in zip(first, second):
        assert ours["image_id"] == theirs["image_id"]
        assert torch.equal(ours["image"], theirs["image"])
    assert "p2" not in {sample["image_id"] for sample in first}
    assert len({tuple(sample["image"][0, 0, :9].tolist()) for sample in first}) > 6  # it does flip
    assert mappers[0].num_skipped_images >= 1  # counted where the worker runs, seen here
