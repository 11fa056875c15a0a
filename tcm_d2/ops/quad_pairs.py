"""Overlapping quadrilaterals among many, inside groups such as images: pairs, and greedy NMS.

For evaluation and merging on the CPU; both work in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.ops import _library  # noqa: F401  (declares torch.ops.tcm_d2)
from tcm_d2.ops._arguments import (
    check_floating,
    check_iou_threshold,
    check_quads,
    check_same_device,
    check_vector,
)


class QuadPairs(NamedTuple):
    """Pairs of quads and their IoU: ``first`` and ``second`` (P,) int64, ``iou`` (P,) float64."""

    first: Tensor
    second: Tensor
    iou: Tensor


def overlapping_quads(
    quads1: Tensor, quads2: Tensor, *, group1: Tensor, group2: Tensor, min_iou: float
) -> QuadPairs:
    """List the pairs of one group whose IoU exceeds ``min_iou``, sorted by first, then second.

    The IoU is that of quad_iou. Its last bit depends on the pair only, not on what else there is.

    Args:
        quads1: (N, 4, 2) corners x, y, floating point. Those with a corner that is not finite have
            no pair.
        quads2: (M, 4, 2), likewise.
        group1: (N,) integers of any value; only quads of equal groups are paired.
        group2: (M,).
        min_iou: in [0, 1]; pairs at or below it are left out.

    Raises:
        TypeError: quads are not floating point, groups not integer.
        ValueError: wrong shapes, different devices, ``min_iou`` outside [0, 1].
    """
    quads1, group1 = _check_grouped("quads1", quads1, "group1", group1)
    quads2, group2 = _check_grouped("quads2", quads2, "group2", group2)
    check_same_device(quads1=quads1, quads2=quads2, group1=group1, group2=group2)
    return QuadPairs(
        *torch.ops.tcm_d2.overlapping_quads(
            quads1, quads2, group1, group2, check_iou_threshold(min_iou)
        )
    )


def nms_quads(quads: Tensor, scores: Tensor, *, group: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices kept by greedy NMS inside each group, in descending score order.

    A quad is suppressed when its IoU with a kept one of higher score is above the threshold
    (strict). Equal scores: the lower index wins.

    Args:
        quads: (N, 4, 2) corners x, y, floating point. Those with a corner that is not finite are
            kept.
        scores: (N,) floating point.
        group: (N,) integers; only quads of one group (image and class) suppress each other.
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices into quads.

    Raises:
        TypeError: quads or scores are not floating point, groups not integer.
        ValueError: wrong shapes, different devices, threshold outside [0, 1].
    """
    quads, group = _check_grouped("quads", quads, "group", group)
    check_vector("scores", scores, num_boxes=quads.shape[0])
    scores = check_floating("scores", scores).detach()
    check_same_device(quads=quads, scores=scores, group=group)
    keep: Tensor = torch.ops.tcm_d2.nms_quads(
        quads, scores, group, check_iou_threshold(iou_threshold)
    )
    return keep


def _check_grouped(
    quads_name: str, quads: Tensor, group_name: str, group: Tensor
) -> tuple[Tensor, Tensor]:
    quads = check_quads(quads_name, quads).detach().double()
    check_vector(group_name, group, num_boxes=quads.shape[0])
    if group.is_floating_point() or group.is_complex() or group.dtype == torch.bool:
        raise TypeError(f"{group_name}: expected an integer tensor, got {group.dtype}")
    return quads, group.to(torch.int64)
