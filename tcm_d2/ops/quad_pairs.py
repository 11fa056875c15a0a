"""Overlapping quadrilaterals among many, inside groups such as images: pairs, and greedy NMS.

For evaluation and merging on the CPU; both work in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.ops._arguments import (
    check_floating,
    check_iou_threshold,
    check_quads,
    check_same_device,
    check_vector,
)
from tcm_d2.ops.quad_geometry import bounds_of, signed_area
from tcm_d2.ops.quads_iou import PAIRED_QUAD_IOU
from tcm_d2.ops.registration import Operator, register

# Candidate pairs that the reference implementation lists at once (about 100 MB of temporaries).
_CANDIDATES_PER_CHUNK = 1_000_000
# Room left to rounding when a pair is dropped because its upright bounds cannot reach the IoU.
_BOUND_SLACK = 1e-9


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


def _pairs_reference(
    quads1: Tensor, quads2: Tensor, group1: Tensor, group2: Tensor, min_iou: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return first, second and IoU of the pairs in plain torch."""
    usable1, usable2 = _usable(quads1), _usable(quads2)
    quads1, quads2 = quads1[usable1], quads2[usable2]
    bounds1, bounds2 = bounds_of(quads1), bounds_of(quads2)
    area1, area2 = signed_area(quads1).abs(), signed_area(quads2).abs()
    firsts, seconds = [usable1[:0]], [usable2[:0]]
    ious = [quads1.new_empty(0)]
    for first, second in _candidates(bounds1, bounds2, group1[usable1], group2[usable2]):
        extent = torch.minimum(bounds1[first, 2:], bounds2[second, 2:])
        extent -= torch.maximum(bounds1[first, :2], bounds2[second, :2])
        # iou > t  <=>  common > t (a1 + a2) / (1 + t), and the common area is within the bounds.
        needed = min_iou / (1 + min_iou) * (area1[first] + area2[second]) * (1 - _BOUND_SLACK)
        near = (extent > 0).all(dim=1) & (extent[:, 0] * extent[:, 1] >= needed)
        first, second = first[near], second[near]
        iou = PAIRED_QUAD_IOU.reference(quads1[first], quads2[second])
        over = iou > min_iou
        firsts.append(usable1[first[over]])
        seconds.append(usable2[second[over]])
        ious.append(iou[over])
    first, second, iou = torch.cat(firsts), torch.cat(seconds), torch.cat(ious)
    order = torch.argsort(second, stable=True)
    order = order[torch.argsort(first[order], stable=True)]
    return first[order], second[order], iou[order]


def _nms_reference(quads: Tensor, scores: Tensor, group: Tensor, iou_threshold: float) -> Tensor:
    """Return the kept indices in plain torch."""
    order = torch.argsort(scores, stable=True, descending=True)
    quads, group = quads[order], group[order]
    first, second, _ = _pairs_reference(quads, quads, group, group, iou_threshold)
    later = second > first
    first, second = first[later], second[later]
    suppressors, counts = torch.unique_consecutive(first, return_counts=True)
    suppressed = torch.zeros(len(quads), dtype=torch.bool, device=quads.device)
    for index, targets in zip(suppressors.tolist(), torch.split(second, counts.tolist())):
        if not suppressed[index]:
            suppressed[targets] = True
    return order[~suppressed]


def _usable(quads: Tensor) -> Tensor:
    return torch.nonzero(quads.isfinite().all(dim=2).all(dim=1)).squeeze(1)


def _candidates(
    bounds1: Tensor, bounds2: Tensor, group1: Tensor, group2: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks of index pairs that hold every pair of one group overlapping in x.

    Second quads are sorted by group and left edge. Those reaching a first quad have their left edge
    between its left edge minus the widest second quad, and its right edge.
    """
    if len(bounds1) == 0 or len(bounds2) == 0:
        return
    # Groups of any value, as 0, 1, ... on one number line side by side.
    ranks = torch.unique(torch.cat([group1, group2]), return_inverse=True)[1]
    rank1, rank2 = ranks[: len(group1)], ranks[len(group1) :]
    left_most = torch.minimum(bounds1[:, 0].min(), bounds2[:, 0].min())
    widest = (bounds2[:, 2] - bounds2[:, 0]).max()
    reach = torch.maximum(bounds1[:, 2].max(), bounds2[:, 2].max()) - left_most
    pitch = 2.0 * (reach + widest) + 1.0  # room for the widest keeps the groups apart
    slack = torch.finfo(torch.float64).eps * 4 * pitch * (ranks.max() + 1.0)
    key1 = rank1 * pitch + (bounds1[:, 0] - left_most)
    key2, order = torch.sort(rank2 * pitch + (bounds2[:, 0] - left_most), stable=True)
    begin = torch.searchsorted(key2, key1 - widest - slack)
    end = torch.searchsorted(key2, key1 + (bounds1[:, 2] - bounds1[:, 0]) + slack, right=True)
    count = end - begin
    total = torch.cumsum(count, dim=0)
    start = 0
    while start < len(count):
        done = int(total[start - 1]) if start else 0
        stop = int(torch.searchsorted(total, done + _CANDIDATES_PER_CHUNK, right=True))
        stop = max(stop, start + 1)
        num = count[start:stop]
        first = torch.repeat_interleave(torch.arange(start, stop, device=num.device), num)
        within = torch.arange(len(first), device=num.device)
        within -= torch.repeat_interleave(torch.cumsum(num, dim=0) - num, num)
        second = order[torch.repeat_interleave(begin[start:stop], num) + within]
        same = rank1[first] == rank2[second]
        yield first[same], second[same]
        start = stop


def _fake_overlapping_quads(
    quads1: Tensor, quads2: Tensor, group1: Tensor, group2: Tensor, min_iou: float
) -> tuple[Tensor, Tensor, Tensor]:
    num_pairs = torch.library.get_ctx().new_dynamic_size()
    index = group1.new_empty((num_pairs,))
    return index, index.clone(), quads1.new_empty((num_pairs,))


def _fake_nms_quads(quads: Tensor, scores: Tensor, group: Tensor, iou_threshold: float) -> Tensor:
    return group.new_empty((torch.library.get_ctx().new_dynamic_size(),))


register(
    Operator(
        name="overlapping_quads",
        schema=(
            "(Tensor quads1, Tensor quads2, Tensor group1, Tensor group2, float min_iou)"
            " -> (Tensor, Tensor, Tensor)"
        ),
        kernels="quads/pairs",
        reference=_pairs_reference,
        fake=_fake_overlapping_quads,
        devices=("cpu",),
    )
)
register(
    Operator(
        name="nms_quads",
        schema="(Tensor quads, Tensor scores, Tensor group, float iou_threshold) -> Tensor",
        kernels="quads/pairs",
        reference=_nms_reference,
        fake=_fake_nms_quads,
        devices=("cpu",),
    )
)
