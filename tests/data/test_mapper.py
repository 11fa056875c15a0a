from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode, RotatedBoxes

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
    with pytest.raises(ValueError, match=r"P1__64.*expected annotations, got a data set"):
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


def test_skipping_asks_the_loader_for_another_image_and_counts(
    cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg.INPUT.ON_BAD_IMAGE = "skip"
    bad = _write(tmp_path, "bad", QUADS, size_hw=(64, 100))
    _break(bad)
    mapper = RotatedDatasetMapper(cfg, True)
    with caplog.at_level(logging.WARNING):
        assert mapper(bad) is None
    assert mapper.num_skipped_images == 1
    assert "unreadable image skipped (1 so far)" in caplog.text
    assert "bad.png" in caplog.text


# --- annotations in Detectron2's own form ---


def _annotation(**keys: Any) -> dict[str, Any]:
    return {"category_id": 1, "iscrowd": 0, **keys}


DETECTRON2_FORMS = {
    "XYWHA_ABS": _annotation(bbox=[30, 20, 20, 10, 30], bbox_mode=BoxMode.XYWHA_ABS),
    "XYWHA_ABS as a number": _annotation(bbox=np.array([30, 20, 20, 10, 30]), bbox_mode=4),
    "XYWHA_ABS beats segmentation": _annotation(
        bbox=[30, 20, 20, 10, 30], bbox_mode=BoxMode.XYWHA_ABS, segmentation=[[1, 2, 3, 4, 5, 6]]
    ),
    "XYXY_ABS": _annotation(bbox=[20, 15, 40, 25], bbox_mode=BoxMode.XYXY_ABS),
    "XYWH_ABS": _annotation(bbox=(20, 15, 20, 10), bbox_mode=BoxMode.XYWH_ABS),
    "four corners": _annotation(
        bbox=[0, 0, 90, 60],
        bbox_mode=BoxMode.XYXY_ABS,
        segmentation=[[20, 15, 40, 15, 40, 25, 20, 25]],
    ),
    "corners alone": _annotation(segmentation=[[20, 15, 40, 15, 40, 25, 20, 25]]),
    "flat quad": _annotation(quad=[20, 15, 40, 15, 40, 25, 20, 25]),
}


@pytest.mark.parametrize("form", DETECTRON2_FORMS)
def test_annotations_in_detectron2s_form_give_boxes(
    cfg: CfgNode, item: dict[str, Any], form: str
) -> None:
    """They ended in KeyError: 'quad'."""
    crowd = {**DETECTRON2_FORMS[form], "iscrowd": 1, "category_id": 2}
    foreign = {key: item[key] for key in ("file_name", "height", "width")}
    foreign |= {"image_id": 7, "annotations": [DETECTRON2_FORMS[form], crowd]}
    mapped = RotatedDatasetMapper(cfg, True)(foreign)
    assert mapped is not None
    angle = 30.0 if "XYWHA" in form else 0.0
    boxes = mapped["instances"].gt_boxes.tensor
    np.testing.assert_allclose(boxes.numpy(), [[30, 20, 20, 10, angle]], atol=1e-4)
    assert mapped["instances"].gt_classes.tolist() == [1]
    assert mapped["class_masks"][1].any() and not mapped["class_masks"][2].any()
    assert (mapped["source_image_id"], mapped["patch_scale"]) == ("7", 1.0)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 1}, r"expected 'quad' .* got the keys category_id"),
        (_annotation(bbox=[1, 2, 3, 4]), r"got 'bbox' with bbox_mode None"),
        (_annotation(bbox=[1, 2, 3, 4], bbox_mode=9), r"got 'bbox' with bbox_mode 9"),
        (_annotation(bbox=[0, 0, 1, 1], bbox_mode=BoxMode.XYXY_REL), r"bbox_mode <BoxMode.XYXY_R"),
        (_annotation(bbox=[1, 2, 3, 4], bbox_mode=4), r"bbox: expected 5 finite numbers, got \["),
        (_annotation(bbox=[1, 2, 3, 4, 5], bbox_mode=0), r"bbox: expected 4 finite numbers"),
        (_annotation(bbox=[1, 2, 3, float("nan")], bbox_mode=0), r"bbox: expected 4 finite num"),
        (
            _annotation(bbox=[1, 2, 3, 4], bbox_mode=0, segmentation=[[1, 2, 3, 4, 5, 6]]),
            r"segmentation of another kind: \[\[1, 2, 3, 4, 5, 6\]\]",
        ),
        (_annotation(segmentation={"counts": "x", "size": [1, 2]}), r"of another kind: \{'counts'"),
        (_annotation(segmentation=[[1, 2, 3, 4, 5, 6, 7, "x"]]), r"could not convert"),
        (_annotation(quad=[[1, 2], [3, 4]]), r"quad: expected 8 finite numbers"),
        ({"quad": QUADS[0]}, r"no 'category_id'"),
        ({"quad": QUADS[0], "category_id": 0.5}, r"'float' object cannot be interpreted"),
    ],
)
def test_annotations_that_mean_nothing_are_refused_with_the_image(
    cfg: CfgNode, item: dict[str, Any], annotation: dict[str, Any], message: str
) -> None:
    item["annotations"] = [item["annotations"][0], annotation]
    with pytest.raises(ValueError, match=rf"P1__64__24___12\.png: annotation 1: .*{message}"):
        RotatedDatasetMapper(cfg, True)(item)
