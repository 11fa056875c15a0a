"""What encloses two rotated boxes, in plain torch: the formulas of csrc/geometry/enclosing.h.

The reference implementations of GIoU and DIoU are made of them. All arithmetic is float64.

Letters: P pairs. The corners of a pair are (P, 8), the first box's in 0..3.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.ops.rotated_geometry import (
    Rects,
    cos_sin_deg,
    intersection_area,
    intersection_grad,
    prepare_rects,
)

# Roundings of the hull's size within which corners coincide, corners lie on the border, and
# distances are equal.
_TOLERANCE = 64 * torch.finfo(torch.float64).eps
# Where a box's corners lie along its width and its height axis.
_SIGNS_W = (1.0, 1.0, -1.0, -1.0)
_SIGNS_H = (1.0, -1.0, -1.0, 1.0)


class _Outlines(NamedTuple):
    """Boxes of any finite size, fields (P,); negative sides are zero."""

    cx: Tensor
    cy: Tensor
    w: Tensor
    h: Tensor
    cos: Tensor
    sin: Tensor
    w_grows: Tensor  # whether w changes the box at all
    h_grows: Tensor


class _Corners(NamedTuple):
    """Corners of pairs, x and y (P, 8), in a frame turned by (cos, sin) against the screen."""

    x: Tensor
    y: Tensor
    cos: Tensor
    sin: Tensor


class EnclosedPairs(NamedTuple):
    """The parts of both measures for aligned pairs."""

    outlines: tuple[_Outlines, _Outlines]
    rects: tuple[Rects, Rects]
    corners: _Corners
    common: Tensor  # (P,) areas of the intersection
    whole: Tensor  # (P,) and of the union
    finite: Tensor  # (P,) bool


class Enclosure(NamedTuple):
    """A size of the enclosure (P,), and its derivatives wrt both boxes, (P, 5) each."""

    value: Tensor
    grads: tuple[Tensor, Tensor]


def enclose_pairs(boxes1: Tensor, boxes2: Tensor) -> EnclosedPairs:
    finite = (boxes1.isfinite() & boxes2.isfinite()).all(dim=1)
    outlines = tuple(_outlines(torch.where(finite[:, None], b, 0.0)) for b in (boxes1, boxes2))
    one, two = outlines
    rects = (prepare_rects(boxes1), prepare_rects(boxes2))
    common = intersection_area(*rects)
    whole = one.w * one.h + two.w * two.h - common
    return EnclosedPairs((one, two), rects, _corners(one, two), common, whole, finite)


def pair_iou(pair: EnclosedPairs) -> Tensor:
    return torch.where(pair.common > 0, pair.common / pair.whole, 0.0).clamp(max=1.0)


def centre_difference(pair: EnclosedPairs) -> tuple[Tensor, Tensor]:
    one, two = pair.outlines
    return one.cx - two.cx, one.cy - two.cy


def common_grads(pair: EnclosedPairs) -> tuple[Tensor, Tensor]:
    one, two = pair.rects
    columns = (intersection_grad(one, two), intersection_grad(two, one))
    some = (pair.common > 0)[:, None]
    first, second = (torch.where(some, torch.stack(grad, dim=1), 0.0) for grad in columns)
    return first, second


def whole_grads(pair: EnclosedPairs) -> tuple[Tensor, Tensor]:
    grads = []
    for box, common_grad in zip(pair.outlines, common_grads(pair)):
        zero = torch.zeros_like(box.w)
        w = torch.where(box.w_grows, box.h, 0.0)
        h = torch.where(box.h_grows, box.w, 0.0)
        grads.append(torch.stack([zero, zero, w, h, zero], dim=1) - common_grad)
    return grads[0], grads[1]


def _outlines(boxes: Tensor) -> _Outlines:
    cx, cy, w, h, angle_deg = boxes.double().unbind(dim=1)
    cos, sin = cos_sin_deg(angle_deg)
    return _Outlines(cx, cy, w.clamp(min=0.0), h.clamp(min=0.0), cos, sin, w >= 0, h >= 0)


def _corners(one: _Outlines, two: _Outlines) -> _Corners:
    """Corners of both boxes in the centred frame of the box with the longest side."""
    swap = torch.zeros_like(one.w, dtype=torch.bool)
    tied = ~swap
    longest = (torch.maximum(one.w, one.h), torch.maximum(two.w, two.h))
    keys = [longest] + [(getattr(one, k), getattr(two, k)) for k in ("w", "h", "cx", "cy", "cos")]
    for key1, key2 in [*keys, (one.sin, two.sin)]:
        swap |= tied & (key1 < key2)
        tied &= key1 == key2
    frame = _Outlines(*(torch.where(swap, b, a) for a, b in zip(one, two)))
    other = _Outlines(*(torch.where(swap, a, b) for a, b in zip(one, two)))
    dx, dy = other.cx - frame.cx, other.cy - frame.cy
    x, y = dx * frame.cos - dy * frame.sin, dx * frame.sin + dy * frame.cos
    c = other.cos * frame.cos + other.sin * frame.sin
    s = other.sin * frame.cos - other.cos * frame.sin
    along_w, along_h = one.w.new_tensor(_SIGNS_W) / 2, one.w.new_tensor(_SIGNS_H) / 2
    frame_x, frame_y = along_w * frame.w[:, None], along_h * frame.h[:, None]  # (P, 4)
    reach_x = along_w * (c * other.w)[:, None] + along_h * (s * other.h)[:, None]
    reach_y = along_h * (c * other.h)[:, None] - along_w * (s * other.w)[:, None]
    other_x, other_y = x[:, None] + reach_x, y[:, None] + reach_y
    turned = swap[:, None]
    return _Corners(
        torch.where(
            turned, torch.cat([other_x, frame_x], dim=1), torch.cat([frame_x, other_x], dim=1)
        ),
        torch.where(
            turned, torch.cat([other_y, frame_y], dim=1), torch.cat([frame_y, other_y], dim=1)
        ),
        frame.cos,
        frame.sin,
    )


def chain_corners(pair: EnclosedPairs, grad_x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (P, 5) wrt both boxes from those wrt the corners, (P, 8)."""
    cos, sin = pair.corners.cos[:, None], pair.corners.sin[:, None]
    on_screen_x = grad_x * cos + grad_y * sin
    on_screen_y = grad_y * cos - grad_x * sin
    sign_w, sign_h = cos.new_tensor(_SIGNS_W), cos.new_tensor(_SIGNS_H)
    grads = []
    for box, part in zip(pair.outlines, (slice(0, 4), slice(4, 8))):
        gx, gy = on_screen_x[:, part], on_screen_y[:, part]
        along_w = gx * box.cos[:, None] - gy * box.sin[:, None]
        along_h = gx * box.sin[:, None] + gy * box.cos[:, None]
        angle_rad = sign_h * box.h[:, None] * along_w - sign_w * box.w[:, None] * along_h
        columns = [
            gx.sum(dim=1),
            gy.sum(dim=1),
            torch.where(box.w_grows, (sign_w * along_w).sum(dim=1) / 2, 0.0),
            torch.where(box.h_grows, (sign_h * along_h).sum(dim=1) / 2, 0.0),
            angle_rad.sum(dim=1) / 2 * (math.pi / 180.0),
        ]
        grads.append(torch.stack(columns, dim=1))
    return grads[0], grads[1]


def _scale_to_unit(values: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (P, 8) in [0, 1], those within rounding of an end on it, and their extent."""
    low = values.amin(dim=1, keepdim=True)
    extent = values.amax(dim=1, keepdim=True) - low
    unit = (values - low) / torch.where(extent > 0, extent, 1.0)
    unit = torch.where(unit <= _TOLERANCE, 0.0, unit)
    return torch.where(unit >= 1 - _TOLERANCE, 1.0, unit), extent.squeeze(1)


def hull_area(corners: _Corners) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Area (P,) of the convex hull of the corners, and its derivatives wrt them, (P, 8) each."""
    x, width = _scale_to_unit(corners.x)
    y, height = _scale_to_unit(corners.y)
    hull = _HullWalk(x, y)
    # The lower and the upper corner at x = 0.
    low = torch.where(x > 0, math.inf, y).argmin(dim=1, keepdim=True)
    high = torch.where(x > 0, -math.inf, y).argmax(dim=1, keepdim=True)
    hull.add_edge(high, low)
    low = hull.walk_chain(low, 1.0)
    high = hull.walk_chain(high, -1.0)
    hull.add_edge(low, high)
    flat = ~((width > 0) & (height > 0))
    area = torch.where(flat, 0.0, hull.area * width * height)
    near_x = (x[:, :, None] - x[:, None]).abs() <= _TOLERANCE  # (P, 8, 8)
    near_y = (y[:, :, None] - y[:, None]).abs() <= _TOLERANCE
    share = (near_x & near_y).double()
    share = share / share.sum(dim=2, keepdim=True)
    scale = torch.where(flat, 0.0, 1.0)
    grad_x = (share @ hull.grad_x[:, :, None]).squeeze(2) * (scale * height)[:, None]
    grad_y = (share @ hull.grad_y[:, :, None]).squeeze(2) * (scale * width)[:, None]
    return area, (grad_x, grad_y)


class _HullWalk:
    """Adds up the area left of hull edges, and its derivatives; corners are (P, 8)."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.area = torch.zeros_like(x[:, 0])
        self.grad_x, self.grad_y = torch.zeros_like(x), torch.zeros_like(y)

    def add_edge(self, start: Tensor, end: Tensor) -> None:
        """Add edges between corners (P, 1); equal ends add nothing."""
        width = (self.x.gather(1, start) - self.x.gather(1, end)) / 2
        height = (self.y.gather(1, start) + self.y.gather(1, end)) / 2
        self.grad_x.scatter_add_(1, start, height)
        self.grad_x.scatter_add_(1, end, -height)
        self.grad_y.scatter_add_(1, start, width)
        self.grad_y.scatter_add_(1, end, width)
        self.area = self.area + (2 * width * height).squeeze(1)

    def walk_chain(self, start: Tensor, sign: float) -> Tensor:
        """Add the lower (sign 1) or upper (-1) chain from corners (P, 1); return its end."""
        x, y = self.x, sign * self.y
        for _ in range(x.shape[1] - 1):
            run = x - x.gather(1, start)
            slope = (y - y.gather(1, start)) / torch.where(run > 0, run, 1.0)
            slope = torch.where(run > 0, slope, math.inf)
            # Of equal slopes the farthest, then the outer one.
            best = slope == slope.amin(dim=1, keepdim=True)
            far = torch.where(best, x, -math.inf)
            best &= far == far.amax(dim=1, keepdim=True)
            following = torch.where(best, y, math.inf).argmin(dim=1, keepdim=True)
            following = torch.where((run > 0).any(dim=1, keepdim=True), following, start)
            edge = (start, following) if sign > 0 else (following, start)
            self.add_edge(*edge)
            start = following
        return start


def squared_diameter(pair: EnclosedPairs) -> Enclosure:
    """The largest squared distance between two corners; of equal ones the mean derivative."""
    own1, own2 = (box.w * box.w + box.h * box.h for box in pair.outlines)
    x, y = pair.corners.x, pair.corners.y
    dx, dy = x[:, :4, None] - x[:, None, 4:], y[:, :4, None] - y[:, None, 4:]  # (P, 4, 4)
    across = dx * dx + dy * dy
    largest = torch.maximum(torch.maximum(own1, own2), across.amax(dim=(1, 2)))
    enough = largest * (1 - _TOLERANCE)
    is_largest = across >= enough[:, None, None]
    own_counts = (own1 >= enough, own2 >= enough)
    count = is_largest.sum(dim=(1, 2)) + own_counts[0].long() + own_counts[1].long()
    step_x, step_y = torch.where(is_largest, 2 * dx, 0.0), torch.where(is_largest, 2 * dy, 0.0)
    grad_x = torch.cat([step_x.sum(dim=2), -step_x.sum(dim=1)], dim=1)
    grad_y = torch.cat([step_y.sum(dim=2), -step_y.sum(dim=1)], dim=1)
    grads = []
    for box, counts, grad in zip(pair.outlines, own_counts, chain_corners(pair, grad_x, grad_y)):
        zero = torch.zeros_like(box.w)
        own = torch.stack([zero, zero, 2 * box.w, 2 * box.h, zero], dim=1)
        grad = grad + torch.where(counts[:, None], own, 0.0)
        grads.append(grad / count.clamp(min=1)[:, None])
    return Enclosure(largest, (grads[0], grads[1]))
