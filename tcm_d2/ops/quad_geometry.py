"""Quadrilaterals in plain torch: the formulas of csrc/geometry/quad.h.

The reference implementations are made of them. All arithmetic is float64.

Letters: P pairs of quads; quads are (N, 4, 2) x, y.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Edges with less horizontal extent than this cover no area that float64 could tell from zero.
_VERTICAL_EXTENT = 1e-30


def bounds_of(quads: Tensor) -> Tensor:
    """Upright bounds (N, 4) as x1, y1, x2, y2."""
    return torch.cat([quads.amin(dim=1), quads.amax(dim=1)], dim=1)


def bounds_overlap(bounds1: Tensor, bounds2: Tensor) -> Tensor:
    low = torch.maximum(bounds1[..., :2], bounds2[..., :2])
    high = torch.minimum(bounds1[..., 2:], bounds2[..., 2:])
    return (high > low).all(dim=-1)


def signed_area(quads: Tensor) -> Tensor:
    x, y = (quads - quads[:, :1]).unbind(dim=2)  # (P, 4)
    cross = x * y.roll(-1, 1) - y * x.roll(-1, 1)
    return 0.5 * _sum_in_order(cross.unbind(dim=1))


def common_area(quads1: Tensor, quads2: Tensor, area1: Tensor, area2: Tensor) -> Tensor:
    """Area (P,) common to aligned pairs of quads with these signed areas."""
    base = torch.minimum(quads1[..., 1].amin(dim=1), quads2[..., 1].amin(dim=1))
    return _integrate_lower(_edges(quads1, base, area1), _edges(quads2, base, area2))


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
