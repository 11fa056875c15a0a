"""le135 and oc: ranges, the same rectangle, and OpenCV's own rectangles."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tcm_d2.structures.conversions import (
    boxes_to_le90,
    boxes_to_le135,
    boxes_to_oc,
    boxes_to_quads,
    le135_to_boxes,
    oc_to_boxes,
)

ROUND_TRIPS = [(boxes_to_le135, le135_to_boxes), (boxes_to_oc, oc_to_boxes)]
ANGLES_DEG = (-90.0, -89.999, -60.0, -45.001, -45.0, -30.0, 0.0, 0.001, 30.0, 45.0, 89.999)


def boxes_at_all_angles(dtype: torch.dtype = torch.float64) -> Tensor:
    rows = [[10.0, 20.0, 8.0, 3.0, angle] for angle in ANGLES_DEG]
    return torch.tensor(rows, dtype=dtype)


def same_corners(first: Tensor, second: Tensor, tolerance: float = 1e-9) -> bool:
    """Compare rectangles by their sets of corners."""
    distances = torch.cdist(boxes_to_quads(first), boxes_to_quads(second))
    return bool((distances.amin(dim=2) < tolerance).all())


@pytest.mark.parametrize(("there", "back"), ROUND_TRIPS)
def test_round_trip_is_the_same_rectangle(
    there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> None:
    boxes = boxes_at_all_angles()
    assert same_corners(back(there(boxes)), boxes)
    # Boxes that are not canonical: sides swapped, half turns away.
    odd = boxes.clone()
    odd[:, 2], odd[:, 3], odd[:, 4] = boxes[:, 3], boxes[:, 2], boxes[:, 4] + 90 + 360
    assert same_corners(back(there(odd)), boxes)


def test_ranges() -> None:
    boxes = boxes_at_all_angles()
    le135, oc = boxes_to_le135(boxes), boxes_to_oc(boxes)
    assert (le135[:, 2] >= le135[:, 3]).all()
    assert ((le135[:, 4] >= -math.pi / 4) & (le135[:, 4] < 3 * math.pi / 4)).all()
    assert ((oc[:, 4] > 0) & (oc[:, 4] <= math.pi / 2)).all()


def test_numbers_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 8, 3, 30], [0, 0, 8, 3, 60], [0, 0, 8, 3, -90]])
    degrees = [[round(math.degrees(t)) for t in f(boxes)[:, 4]] for f in
               (boxes_to_le90, boxes_to_le135, boxes_to_oc)]  # fmt: skip
    assert degrees == [[-30, -60, -90], [-30, 120, 90], [60, 30, 90]]
    assert boxes_to_oc(boxes)[:, 2].tolist() == [3, 3, 8]


def test_rectangles_of_opencv_are_oc() -> None:
    """OpenCV gives [0, 90]; 0 is 90 with the sides swapped."""
    for box in boxes_at_all_angles():
        quad = boxes_to_quads(box[None])[0].numpy().astype(np.float32)
        (cx, cy), (w, h), angle_deg = cv2.minAreaRect(quad)
        row = torch.tensor([[cx, cy, w, h, math.radians(angle_deg)]], dtype=torch.float64)
        assert same_corners(oc_to_boxes(row), box[None], tolerance=1e-3)


def test_gradients_flow() -> None:
    boxes = boxes_at_all_angles().requires_grad_()
    for there, back in ROUND_TRIPS:
        assert torch.autograd.grad(back(there(boxes)).sum(), boxes)[0].abs().sum() > 0


def test_other_shapes_and_types_are_refused() -> None:
    for function in (boxes_to_le135, boxes_to_oc, le135_to_boxes, oc_to_boxes):
        with pytest.raises(ValueError, match="expected shape"):
            function(torch.zeros(3, 4))
        with pytest.raises(TypeError, match="floating point"):
            function(torch.zeros(3, 5, dtype=torch.int64))
