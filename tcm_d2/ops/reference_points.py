"""Slow plain-torch twin of points_in_rotated_boxes: the formula of csrc/cpu/points_cpu.cpp.

The arguments are those of torch.ops.tcm_d2.*, already checked by the public wrapper. All arithmetic
is float64.

Letters: P points, M boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops.reference import _prepare

# Tests done at a time, to bound the memory (about 50 bytes a test).
_MAX_TESTS = 1 << 18


def points_in_rotated_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the (P, M) bool of points in boxes; see tcm_d2.ops.points_in_rotated_boxes."""
    rects = _prepare(boxes)
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
