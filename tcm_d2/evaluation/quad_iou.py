"""Overlaps among many quadrilaterals given as four corner points, in float64.

Semantics of their IoU (tcm_d2.ops.paired_quad_iou) are those of the DOTA devkit's ``polyiou.cpp``:
a quad is its winding-number function, oriented so that its signed area is not negative. For every
simple quad, convex or not, that is the exact area of the intersection; for a self-crossing one it
is what the devkit computes, too.

Deliberate differences from the devkit: no absolute epsilon of 1e-8 (it makes the devkit inexact for
boxes far below a pixel); 0 / 0 for two zero-area quads is 0 and not NaN; an intersection below 0
(possible with self-crossing quads only) is 0. None of the three can turn a match into a miss.

Letters: N pairs, P candidate pairs; quads are (N, 4, 2) x, y points in pixels of any one frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcm_d2 import ops

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Candidate pairs listed at once (about 100 MB of temporaries).
_CANDIDATES_PER_CHUNK = 1_000_000
# Room left to rounding when a pair is dropped because its upright bounds cannot reach the IoU.
_BOUND_SLACK = 1e-9


class QuadPairs(NamedTuple):
    """Pairs of quads and their IoU: ``first`` and ``second`` are (P,) indices, ``iou`` is (P,)."""

    first: IntArray
    second: IntArray
    iou: FloatArray


def signed_area(quads: FloatArray) -> FloatArray:
    """Return the signed areas (N,) of ``quads`` (N, 4, 2) by the shoelace formula.

    Positive where the corners run clockwise on screen (y down).
    """
    rel = quads - quads[:, :1]
    x, y = rel[:, :, 0], rel[:, :, 1]
    cross = x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)
    return np.asarray(0.5 * cross.sum(axis=1), dtype=np.float64)


def quads_to_bounds(quads: FloatArray) -> FloatArray:
    """Return upright bounds (N, 4) as x1, y1, x2, y2 of ``quads`` (N, 4, 2)."""
    return np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)


def paired_quad_iou(quads1: FloatArray, quads2: FloatArray) -> FloatArray:
    """Return the IoU (N,) of ``quads1[i]`` with ``quads2[i]``, both (N, 4, 2).

    The last bit of an IoU doesn't depend on what else is in the arrays.
    """
    iou = ops.paired_quad_iou(_as_tensor(quads1), _as_tensor(quads2))
    return np.asarray(iou.numpy(), dtype=np.float64)


def overlapping_quads(
    quads1: FloatArray,
    quads2: FloatArray,
    *,
    group1: IntArray,
    group2: IntArray,
    min_iou: float,
) -> QuadPairs:
    """List the pairs of one group whose IoU exceeds ``min_iou``, sorted by first, then second.

    Args:
        quads1: (N, 4, 2).
        quads2: (M, 4, 2).
        group1: (N,) group of each quad, for example its image; only equal groups are paired.
        group2: (M,).
        min_iou: in [0, 1); pairs at or below it are left out.
    """
    bounds1, bounds2 = quads_to_bounds(quads1), quads_to_bounds(quads2)
    area1, area2 = np.abs(signed_area(quads1)), np.abs(signed_area(quads2))
    found: list[QuadPairs] = []
    for first, second in _candidates(bounds1, bounds2, group1, group2):
        extent = np.minimum(bounds1[first, 2:], bounds2[second, 2:])
        extent -= np.maximum(bounds1[first, :2], bounds2[second, :2])
        inter_bound = extent[:, 0] * extent[:, 1]
        # iou > t  <=>  inter > t (a1 + a2) / (1 + t), and inter <= inter_bound: |winding| <= 1.
        needed = min_iou / (1 + min_iou) * (area1[first] + area2[second]) * (1 - _BOUND_SLACK)
        keep = (extent > 0).all(axis=1) & (inter_bound >= needed)
        first, second = first[keep], second[keep]
        iou = paired_quad_iou(quads1[first], quads2[second])
        keep = iou > min_iou
        found.append(QuadPairs(first[keep], second[keep], iou[keep]))
    if not found:
        empty = np.empty(0, dtype=np.int64)
        return QuadPairs(empty, empty, np.empty(0, dtype=np.float64))
    pairs = QuadPairs(*(np.concatenate(column) for column in zip(*found)))
    order = np.lexsort((pairs.second, pairs.first))
    return QuadPairs(pairs.first[order], pairs.second[order], pairs.iou[order])


def nms_quads(
    quads: FloatArray, scores: FloatArray, *, group: IntArray, iou_threshold: float
) -> IntArray:
    """Return the indices kept by greedy NMS inside each group, in descending score order.

    A quad is suppressed when its IoU with a kept one of higher score is above ``iou_threshold``
    (strict). Equal scores: the lower index wins; the devkit's ``ResultMerge`` lets the higher one
    win (``argsort()[::-1]``).

    Args:
        quads: (N, 4, 2).
        scores: (N,).
        group: (N,) only quads of one group (image and class) suppress each other.
        iou_threshold: in [0, 1).
    """
    order = np.argsort(-scores, kind="stable")
    quads, group = quads[order], group[order]
    pairs = overlapping_quads(quads, quads, group1=group, group2=group, min_iou=iou_threshold)
    later = pairs.second > pairs.first
    first, second = pairs.first[later], pairs.second[later]
    suppressed = np.zeros(len(quads), dtype=bool)
    suppressors, starts = np.unique(first, return_index=True)
    for index, start, end in zip(suppressors, starts, np.append(starts[1:], len(first))):
        if not suppressed[index]:
            suppressed[second[start:end]] = True
    return np.asarray(order[~suppressed], dtype=np.int64)


def _candidates(
    bounds1: FloatArray, bounds2: FloatArray, group1: IntArray, group2: IntArray
) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield chunks of index pairs that hold every pair of one group overlapping in x.

    Second boxes are sorted by group and left edge. Those reaching a first box have their left edge
    between its left edge minus the widest second box, and its right edge.
    """
    if len(bounds1) == 0 or len(bounds2) == 0:
        return
    left_most = min(bounds1[:, 0].min(), bounds2[:, 0].min())
    widest = (bounds2[:, 2] - bounds2[:, 0]).max()
    reach = max(bounds1[:, 2].max(), bounds2[:, 2].max()) - left_most
    # One number line with the groups side by side; room for the widest box keeps them apart.
    group_pitch = 2.0 * (reach + widest) + 1.0
    slack = np.finfo(np.float64).eps * 4 * group_pitch * (max(group1.max(), group2.max()) + 1.0)
    key1 = group1 * group_pitch + (bounds1[:, 0] - left_most)
    key2 = group2 * group_pitch + (bounds2[:, 0] - left_most)
    order = np.argsort(key2, kind="stable")
    key2 = key2[order]
    begin = np.searchsorted(key2, key1 - widest - slack, side="left")
    end = np.searchsorted(key2, key1 + (bounds1[:, 2] - bounds1[:, 0]) + slack, side="right")
    count = end - begin
    total = np.cumsum(count)
    start = 0
    while start < len(count):
        done = total[start - 1] if start else 0
        stop = int(np.searchsorted(total, done + _CANDIDATES_PER_CHUNK, side="right"))
        stop = max(stop, start + 1)
        num = count[start:stop]
        first = np.repeat(np.arange(start, stop), num)
        offset = np.arange(len(first)) - np.repeat(np.cumsum(num) - num, num)
        second = order[np.repeat(begin[start:stop], num) + offset]
        same = group1[first] == group2[second]
        yield first[same], second[same]
        start = stop


def _as_tensor(quads: FloatArray) -> Tensor:
    """The same numbers as a tensor, copied where torch would not take the array."""
    return torch.from_numpy(np.require(quads, np.float64, ["C_CONTIGUOUS", "WRITEABLE"]))
