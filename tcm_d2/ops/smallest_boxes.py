"""The smallest rotated boxes around quadrilaterals."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops._arguments import check_quads
from tcm_d2.ops.registration import Operator, register

# The lines through two of the four corners: the sides first, then the diagonals.
_LINE_STARTS = (0, 1, 2, 3, 0, 1)
_LINE_ENDS = (1, 2, 3, 0, 2, 3)
# Rectangles whose areas differ by less, relative to the smallest and to the square of the corners'
# largest distance, are ties: the first side wins.
_AREA_TIE = 1e-9
_FLAT_TIE = 1e-15


def minimum_area_boxes(quads: Tensor) -> Tensor:
    """Return the smallest rotated box around the corners of each quadrilateral.

    A smallest rectangle has a side on an edge of the points' convex hull (Freeman and Shapira,
    1975). Each line through two of the four corners is tried, which covers the hull's edges without
    finding the hull, so corners may come in any order, cross or coincide. Areas that differ by a
    relative 1e-9 tie, and ties go to the first side in corner order.

    Args:
        quads: (M, 4, 2) corners x, y; float32 or float64. float16 and bfloat16 are cast up to
            float32. Computed in float64.

    Returns:
        (M, 5) cx, cy, w, h, angle_deg in the frame of the quads, canonical: w >= h, angle in
        [-90, 90). Corners on one line give h = 0, a single point w = h = 0, a non-finite corner a
        box of NaN. No gradients flow.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: the shape is not (M, 4, 2).
    """
    boxes: Tensor = torch.ops.tcm_d2.minimum_area_boxes(check_quads("quads", quads).detach())
    return boxes


def _reference(quads: Tensor) -> Tensor:
    """Return the (M, 5) smallest rectangles in plain torch."""
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


def _fake(quads: Tensor) -> Tensor:
    return quads.new_empty((quads.shape[0], 5))


register(
    Operator(
        name="minimum_area_boxes",
        schema="(Tensor quads) -> Tensor",
        kernels="quads/smallest_boxes",
        reference=_reference,
        fake=_fake,
    )
)
