"""Points in rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops._arguments import check_boxes, check_points, check_same_device
from tcm_d2.ops.registration import Operator, register
from tcm_d2.ops.rotated_geometry import prepare_rects

# Tests that the reference implementation does at a time, to bound its memory (about 50 bytes each).
_MAX_TESTS = 1 << 18


def points_in_rotated_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Return which points lie in which boxes; the border belongs to a box.

    Computed in float64 whatever the input dtype, so that a point on the border of a box turned by a
    multiple of 90 degrees is inside to the bit. Nothing but the result grows with P x M.

    Args:
        points: (P, 2) x, y in the frame of the boxes; float32 or float64. float16 and bfloat16 are
            cast up to float32.
        boxes: (M, 5) cx, cy, w, h, angle_deg, likewise.

    Returns:
        (P, M) bool. Boxes without a positive area, and boxes and points with a non-finite number,
        give False.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, tensors on different devices.
    """
    points = check_points("points", points)
    boxes = check_boxes("boxes", boxes)
    check_same_device(points=points, boxes=boxes)
    dtype = torch.promote_types(points.dtype, boxes.dtype)
    inside: Tensor = torch.ops.tcm_d2.points_in_rotated_boxes(
        points.detach().to(dtype), boxes.detach().to(dtype)
    )
    return inside


def _reference(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the (P, M) bool of points in boxes in plain torch."""
    rects = prepare_rects(boxes)
    has_area = rects.area > 0
    half_w = torch.where(has_area, rects.half_w, -1.0)  # no distance is within
    half_h = torch.where(has_area, rects.half_h, -1.0)
    inside = points.new_empty((points.shape[0], boxes.shape[0]), dtype=torch.bool)
    points_per_chunk = max(1, _MAX_TESTS // max(1, boxes.shape[0]))
    for start in range(0, points.shape[0], points_per_chunk):
        chunk = points[start : start + points_per_chunk, :, None].double()
        dx, dy = chunk[:, 0] - rects.cx, chunk[:, 1] - rects.cy
        along_w = (dx * rects.cos - dy * rects.sin).abs()
        along_h = (dx * rects.sin + dy * rects.cos).abs()
        inside[start : start + points_per_chunk] = (along_w <= half_w) & (along_h <= half_h)
    return inside


def _fake(points: Tensor, boxes: Tensor) -> Tensor:
    return boxes.new_empty((points.shape[0], boxes.shape[0]), dtype=torch.bool)


register(
    Operator(
        name="points_in_rotated_boxes",
        schema="(Tensor points, Tensor boxes) -> Tensor",
        kernels="boxes/points",
        reference=_reference,
        fake=_fake,
    )
)
