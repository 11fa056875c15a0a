"""Rotated overlap and suppression in numpy against the compiled operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tcm_d2.export.rotated_nms import nms_rotated, paired_iou
from tcm_d2.ops import batched_nms_rotated, paired_iou_rotated


def random_boxes(num_boxes: int, extent_px: float = 100.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 1, (num_boxes, 5)) * [extent_px, extent_px, 40, 20, 180]
    return boxes + [0, 0, 1, 1, -90]


SPECIAL = {
    "identical": ([10, 10, 8, 4, 30], [10, 10, 8, 4, 30]),
    "sides named otherwise": ([10, 10, 8, 4, 30], [10, 10, 4, 8, -60]),
    "upright and identical": ([10, 10, 8, 4, 0], [10, 10, 8, 4, 0]),
    "quarter turn": ([10, 10, 8, 4, 90], [10, 10, 8, 4, 0]),
    "touching": ([0, 0, 2, 2, 0], [2, 0, 2, 2, 0]),
    "touching corner": ([0, 0, 2, 2, 0], [2, 2, 2, 2, 0]),
    "nested": ([5, 5, 20, 10, 40], [5, 5, 4, 2, -20]),
    "shared side": ([0, 0, 4, 2, 0], [1, 0, 2, 2, 0]),
    "thin": ([0, 0, 1000, 1, 45], [0, 0, 1000, 1, -45]),
    "far": ([1e5, 1e5, 30, 10, 20], [1e5 + 3, 1e5, 30, 10, 25]),
    "apart": ([0, 0, 2, 2, 0], [50, 0, 2, 2, 0]),
    "no area": ([0, 0, 0, 2, 0], [0, 0, 2, 2, 0]),
    "seam": ([0, 0, 8, 4, 89.999], [0, 0, 8, 4, -89.999]),
    "nearly parallel": ([0, 0, 8, 4, 1e-13], [1, 1, 8, 4, 0]),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_pairs(name: str) -> None:
    one, two = (np.array([box], dtype=np.float64) for box in SPECIAL[name])
    expected = paired_iou_rotated(torch.from_numpy(one), torch.from_numpy(two)).numpy()
    np.testing.assert_allclose(paired_iou(one, two), expected, atol=1e-9)
    np.testing.assert_allclose(paired_iou(two, one), expected, atol=1e-9)


def test_random_pairs() -> None:
    boxes = random_boxes(4000, extent_px=20.0)
    one, two = boxes[:2000], boxes[2000:]
    expected = paired_iou_rotated(torch.from_numpy(one), torch.from_numpy(two)).numpy()
    assert (expected > 0.05).mean() > 0.3
    np.testing.assert_allclose(paired_iou(one, two), expected, atol=1e-10)


@pytest.mark.parametrize("num_boxes", [0, 1, 700])
@pytest.mark.parametrize("iou_threshold", [0.1, 0.5])
def test_same_boxes_are_kept(num_boxes: int, iou_threshold: float) -> None:
    rng = np.random.default_rng(1)
    boxes, classes = random_boxes(num_boxes), rng.integers(0, 3, num_boxes)
    # Equal scores, too: the earlier box wins.
    scores = rng.integers(0, 50, num_boxes) / 50
    keep = nms_rotated(boxes, scores, classes, iou_threshold=iou_threshold)
    expected = batched_nms_rotated(*map(torch.from_numpy, (boxes, scores, classes)), iou_threshold)
    assert keep.tolist() == expected.tolist()


def test_threshold_is_strict() -> None:
    boxes = np.array([[0.0, 0, 2, 2, 0], [1, 0, 2, 2, 0]])
    third = float(paired_iou(boxes[:1], boxes[1:])[0])
    assert third == pytest.approx(1 / 3)
    scores, classes = np.array([0.9, 0.8]), np.array([0, 0])
    assert len(nms_rotated(boxes, scores, classes, iou_threshold=third)) == 2
    assert len(nms_rotated(boxes, scores, classes, iou_threshold=third - 1e-9)) == 1
    assert len(nms_rotated(boxes, scores, np.array([0, 1]), iou_threshold=0.0)) == 2
