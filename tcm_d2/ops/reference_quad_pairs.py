"""Plain-torch twins of the operators on groups of quadrilaterals.

The arguments are those of torch.ops.tcm_d2.*, already checked by the public wrappers.

Letters: N first and M second quads, P candidate pairs; quads are (N, 4, 2) x, y, float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tcm_d2.ops.reference_quads import _bounds, _signed_area, paired_quad_iou

# Candidate pairs listed at once (about 100 MB of temporaries).
_CANDIDATES_PER_CHUNK = 1_000_000
# Room left to rounding when a pair is dropped because its upright bounds cannot reach the IoU.
_BOUND_SLACK = 1e-9


def overlapping_quads(
    quads1: Tensor, quads2: Tensor, group1: Tensor, group2: Tensor, min_iou: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return first, second and IoU of the pairs; see tcm_d2.ops.quad_pairs.overlapping_quads."""
    usable1, usable2 = _usable(quads1), _usable(quads2)
    quads1, quads2 = quads1[usable1], quads2[usable2]
    bounds1, bounds2 = _bounds(quads1), _bounds(quads2)
    area1, area2 = _signed_area(quads1).abs(), _signed_area(quads2).abs()
    firsts, seconds = [usable1[:0]], [usable2[:0]]
    ious = [quads1.new_empty(0)]
    for first, second in _candidates(bounds1, bounds2, group1[usable1], group2[usable2]):
        extent = torch.minimum(bounds1[first, 2:], bounds2[second, 2:])
        extent -= torch.maximum(bounds1[first, :2], bounds2[second, :2])
        # iou > t  <=>  common > t (a1 + a2) / (1 + t), and the common area is within the bounds.
        needed = min_iou / (1 + min_iou) * (area1[first] + area2[second]) * (1 - _BOUND_SLACK)
        near = (extent > 0).all(dim=1) & (extent[:, 0] * extent[:, 1] >= needed)
        first, second = first[near], second[near]
        iou = paired_quad_iou(quads1[first], quads2[second])
        over = iou > min_iou
        firsts.append(usable1[first[over]])
        seconds.append(usable2[second[over]])
        ious.append(iou[over])
    first, second, iou = torch.cat(firsts), torch.cat(seconds), torch.cat(ious)
    order = torch.argsort(second, stable=True)
    order = order[torch.argsort(first[order], stable=True)]
    return first[order], second[order], iou[order]


def nms_quads(quads: Tensor, scores: Tensor, group: Tensor, iou_threshold: float) -> Tensor:
    """Return the kept indices; see tcm_d2.ops.quad_pairs.nms_quads."""
    order = torch.argsort(scores, stable=True, descending=True)
    quads, group = quads[order], group[order]
    first, second, _ = overlapping_quads(quads, quads, group, group, iou_threshold)
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
