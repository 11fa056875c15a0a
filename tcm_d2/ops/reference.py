"""Slow plain-torch twins of the compiled operators: the same formulas, vectorised.

They serve where the extension is missing and check it where it is not. The arguments are those of
torch.ops.tcm_d2.*, already checked by the public wrappers. All arithmetic is float64.
The formulas are explained in csrc/rotated_geometry.h.

Letters: P pairs. A rectangle's axes on screen (y down) are U = (cos, -sin) along its width and
V = (sin, cos) along its height.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Pairs expanded at a time, to bound the memory of the pairwise operators (about 1 KiB a pair).
_MAX_PAIRS = 1 << 17
# Edges closer than this, in float64 roundings of their size, count as one and the same edge.
_COLLINEAR_ULPS = 64


class _Rects(NamedTuple):
    """Prepared boxes, each field (P,) float64; all zero for boxes without a positive area."""

    cx: Tensor
    cy: Tensor
    half_w: Tensor
    half_h: Tensor
    cos: Tensor
    sin: Tensor
    area: Tensor

    def take(self, index: Tensor) -> _Rects:
        return _Rects(*(field[index] for field in self))

    def radius(self) -> Tensor:
        return torch.hypot(self.half_w, self.half_h)


class _Relative(NamedTuple):
    """Rectangle 1 in the centred frame of rectangle 2, fields (P,)."""

    x: Tensor
    y: Tensor
    cos: Tensor
    sin: Tensor


def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, iof: bool) -> Tensor:
    """Return the (N, M) overlaps; see tcm_d2.ops.box_iou_rotated."""
    overlaps = boxes1.new_zeros((boxes1.shape[0], boxes2.shape[0]))
    if overlaps.numel() == 0:
        return overlaps
    rects1, rects2 = _prepare(boxes1), _prepare(boxes2)
    rows_per_chunk = max(1, _MAX_PAIRS // boxes2.shape[0])
    for start in range(0, boxes1.shape[0], rows_per_chunk):
        chunk = slice(start, start + rows_per_chunk)
        rows = _Rects(*(field[chunk, None] for field in rects1))
        row, column = torch.nonzero(_may_overlap(rows, rects2), as_tuple=True)
        pairs1, pairs2 = rects1.take(row + start), rects2.take(column)
        overlap = _overlap(pairs1, pairs2, _intersection(pairs1, pairs2), iof=iof)
        overlaps[row + start, column] = overlap.to(overlaps.dtype)
    return overlaps


def paired_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (P,) IoU of aligned pairs; see tcm_d2.ops.paired_iou_rotated."""
    rects1, rects2 = _prepare(boxes1), _prepare(boxes2)
    iou = _overlap(rects1, rects2, _intersection(rects1, rects2), iof=False)
    return iou.to(boxes1.dtype)


def paired_iou_rotated_backward(
    grad_iou: Tensor, boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients (P, 5) wrt both sides of the (P,) IoU, per pixel and per degree."""
    rects1, rects2 = _prepare(boxes1), _prepare(boxes2)
    intersection = _intersection(rects1, rects2)
    union = rects1.area + rects2.area - intersection
    iou = _overlap(rects1, rects2, intersection, iof=False)
    grads = []
    for subject, window in ((rects1, rects2), (rects2, rects1)):
        zero = torch.zeros_like(iou)
        area_grad = torch.stack([zero, zero, 2 * subject.half_h, 2 * subject.half_w, zero], dim=1)
        grad = (1 + iou)[:, None] * _intersection_grad(subject, window) - iou[:, None] * area_grad
        grad = grad_iou.double()[:, None] * grad / union[:, None]
        grad = torch.where((intersection > 0)[:, None] & grad.isfinite(), grad, 0.0)
        limit = torch.finfo(boxes1.dtype).max
        grads.append(grad.clamp(-limit, limit).to(boxes1.dtype))
    return grads[0], grads[1]


def nms_rotated(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float
) -> Tensor:
    """Return the (K,) int64 kept indices, best score first; see tcm_d2.ops.nms_rotated."""
    order = torch.argsort(scores, descending=True, stable=True)
    rects = _prepare(boxes).take(order)
    sorted_labels = None if labels is None else labels[order]
    alive = torch.ones_like(order, dtype=torch.bool)
    for i in range(order.numel()):
        if not alive[i]:
            continue
        best = _Rects(*(field[i : i + 1] for field in rects))
        rivals = alive & _may_overlap(best, rects)
        rivals[: i + 1] = False
        if sorted_labels is not None:
            rivals &= sorted_labels == sorted_labels[i]
        index = torch.nonzero(rivals).squeeze(1)
        others = rects.take(index)
        best = _Rects(*(field.expand(index.numel()) for field in best))
        iou = _overlap(best, others, _intersection(best, others), iof=False)
        alive[index[iou > iou_threshold]] = False
    return order[alive]


def _prepare(boxes: Tensor) -> _Rects:
    boxes = boxes.double()
    area = boxes[:, 2] * boxes[:, 3]
    valid = boxes.isfinite().all(dim=1) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    valid &= (area > 0) & area.isfinite()
    cx, cy, w, h, angle_deg = torch.where(valid[:, None], boxes, 0.0).unbind(dim=1)
    cos, sin = _cos_sin_deg(angle_deg)
    return _Rects(cx, cy, w / 2, h / 2, cos, sin, w * h)


def _cos_sin_deg(angle_deg: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of degrees, exact at multiples of 90."""
    reduced = torch.fmod(angle_deg, 360.0)
    quarter = torch.round(reduced / 90.0)
    rest_rad = (reduced - 90.0 * quarter) * (math.pi / 180.0)
    cos, sin = torch.cos(rest_rad), torch.sin(rest_rad)
    quarter = torch.remainder(quarter, 4.0)
    odd = torch.remainder(quarter, 2.0) == 1
    cos, sin = torch.where(odd, -sin, cos), torch.where(odd, cos, sin)
    sign = torch.where(quarter >= 2, -1.0, 1.0)
    return cos * sign, sin * sign


def _may_overlap(rects1: _Rects, rects2: _Rects) -> Tensor:
    """Whether the circumscribed circles meet, broadcast; False for boxes without an area."""
    dx, dy = rects1.cx - rects2.cx, rects1.cy - rects2.cy
    reach = rects1.radius() + rects2.radius()
    return (dx * dx + dy * dy <= reach * reach) & (rects1.area > 0) & (rects2.area > 0)


def _overlap(rects1: _Rects, rects2: _Rects, intersection: Tensor, *, iof: bool) -> Tensor:
    whole = rects1.area if iof else rects1.area + rects2.area - intersection
    return torch.where(intersection > 0, intersection / whole, 0.0).clamp(max=1.0)


def _relative(subject: _Rects, window: _Rects) -> _Relative:
    dx, dy = subject.cx - window.cx, subject.cy - window.cy
    return _Relative(
        x=dx * window.cos - dy * window.sin,
        y=dx * window.sin + dy * window.cos,
        cos=subject.cos * window.cos + subject.sin * window.sin,
        sin=subject.sin * window.cos - subject.cos * window.sin,
    )


def _larger_first(rects1: _Rects, rects2: _Rects) -> tuple[_Rects, _Rects]:
    """Order each pair by its values alone, so that the IoU is symmetric to the last bit."""
    swap = torch.zeros_like(rects1.area, dtype=torch.bool)
    tied = ~swap
    for key in ("area", "cx", "cy", "half_w", "cos", "sin"):
        key1, key2 = getattr(rects1, key), getattr(rects2, key)
        swap |= tied & (key1 < key2)
        tied &= key1 == key2
    first = _Rects(*(torch.where(swap, b, a) for a, b in zip(rects1, rects2)))
    second = _Rects(*(torch.where(swap, a, b) for a, b in zip(rects1, rects2)))
    return first, second


def _intersection(rects1: _Rects, rects2: _Rects) -> Tensor:
    """Area common to aligned pairs, (P,)."""
    subject, window = _larger_first(rects1, rects2)
    frame = _relative(subject, window)
    ux, uy = frame.cos * subject.half_w, -frame.sin * subject.half_w
    vx, vy = frame.sin * subject.half_h, frame.cos * subject.half_h
    x = frame.x + torch.stack([ux + vx, ux - vx, -ux - vx, vx - ux])  # (4, P)
    y = frame.y + torch.stack([uy + vy, uy - vy, -uy - vy, vy - uy])
    strips = _strip_integral(x, y, x.roll(-1, 0), y.roll(-1, 0), window.half_w, window.half_h)
    area = strips.sum(dim=0).abs().nan_to_num(0.0)
    area = torch.minimum(area, window.area)
    # Identical boxes: their area, whatever the rounding.
    same = torch.stack([a == b for a, b in zip(rects1, rects2)]).all(dim=0)
    area = torch.where(same, window.area, area)
    apart = _are_separated(frame, subject, window) | ~_may_overlap(subject, window)
    return torch.where(apart, 0.0, area)


def _are_separated(frame: _Relative, subject: _Rects, window: _Rects) -> Tensor:
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


def _strip_integral(
    x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, half_w: Tensor, half_h: Tensor
) -> Tensor:
    """Integral of clamp(y, -half_h, half_h) dx along an edge, over |x| <= half_w."""
    forward = x0 <= x1
    xl, yl = torch.where(forward, x0, x1), torch.where(forward, y0, y1)
    xr, yr = torch.where(forward, x1, x0), torch.where(forward, y1, y0)
    cut_l = torch.clamp(xl, -half_w, half_w)
    cut_r = torch.clamp(xr, -half_w, half_w)
    width = cut_r - cut_l
    slope = (yr - yl) / torch.where(width > 0, xr - xl, 1.0)
    ya = yl + (cut_l - xl) * slope
    yb = yr + (cut_r - xr) * slope
    low, high = torch.minimum(ya, yb), torch.maximum(ya, yb)
    rise = high - low
    safe_rise = torch.where(rise > 0, rise, 1.0)
    below = torch.where(rise > 0, ((-half_h - low) / safe_rise).clamp(0.0, 1.0), 0.0)
    above = torch.where(rise > 0, ((high - half_h) / safe_rise).clamp(0.0, 1.0), 0.0)
    middle = (1 - below - above).clamp(min=0.0)
    low = torch.clamp(low, -half_h, half_h)
    high = torch.clamp(high, -half_h, half_h)
    mean = half_h * (above - below) + middle * (low + high) / 2
    return torch.where(width > 0, torch.where(forward, width, -width) * mean, 0.0)


def _intersection_grad(subject: _Rects, window: _Rects) -> Tensor:
    """Gradient (P, 5) of the common area wrt the subject's cx, cy, w, h, angle_deg."""
    frame = _relative(subject, window)
    cx = torch.zeros_like(frame.x)
    cy, w, h, angle_rad = (torch.zeros_like(cx) for _ in range(4))
    for sign in (1.0, -1.0):
        # The edge across the width axis: its midpoint in the window's frame, running along V.
        x = frame.x + sign * frame.cos * subject.half_w
        y = frame.y - sign * frame.sin * subject.half_w
        length, moment = _inside(x, y, frame.sin, frame.cos, subject.half_h, window)
        cx, cy = cx + sign * length * subject.cos, cy - sign * length * subject.sin
        w, angle_rad = w + length / 2, angle_rad + sign * moment
        # The edge across the height axis, running along U.
        x = frame.x + sign * frame.sin * subject.half_h
        y = frame.y + sign * frame.cos * subject.half_h
        length, moment = _inside(x, y, frame.cos, -frame.sin, subject.half_w, window)
        cx, cy = cx + sign * length * subject.sin, cy + sign * length * subject.cos
        h, angle_rad = h + length / 2, angle_rad - sign * moment
    return torch.stack([cx, cy, w, h, angle_rad * (math.pi / 180.0)], dim=1)


def _inside(
    x: Tensor, y: Tensor, ex: Tensor, ey: Tensor, half_length: Tensor, window: _Rects
) -> tuple[Tensor, Tensor]:
    """Length and first moment about its midpoint (x, y) of the part of an edge in the window.

    An edge on the window's border counts half: the mean of the derivatives on both sides.
    """
    tolerance = (
        _COLLINEAR_ULPS
        * torch.finfo(torch.float64).eps
        * (half_length + window.half_w + window.half_h)
    )
    low, high = -half_length, half_length
    weight = torch.ones_like(x)
    for position, direction, half_size in ((x, ex, window.half_w), (y, ey, window.half_h)):
        gap = (position.abs() - half_size).abs() + half_length * direction.abs()
        on_border = gap <= tolerance
        weight = torch.where(on_border, 0.5, weight)
        moving = direction != 0
        safe = torch.where(moving, direction, 1.0)
        s0, s1 = (-half_size - position) / safe, (half_size - position) / safe
        entry, leave = torch.minimum(s0, s1), torch.maximum(s0, s1)
        within = position.abs() <= half_size
        infinite = torch.full_like(entry, math.inf)
        entry = torch.where(moving, entry, torch.where(within, -infinite, infinite))
        leave = torch.where(moving, leave, torch.where(within, infinite, -infinite))
        low = torch.where(on_border, low, torch.maximum(low, entry))
        high = torch.where(on_border, high, torch.minimum(high, leave))
    length = torch.where(high > low, high - low, 0.0) * weight
    moment = torch.where(high > low, length * (low + high) / 2, 0.0)
    return length, moment
