"""Rotated non-maximum suppression in numpy alone, for places without torch.

Letters: M boxes, P pairs. Boxes are cx, cy, w, h, angle_deg (counter-clockwise on screen).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
# Pairs whose overlap is computed at a time, to bound the memory (about 1 KiB each).
_MAX_PAIRS = 1 << 16


def nms_rotated(
    boxes: FloatArray, scores: FloatArray, classes: IntArray, *, iou_threshold: float
) -> IntArray:
    """Return the indices kept by greedy suppression within each class, best score first.

    A box is dropped when its IoU with a better one that is kept is greater than the threshold;
    among equal scores the earlier box is the better one.

    Args:
        boxes: (M, 5).
        scores: (M,).
        classes: (M,).
        iou_threshold: in [0, 1).
    """
    order = np.argsort(-scores, kind="stable")
    boxes, classes = np.asarray(boxes, np.float64)[order], classes[order]
    alive = np.ones(len(order), bool)
    for name in np.unique(classes):
        index = np.flatnonzero(classes == name)
        alive[index] = _survivors(boxes[index], iou_threshold)
    return np.asarray(order[alive], dtype=np.int64)


def paired_iou(boxes1: FloatArray, boxes2: FloatArray) -> FloatArray:
    """Return the IoU (P,) of ``boxes1[i]`` with ``boxes2[i]``, both (P, 5); 0 without an area."""
    common = _intersection(boxes1, boxes2)
    whole = boxes1[:, 2] * boxes1[:, 3] + boxes2[:, 2] * boxes2[:, 3] - common
    return np.clip(np.divide(common, whole, out=np.zeros_like(common), where=whole > 0), 0, 1)


def _survivors(boxes: FloatArray, iou_threshold: float) -> NDArray[np.bool_]:
    """Return which boxes of one class, best first, no better survivor suppresses."""
    better, worse = _overlapping_pairs(boxes, iou_threshold)
    starts = np.searchsorted(better, np.arange(len(boxes) + 1))
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if alive[i]:
            alive[worse[starts[i] : starts[i + 1]]] = False
    return alive


def _overlapping_pairs(boxes: FloatArray, iou_threshold: float) -> tuple[IntArray, IntArray]:
    """Return the pairs i < j with an IoU above the threshold, sorted by i."""
    radius = np.hypot(boxes[:, 2], boxes[:, 3]) / 2
    firsts, seconds = [], []
    rows_per_chunk = max(1, 8 * _MAX_PAIRS // max(len(boxes), 1))
    for start in range(0, len(boxes), rows_per_chunk):
        rows = np.arange(start, min(start + rows_per_chunk, len(boxes)))
        offset = boxes[rows, None, :2] - boxes[None, :, :2]
        reach = radius[rows, None] + radius[None]
        near = (offset[..., 0] ** 2 + offset[..., 1] ** 2 < reach**2) & (
            np.arange(len(boxes)) > rows[:, None]
        )
        first, second = np.nonzero(near)
        first += start
        for part in range(0, len(first), _MAX_PAIRS):
            i, j = first[part : part + _MAX_PAIRS], second[part : part + _MAX_PAIRS]
            over = paired_iou(boxes[i], boxes[j]) > iou_threshold
            firsts.append(i[over])
            seconds.append(j[over])
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *firsts]), np.concatenate([empty, *seconds])


def _intersection(boxes1: FloatArray, boxes2: FloatArray) -> FloatArray:
    """Return the common areas (P,).

    In the frame of the second box that one is |x| <= w/2, |y| <= h/2, and the common area is the
    integral over |x| <= w/2 of the first box's height, its outline clamped to |y| <= h/2. Each edge
    of the outline adds the integral of a clamped linear function: three trapezoids. Nothing is
    divided by an edge's extent without limits, and coinciding edges are no special case.
    """
    angle1, angle2 = np.deg2rad(boxes1[:, 4]), np.deg2rad(boxes2[:, 4])
    dx, dy = (boxes1[:, :2] - boxes2[:, :2]).T
    cos, sin = np.cos(angle2), np.sin(angle2)
    # Axes on screen (y down): width (cos, -sin), height (sin, cos).
    x, y = dx * cos - dy * sin, dx * sin + dy * cos
    cos, sin = np.cos(angle1 - angle2), np.sin(angle1 - angle2)
    w, h = boxes1[:, 2] / 2, boxes1[:, 3] / 2
    sign_w, sign_h = np.array([[1, -1, -1, 1], [1, 1, -1, -1]])[:, None]
    corner_x = x[:, None] + sign_w * (w * cos)[:, None] + sign_h * (h * sin)[:, None]  # (P, 4)
    corner_y = y[:, None] - sign_w * (w * sin)[:, None] + sign_h * (h * cos)[:, None]
    end_x, end_y = np.roll(corner_x, -1, axis=1), np.roll(corner_y, -1, axis=1)
    half_w, half_h = boxes2[:, 2:3] / 2, boxes2[:, 3:4] / 2
    first, last = _crossings(corner_x, end_x, -half_w, half_w, 0.0, 1.0)
    low, high = _crossings(corner_y, end_y, -half_h, half_h, first, last)
    t = np.stack([first, low, high, last])
    at_x = corner_x + t * (end_x - corner_x)
    at_y = np.clip(corner_y + t * (end_y - corner_y), -half_h, half_h)
    doubled = ((at_y[1:] + at_y[:-1]) * (at_x[1:] - at_x[:-1])).sum(axis=(0, 2))
    return np.asarray(np.abs(doubled) / 2, dtype=np.float64)


def _crossings(
    start: FloatArray,
    end: FloatArray,
    low: FloatArray,
    high: FloatArray,
    first: FloatArray | float,
    last: FloatArray | float,
) -> tuple[FloatArray, FloatArray]:
    """Return where in [first, last] edges enter and leave a band, (P, 4) each.

    An edge along the band crosses it nowhere: both are ``first``. Outside the band they coincide.
    """
    step = end - start
    flat = step == 0
    divisor = np.where(flat, 1.0, step)
    with np.errstate(over="ignore"):
        one, two = (low - start) / divisor, (high - start) / divisor
    one, two = np.where(flat, first, one), np.where(flat, first, two)
    return (
        np.clip(np.minimum(one, two), first, last),
        np.clip(np.maximum(one, two), first, last),
    )
