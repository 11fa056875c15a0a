"""Slow plain-torch twins of the operators on quadrilaterals: the formulas of csrc/quad_geometry.h.

The arguments are those of torch.ops.tcm_d2.*, already checked by the public wrappers. All
arithmetic is float64.

Letters: P pairs of quads; quads are (N, 4, 2) x, y.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Pairs worked on at a time: 16 edge pairs each, so that the temporaries stay inside the cache.
_MAX_PAIRS = 2048
# Pairs whose bounds are compared at a time, to bound the memory (about 50 bytes a pair).
_MAX_BOUNDS = 1 << 18
# Edges with less horizontal extent than this cover no area that float64 could tell from zero.
_VERTICAL_EXTENT = 1e-30

# The lines through two of the four corners: the sides first, then the diagonals.
_LINE_STARTS = (0, 1, 2, 3, 0, 1)
_LINE_ENDS = (1, 2, 3, 0, 2, 3)
# Rectangles whose areas differ by less, relative to the smallest and to the square of the corners'
# largest distance, are ties: the first side wins.
_AREA_TIE = 1e-9
_FLAT_TIE = 1e-15


def quad_iou(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Return the (N, M) IoU; see tcm_d2.ops.quad_iou."""
    iou = quads1.new_zeros((quads1.shape[0], quads2.shape[0]))
    if iou.numel() == 0:
        return iou
    bounds1, bounds2 = _bounds(quads1), _bounds(quads2)
    rows_per_chunk = max(1, _MAX_BOUNDS // quads2.shape[0])
    for start in range(0, quads1.shape[0], rows_per_chunk):
        rows = bounds1[start : start + rows_per_chunk, None]
        row, column = torch.nonzero(_bounds_overlap(rows, bounds2), as_tuple=True)
        row = row + start
        iou[row, column] = paired_quad_iou(quads1[row], quads2[column])
    return iou


def paired_quad_iou(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Return the (P,) IoU of aligned pairs; see tcm_d2.ops.paired_quad_iou."""
    iou = quads1.new_empty((quads1.shape[0],))
    for start in range(0, quads1.shape[0], _MAX_PAIRS):
        chunk = slice(start, start + _MAX_PAIRS)
        one, two = quads1[chunk].double(), quads2[chunk].double()
        area1, area2 = _signed_area(one), _signed_area(two)
        base = torch.minimum(one[..., 1].amin(dim=1), two[..., 1].amin(dim=1))
        common = _integrate_lower(_edges(one, base, area1), _edges(two, base, area2))
        value = common / (area1.abs() + area2.abs() - common)
        counts = (common > 0) & value.isfinite() & _bounds_overlap(_bounds(one), _bounds(two))
        iou[chunk] = torch.where(counts, value, 0.0).to(iou.dtype)
    return iou


def minimum_area_boxes(quads: Tensor) -> Tensor:
    """Return the (M, 5) smallest rectangles; see tcm_d2.ops.minimum_area_boxes."""
    points = quads.double()
    origin = (points / 4).sum(dim=1, keepdim=True)
    points = points - origin
    lines = points[:, _LINE_ENDS] - points[:, _LINE_STARTS]  # (M, 6, 2)
    lengths = torch.hypot(lines[..., 0], lines[..., 1])
    # A point of no extent has no direction: take the x axis, which encloses like any other.
    ux = torch.where(lengths > 0, lines[..., 0] / lengths, 1.0)  # (M, 6)
    uy = torch.where(lengths > 0, lines[..., 1] / lengths, 0.0)
    x, y = points[..., 0, None], points[..., 1, None]  # (M, 4, 1)
    along, across = x * ux[:, None] + y * uy[:, None], y * ux[:, None] - x * uy[:, None]
    low_u, high_u = along.amin(dim=1), along.amax(dim=1)  # (M, 6)
    low_v, high_v = across.amin(dim=1), across.amax(dim=1)
    areas = (high_u - low_u) * (high_v - low_v)
    longest = lengths.amax(dim=1, keepdim=True)
    enough = areas.amin(dim=1, keepdim=True) * (1 + _AREA_TIE) + _FLAT_TIE * longest * longest
    best = (areas <= enough).to(torch.uint8).argmax(dim=1, keepdim=True)  # the first one

    def pick(values: Tensor) -> Tensor:
        return values.gather(1, best).squeeze(1)

    ux, uy = pick(ux), pick(uy)
    middle_u, middle_v = pick((low_u + high_u) / 2), pick((low_v + high_v) / 2)
    cx = origin[:, 0, 0] + (middle_u * ux - middle_v * uy)
    cy = origin[:, 0, 1] + (middle_u * uy + middle_v * ux)
    length_u, length_v = pick(high_u - low_u), pick(high_v - low_v)
    w, h = torch.maximum(length_u, length_v), torch.minimum(length_u, length_v)
    angle_deg = _half_turn_deg(ux, uy, turn=length_u < length_v)
    boxes = torch.stack([cx, cy, w, h, angle_deg], dim=1).to(quads.dtype)
    # Rounding to float32 can turn 89.9999999 into 90.
    boxes[:, 4] = torch.where(boxes[:, 4] >= 90, boxes[:, 4] - 180, boxes[:, 4])
    finite = origin.isfinite().all(dim=2)
    return torch.where(finite, boxes, float("nan"))


def _half_turn_deg(ux: Tensor, uy: Tensor, *, turn: Tensor) -> Tensor:
    """Angle in [-90, 90) of the axis (ux, uy), turned by a quarter where asked for."""
    ux, uy = torch.where(turn, -uy, ux), torch.where(turn, ux, uy)
    flip = (ux < 0) | ((ux == 0) & (uy < 0))
    ux, uy = torch.where(flip, -ux, ux), torch.where(flip, -uy, uy)
    return torch.rad2deg(torch.atan2(0.0 - uy, ux))


def _bounds(quads: Tensor) -> Tensor:
    """Upright bounds (N, 4) as x1, y1, x2, y2."""
    return torch.cat([quads.amin(dim=1), quads.amax(dim=1)], dim=1)


def _bounds_overlap(bounds1: Tensor, bounds2: Tensor) -> Tensor:
    low = torch.maximum(bounds1[..., :2], bounds2[..., :2])
    high = torch.minimum(bounds1[..., 2:], bounds2[..., 2:])
    return (high > low).all(dim=-1)


def _signed_area(quads: Tensor) -> Tensor:
    x, y = (quads - quads[:, :1]).unbind(dim=2)  # (P, 4)
    cross = x * y.roll(-1, 1) - y * x.roll(-1, 1)
    return 0.5 * _sum_in_order(cross.unbind(dim=1))


def _sum_in_order(terms: tuple[Tensor, ...]) -> Tensor:
    """Sum one after the other: the last bit must not depend on how many pairs share a chunk."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class _Edges(NamedTuple):
    """Edges of quads as lines over x, each (4, P): y(x) = height + slope * (x - left)."""

    left: Tensor
    right: Tensor
    height: Tensor
    slope: Tensor
    sign: Tensor


def _edges(quads: Tensor, base: Tensor, area: Tensor) -> _Edges:
    x0, y0 = quads[..., 0].t().contiguous(), quads[..., 1].t() - base  # (4, P)
    x1, y1 = x0.roll(-1, 0), y0.roll(-1, 0)
    run = x1 - x0
    vertical = run.abs() < _VERTICAL_EXTENT
    slope = (y1 - y0) / torch.where(vertical, 1.0, run)
    sign = torch.where(vertical, 0.0, run.sign()) * torch.where(area < 0, -1.0, 1.0)
    forward = run >= 0
    return _Edges(
        left=torch.where(forward, x0, x1),
        right=torch.where(forward, x1, x0),
        height=torch.where(forward, y0, y1),
        slope=torch.where(vertical, 0.0, slope),
        sign=sign,
    )


def _integrate_lower(edges1: _Edges, edges2: _Edges) -> Tensor:
    """Sum over edge pairs the signed integral (P,) of the lower line over the shared x range."""
    one = _Edges(*(column[:, None] for column in edges1))  # (4, 1, P)
    two = _Edges(*(column[None] for column in edges2))  # (1, 4, P)
    low = torch.maximum(one.left, two.left)  # (4, 4, P)
    width = (torch.minimum(one.right, two.right) - low).clamp(min=0.0)
    y1_low = one.height + one.slope * (low - one.left)
    y2_low = two.height + two.slope * (low - two.left)
    y1_high = y1_low + one.slope * width
    y2_high = y2_low + two.slope * width
    gap_low, gap_high = y1_low - y2_low, y1_high - y2_high
    # Mean of |gap|, a line that may change its sign once.
    gap_sum = gap_low.abs() + gap_high.abs()
    crossing = gap_low * gap_high < 0
    squares = gap_low * gap_low + gap_high * gap_high
    mean_gap = 0.5 * torch.where(crossing, squares / torch.where(crossing, gap_sum, 1.0), gap_sum)
    mean_lower = 0.25 * (y1_low + y1_high + y2_low + y2_high) - 0.5 * mean_gap
    terms = one.sign * two.sign * width * mean_lower
    return _sum_in_order(terms.flatten(0, 1).unbind(dim=0))
