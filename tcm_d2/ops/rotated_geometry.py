"""Rotated rectangles in plain torch: the formulas of csrc/geometry/rotated.h and its gradient.

The reference implementations are made of them. All arithmetic is float64, and goes the way of the
C++, where the formulas are explained, operation by operation: the results are the same to the last
bit.

Letters: P pairs. A rectangle's axes on screen (y down) are U = (cos, -sin) along its width and
V = (sin, cos) along its height.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Edges closer than this, in float64 roundings of their size, count as one and the same edge.
_COLLINEAR_ULPS = 64
# Much more than the rounding of the exact test, much less than matters for speed.
_SLACK = 1e-9


class Rects(NamedTuple):
    """Prepared boxes, each field (P,) float64; all zero for boxes without a positive area."""

    cx: Tensor
    cy: Tensor
    half_w: Tensor
    half_h: Tensor
    cos: Tensor
    sin: Tensor
    area: Tensor

    def take(self, index: Tensor) -> Rects:
        return Rects(*(field[index] for field in self))

    def radius(self) -> Tensor:
        return torch.hypot(self.half_w, self.half_h)


class _Relative(NamedTuple):
    """Rectangle 1 in the centred frame of rectangle 2, fields (P,)."""

    x: Tensor
    y: Tensor
    cos: Tensor
    sin: Tensor


def prepare_rects(boxes: Tensor) -> Rects:
    boxes = boxes.double()
    area = boxes[:, 2] * boxes[:, 3]
    valid = boxes.isfinite().all(dim=1) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    valid &= (area > 0) & area.isfinite()
    cx, cy, w, h, angle_deg = torch.where(valid[:, None], boxes, 0.0).unbind(dim=1)
    cos, sin = cos_sin_deg(angle_deg)
    return Rects(cx, cy, w / 2, h / 2, cos, sin, w * h)


def cos_sin_deg(angle_deg: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of degrees by Taylor's series, exact at multiples of 90."""
    reduced = torch.where(angle_deg.abs() < 2.0**40, angle_deg, torch.fmod(angle_deg, 360.0))
    quarter = torch.round(reduced / 90.0)
    x = (reduced - 90.0 * quarter) * (math.pi / 180.0)
    z = x * x
    sin = torch.full_like(x, 1.0 / math.factorial(17))
    for n in range(15, 1, -2):
        sin = sin * z + (-1.0) ** ((n - 1) // 2) / math.factorial(n)
    sin = x + x * (z * sin)
    cos = torch.full_like(x, 1.0 / math.factorial(16))
    for n in range(14, 3, -2):
        cos = cos * z + (-1.0) ** (n // 2) / math.factorial(n)
    cos = 1.0 + z * (cos * z - 0.5)
    turn = quarter - 4.0 * torch.round(quarter * 0.25)  # -2 ... 2
    odd = turn.abs() == 1
    flip = (turn == -1) | (turn.abs() == 2)
    cos, sin = torch.where(odd, -sin, cos), torch.where(odd, cos, sin)
    return torch.where(flip, -cos, cos), torch.where(flip, -sin, sin)


def may_overlap(rects1: Rects, rects2: Rects) -> Tensor:
    """Whether the circumscribed circles meet, broadcast; False for boxes without an area.

    The circles are a little larger than needed: what is apart here has an intersection of zero.
    """
    dx, dy = rects1.cx - rects2.cx, rects1.cy - rects2.cy
    reach = (rects1.radius() + rects2.radius()) * (1 + _SLACK)
    return (dx * dx + dy * dy <= reach * reach) & (rects1.area > 0) & (rects2.area > 0)


def overlap(rects1: Rects, rects2: Rects, intersection: Tensor, *, iof: bool) -> Tensor:
    whole = rects1.area if iof else rects1.area + rects2.area - intersection
    return torch.where(intersection > 0, intersection / whole, 0.0).clamp(max=1.0)


def _relative(subject: Rects, window: Rects) -> _Relative:
    dx, dy = subject.cx - window.cx, subject.cy - window.cy
    return _Relative(
        x=dx * window.cos - dy * window.sin,
        y=dx * window.sin + dy * window.cos,
        cos=subject.cos * window.cos + subject.sin * window.sin,
        sin=subject.sin * window.cos - subject.cos * window.sin,
    )


def _larger_first(rects1: Rects, rects2: Rects) -> tuple[Rects, Rects]:
    """Order each pair by its values alone, so that the IoU is symmetric to the last bit."""
    swap = torch.zeros_like(rects1.area, dtype=torch.bool)
    tied = ~swap
    for key in ("area", "cx", "cy", "half_w", "cos", "sin"):
        key1, key2 = getattr(rects1, key), getattr(rects2, key)
        swap |= tied & (key1 < key2)
        tied &= key1 == key2
    first = Rects(*(torch.where(swap, b, a) for a, b in zip(rects1, rects2)))
    second = Rects(*(torch.where(swap, a, b) for a, b in zip(rects1, rects2)))
    return first, second


def intersection_area(rects1: Rects, rects2: Rects) -> Tensor:
    """Area common to aligned pairs, (P,)."""
    subject, window = _larger_first(rects1, rects2)
    frame = _relative(subject, window)
    ux, uy = frame.cos * subject.half_w, -frame.sin * subject.half_w
    vx, vy = frame.sin * subject.half_h, frame.cos * subject.half_h
    x = [frame.x + dx for dx in (ux + vx, ux - vx, -ux - vx, vx - ux)]
    y = [frame.y + dy for dy in (uy + vy, uy - vy, -uy - vy, vy - uy)]
    slopes = (vy / vx, uy / ux)
    total = torch.zeros_like(ux)
    for i in range(4):
        j = (i + 1) % 4
        total = total + _strip_integral(
            x[i], y[i], x[j], y[j], slopes[i % 2], window.half_w, window.half_h
        )
    area = torch.minimum(total.abs().nan_to_num(0.0), window.area)
    # Identical boxes: their area, whatever the rounding.
    same = torch.stack([a == b for a, b in zip(rects1, rects2)]).all(dim=0)
    area = torch.where(same, window.area, area)
    apart = _are_separated(frame, subject, window) | (window.area == 0)
    return torch.where(apart, 0.0, area)


def _are_separated(frame: _Relative, subject: Rects, window: Rects) -> Tensor:
    """Whether a line along one of the four axes separates the pairs (touching counts)."""
    cos, sin = frame.cos.abs(), frame.sin.abs()
    reach_x = window.half_w + (subject.half_w * cos + subject.half_h * sin)
    reach_y = window.half_h + (subject.half_w * sin + subject.half_h * cos)
    reach_u = subject.half_w + (window.half_w * cos + window.half_h * sin)
    reach_v = subject.half_h + (window.half_w * sin + window.half_h * cos)
    along_u = (frame.x * frame.cos - frame.y * frame.sin).abs()
    along_v = (frame.x * frame.sin + frame.y * frame.cos).abs()
    apart = (frame.x.abs() >= reach_x) | (frame.y.abs() >= reach_y)
    return apart | (along_u >= reach_u) | (along_v >= reach_v)


def _share(value: Tensor) -> Tensor:
    """Clamp to [0, 1], NaN to 0."""
    return value.nan_to_num(0.0).clamp(0.0, 1.0)


def _strip_integral(
    x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, slope: Tensor, half_w: Tensor, half_h: Tensor
) -> Tensor:
    """Integral of clamp(y, -half_h, half_h) dx along an edge, over |x| <= half_w."""
    cut0 = torch.clamp(x0, -half_w, half_w)
    cut1 = torch.clamp(x1, -half_w, half_w)
    width = cut1 - cut0
    ya = y0 + (cut0 - x0) * slope
    yb = y1 + (cut1 - x1) * slope
    low, high = torch.minimum(ya, yb), torch.maximum(ya, yb)
    inverse_rise = 1 / (high - low)
    below = _share((-half_h - low) * inverse_rise)
    above = _share((high - half_h) * inverse_rise)
    middle = (1 - below - above).clamp(min=0.0)
    ends = torch.clamp(low, -half_h, half_h) + torch.clamp(high, -half_h, half_h)
    mean = half_h * (above - below) + middle * 0.5 * ends
    return torch.where(width == 0, 0.0, width * mean)


def intersection_grad(subject: Rects, window: Rects) -> tuple[Tensor, ...]:
    """Derivatives (P,) of the common area wrt the subject's cx, cy, w, h, angle_deg."""
    frame = _relative(subject, window)
    inverse_cos, inverse_sin = 1 / frame.cos, 1 / frame.sin
    ux, uy = frame.cos * subject.half_w, -frame.sin * subject.half_w
    vx, vy = frame.sin * subject.half_h, frame.cos * subject.half_h
    # Edges across the width axis run along V, those across the height axis along U.
    along_v = (frame.sin, frame.cos, inverse_sin, inverse_cos, subject.half_h, window)
    along_u = (frame.cos, -frame.sin, inverse_cos, -inverse_sin, subject.half_w, window)
    u_plus = _inside(frame.x + ux, frame.y + uy, *along_v)
    u_minus = _inside(frame.x - ux, frame.y - uy, *along_v)
    v_plus = _inside(frame.x + vx, frame.y + vy, *along_u)
    v_minus = _inside(frame.x - vx, frame.y - vy, *along_u)
    shift_u, shift_v = u_plus[0] - u_minus[0], v_plus[0] - v_minus[0]
    turning = (u_plus[1] - u_minus[1]) - (v_plus[1] - v_minus[1])
    return (
        shift_u * subject.cos + shift_v * subject.sin,
        shift_v * subject.cos - shift_u * subject.sin,
        (u_plus[0] + u_minus[0]) * 0.5,
        (v_plus[0] + v_minus[0]) * 0.5,
        turning * (math.pi / 180.0),
    )


def _inside(
    x: Tensor,
    y: Tensor,
    ex: Tensor,
    ey: Tensor,
    inverse_ex: Tensor,
    inverse_ey: Tensor,
    half_length: Tensor,
    window: Rects,
) -> tuple[Tensor, Tensor]:
    """Length and first moment about its midpoint (x, y) of the part of an edge in the window.

    An edge on the window's border counts half: the mean of the derivatives on both sides.
    """
    eps = torch.finfo(torch.float64).eps
    tolerance = (_COLLINEAR_ULPS * eps) * (half_length + window.half_w + window.half_h)
    low, high = -half_length, half_length
    on_some_border = torch.zeros_like(x, dtype=torch.bool)
    for position, direction, inverse, half_size in (
        (x, ex, inverse_ex, window.half_w),
        (y, ey, inverse_ey, window.half_h),
    ):
        gap = (position.abs() - half_size).abs() + half_length * direction.abs()
        on_border = gap <= tolerance
        on_some_border |= on_border
        s0, s1 = (-half_size - position) * inverse, (half_size - position) * inverse
        parallel = direction == 0
        side = torch.where(position.abs() > half_size, math.inf, -math.inf).to(x)
        enter = torch.where(parallel, side, torch.minimum(s0, s1))
        leave = torch.where(parallel, -side, torch.maximum(s0, s1))
        low = torch.where(on_border, low, torch.maximum(low, enter))
        high = torch.where(on_border, high, torch.minimum(high, leave))
    share = torch.where(on_some_border, 0.5, 1.0)
    length = torch.where(high > low, share * (high - low), 0.0)
    middle = torch.where(high > low, (low + high) * 0.5, 0.0)
    return length, length * middle
