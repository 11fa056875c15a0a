"""Overlaps among many quadrilaterals given as four corner points, in float64.

Semantics of their IoU (tcm_d2.ops.paired_quad_iou) are those of the DOTA devkit's ``polyiou.cpp``:
a quad is its winding-number function, oriented so that its signed area is not negative. For every
simple quad, convex or not, that is the exact area of the intersection; for a self-crossing one it
is what the devkit computes, too.

Deliberate differences from the devkit: no absolute epsilon of 1e-8 (it makes the devkit inexact for
boxes far below a pixel); 0 / 0 for two zero-area quads is 0 and not NaN; an intersection below 0
(possible with self-crossing quads only) is 0. None of the three can turn a match into a miss.

Letters: N pairs; quads are (N, 4, 2) x, y points in pixels of any one frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tcm_d2 import ops
from tcm_d2.ops import quad_pairs
from tcm_d2.structures.arrays import FloatArray, IntArray


class OverlappingQuads(NamedTuple):
    """Pairs of quads and their IoU: ``first`` and ``second`` are (N,) indices, ``iou`` is (N,)."""

    first: IntArray
    second: IntArray
    iou: FloatArray


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
) -> OverlappingQuads:
    """List the pairs of one group whose IoU exceeds ``min_iou``, sorted by first, then second.

    Args:
        quads1: (N, 4, 2).
        quads2: (M, 4, 2).
        group1: (N,) group of each quad, for example its image; only equal groups are paired.
        group2: (M,).
        min_iou: in [0, 1); pairs at or below it are left out.
    """
    pairs = quad_pairs.overlapping_quads(
        _as_tensor(quads1),
        _as_tensor(quads2),
        group1=_as_index(group1),
        group2=_as_index(group2),
        min_iou=min_iou,
    )
    return OverlappingQuads(*(np.asarray(column.numpy()) for column in pairs))


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
    keep = quad_pairs.nms_quads(
        _as_tensor(quads),
        torch.from_numpy(np.array(scores, np.float64)),
        group=_as_index(group),
        iou_threshold=iou_threshold,
    )
    return np.asarray(keep.numpy(), dtype=np.int64)


def _as_tensor(quads: FloatArray) -> Tensor:
    """The same numbers as a tensor, copied where torch would not take the array."""
    return torch.from_numpy(np.require(quads, np.float64, ["C_CONTIGUOUS", "WRITEABLE"]))


def _as_index(group: IntArray) -> Tensor:
    return torch.from_numpy(np.require(group, np.int64, ["C_CONTIGUOUS", "WRITEABLE"]))
