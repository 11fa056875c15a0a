"""Differentiable IoU of aligned pairs of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops._arguments import check_aligned_boxes
from tcm_d2.ops._paired import register_paired
from tcm_d2.ops.rotated_geometry import intersection_area, intersection_grad, overlap, prepare_rects


def paired_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the IoU of boxes1[i] with boxes2[i], differentiable in both.

    The gradient is analytic: when a box's edge moves, the intersection grows by the integral of the
    edge's normal speed over the part of the edge that lies inside the other box. It is finite
    everywhere. At kinks it is the mean of the two sides where edges coincide (so it is zero for
    identical boxes), and zero for pairs without a common area (disjoint, touching, zero area,
    non-finite).

    Args:
        boxes1: (N, 5) cx, cy, w, h, angle_deg; float32 or float64. float16 and bfloat16 are cast
            up to float32.
        boxes2: (N, 5), likewise.

    Returns:
        (N,) in [0, 1], in the wider dtype of the two (at least float32).
        Gradients flow to both (per pixel, and per degree for the angle), once: there is no second
        derivative.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, different lengths, tensors on different devices.
    """
    iou: Tensor = torch.ops.tcm_d2.paired_iou_rotated(*check_aligned_boxes(boxes1, boxes2))
    return iou


def _reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (P,) IoU of aligned pairs in plain torch."""
    rects1, rects2 = prepare_rects(boxes1), prepare_rects(boxes2)
    iou = overlap(rects1, rects2, intersection_area(rects1, rects2), iof=False)
    return iou.to(boxes1.dtype)


def _reference_backward(grad_iou: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients (P, 5) wrt both sides of the (P,) IoU, per pixel and per degree."""
    rects1, rects2 = prepare_rects(boxes1), prepare_rects(boxes2)
    common = intersection_area(rects1, rects2)
    scale = grad_iou.double()
    grads = []
    for subject, window in ((rects1, rects2), (rects2, rects1)):
        whole = subject.area + window.area - common
        iou = torch.clamp(common / whole, max=1.0)
        rise = 1 + iou
        cx, cy, w, h, angle_deg = intersection_grad(subject, window)
        dw = rise * w - iou * (subject.half_h + subject.half_h)
        dh = rise * h - iou * (subject.half_w + subject.half_w)
        grad = torch.stack([rise * cx, rise * cy, dw, dh, rise * angle_deg], dim=1)  # (P, 5)
        grad = scale[:, None] * grad / whole[:, None]
        grad = torch.where((common > 0)[:, None] & grad.isfinite(), grad, 0.0)
        limit = torch.finfo(boxes1.dtype).max
        grads.append(grad.clamp(-limit, limit).to(boxes1.dtype))
    return grads[0], grads[1]


register_paired(
    "paired_iou_rotated",
    kernels="boxes/iou",
    reference=_reference,
    reference_backward=_reference_backward,
)
