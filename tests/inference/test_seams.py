"""The seam rule: every object once, and whole, wherever the seams are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tcm_d2.inference.large_image import WindowConfig, detect_scene, make_windows
from tcm_d2.inference.rasters import array_scene
from tcm_d2.inference.seams import SeamReport, SeamRule, merge_windows, seam_margin_px
from tcm_d2.ops import batched_nms_rotated
from tcm_d2.structures.detections import BoxDetections
from tests.inference.small_run import find_bright_pieces

CONFIG = WindowConfig(
    window_px=128,
    overlap_px=64,
    batch_size=3,
    score_threshold=0.1,
    nms_iou_threshold=0.1,
    seam_rule="whole",
)
# The longest object that some window surely holds whole: overlap less the margins of two borders.
MAX_SIDE_PX = 64 - 2 * 4


def _scene_of_rectangles(seed: int, *, max_side: int) -> tuple[np.ndarray, list[list[int]]]:
    """Return a picture with up to 60 rectangles that do not touch, each of its own grey value."""
    rng = np.random.default_rng(seed)
    image = np.zeros((401, 533, 3), dtype=np.uint8)
    rectangles: list[list[int]] = []
    for value in range(60, 250):
        w, h = rng.integers(6, max_side + 1, 2)
        x = int(rng.integers(0, image.shape[1] - w + 1))
        y = int(rng.integers(0, image.shape[0] - h + 1))
        if image[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].any():
            continue
        image[y : y + h, x : x + w] = value
        rectangles.append([x, y, x + int(w), y + int(h)])
    return image, rectangles


def _found(image: np.ndarray, rule: str) -> list[list[int]]:
    config = WindowConfig(**{**vars(CONFIG), "seam_rule": rule})
    found = detect_scene(
        lambda windows: find_bright_pieces(list(windows)),
        array_scene(image, channel_order="RGB"),
        config,
    )
    cx, cy, w, h, angle_deg = found.boxes.T
    turned = np.abs(angle_deg) == 90
    w, h = np.where(turned, h, w), np.where(turned, w, h)
    hulls = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
    return sorted(np.rint(hulls).astype(int).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_every_object_is_found_once_and_whole(seed: int) -> None:
    image, rectangles = _scene_of_rectangles(seed, max_side=MAX_SIDE_PX)
    assert len(rectangles) > 20
    assert _found(image, "whole") == sorted(rectangles)
    # What the rule is for: pieces score higher here and survive plain suppression.
    assert _found(image, "nms") != sorted(rectangles)


def test_objects_longer_than_the_overlap_are_kept_as_well_as_a_window_shows_them() -> None:
    image = np.zeros((128, 400, 3), dtype=np.uint8)
    image[60:70, 20:380] = 200
    found = _found(image, "whole")
    # No window shows it whole: pieces remain, which together cover it.
    assert found and min(box[0] for box in found) == 20 and max(box[2] for box in found) == 380


def test_pictures_own_border_is_no_seam() -> None:
    image = np.zeros((128, 200, 3), dtype=np.uint8)
    image[0:30, 0:20] = 200
    image[100:128, 150:200] = 180
    assert _found(image, "whole") == [[0, 0, 20, 30], [150, 100, 200, 128]]


WINDOWS = make_windows((128, 192), CONFIG)


def _merge(
    boxes: list[list[float]],
    scores: list[float],
    window_index: list[int],
    *,
    classes: list[int] | None = None,
    rule: SeamRule = "whole",
    iou_threshold: float = 0.1,
) -> SeamReport:
    return merge_windows(
        BoxDetections(
            np.array(boxes, dtype=np.float64),
            np.array(scores),
            np.array(classes or [0] * len(boxes)),
        ),
        window_index=np.array(window_index),
        windows=WINDOWS,
        image_size_hw=(128, 192),
        iou_threshold=iou_threshold,
        rule=rule,
    )


def test_what_is_cut_and_what_is_seen_whole() -> None:
    assert WINDOWS.tolist() == [[0, 0, 128, 128], [64, 0, 192, 128]]
    assert seam_margin_px(WINDOWS) == 4
    at_border, whole, over_both = [120, 40, 16, 10, 0], [120, 90, 16, 10, 0], [96, 60, 70, 10, 0]
    report = _merge([at_border, whole, over_both], [0.9, 0.5, 0.3], [0, 1, 0])
    assert report.is_cut.tolist() == [True, False, True]
    assert report.is_seen_whole.tolist() == [True, True, False]
    # The second window sees the place of the first box whole, and nothing there.
    assert report.keep.tolist() == [1, 0, 2] and report.scores.tolist() == [0.5, 0.45, 0.3]


def test_piece_is_dropped_for_the_whole_object_of_any_class_and_any_score() -> None:
    piece, whole = [118, 60, 20, 10, 0], [140, 60, 64, 10, 0]
    # The IoU is below the threshold: suppression alone keeps both.
    for classes in ([0, 0], [1, 0]):
        report = _merge([piece, whole], [0.9, 0.2], [0, 1], classes=classes, iou_threshold=0.5)
        assert report.keep.tolist() == [1] and report.scores.tolist() == [0.2]
    plain = _merge([piece, whole], [0.9, 0.2], [0, 1], rule="nms", iou_threshold=0.5)
    assert plain.keep.tolist() == [0, 1]


def test_object_that_two_windows_place_over_their_borders_is_not_lost() -> None:
    # Each reaches into the margin of its own window, and lies in the free part of the other.
    report = _merge([[101, 60, 52, 10, 0], [90, 60, 60, 10, 0]], [0.9, 0.8], [0, 1])
    assert report.is_cut.all() and report.is_seen_whole.all()
    assert report.keep.tolist() == [0] and report.scores.tolist() == [0.9]


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
def test_plain_suppression_is_rotated_nms(threshold: float) -> None:
    rng = np.random.default_rng(3)
    boxes = rng.uniform([0, 0, 4, 4, -90], [300, 300, 60, 30, 90], (400, 5))
    # Ties too: they go by index.
    scores = np.round(rng.uniform(0.1, 1, 400), 2)
    classes = rng.integers(0, 3, 400)
    report = _merge(
        boxes.tolist(),
        scores.tolist(),
        [0] * 400,
        classes=classes.tolist(),
        rule="nms",
        iou_threshold=threshold,
    )
    expected = batched_nms_rotated(
        torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), threshold
    )
    assert report.keep.tolist() == expected.tolist()


def test_no_detections_and_unknown_rule() -> None:
    empty = {
        "found": BoxDetections(np.empty((0, 5)), np.empty(0), np.empty(0, dtype=np.int64)),
        "window_index": np.empty(0, dtype=np.int64),
        "windows": make_windows((128, 192), CONFIG),
        "image_size_hw": (128, 192),
        "iou_threshold": 0.1,
    }
    assert merge_windows(**empty, rule="whole").keep.tolist() == []
    with pytest.raises(ValueError, match=r"seam_rule: expected one of .*'whole'.* got 'soft'"):
        merge_windows(**empty, rule="soft")  # type: ignore[arg-type]
