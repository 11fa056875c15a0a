"""Differentiable GIoU and DIoU of aligned pairs of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops._arguments import check_aligned_boxes
from tcm_d2.ops._paired import register_paired
from tcm_d2.ops.enclosing_geometry import (
    EnclosedPairs,
    centre_difference,
    chain_corners,
    common_grads,
    enclose_pairs,
    hull_area,
    pair_iou,
    squared_diameter,
    whole_grads,
)


def paired_giou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the generalised IoU of boxes1[i] with boxes2[i], differentiable in both.

    GIoU = IoU - (C - U) / C, with U the area of the union and C that of the convex hull of both
    boxes. The hull is the smallest convex shape around them, as the definition asks for; it turns
    with the boxes and its area has no jumps. For upright boxes others take the smallest upright
    box, which is larger wherever boxes are shifted along a diagonal: values differ there.

    The gradient is analytic, finite everywhere, and not zero for disjoint boxes. At kinks, where
    corners coincide, they share it, so that it is zero for identical boxes.

    Args:
        boxes1: (N, 5) cx, cy, w, h, angle_deg; float32 or float64. float16 and bfloat16 are cast
            up to float32. A negative side counts as zero, and has no gradient.
        boxes2: (N, 5), likewise.

    Returns:
        (N,) in [-1, 1], in the wider dtype of the two (at least float32): 1 for identical boxes of
        positive area, -1 without gradient for boxes with a non-finite number. Two boxes on one line
        or point, whose hull has no area, give 0 without gradient.
        Gradients flow to both (per pixel, and per degree for the angle), once: there is no second
        derivative.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, different lengths, tensors on different devices.

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019 (arXiv 1902.09630),
    algorithm 1. Deliberate difference: none; for rotated boxes many take an enclosing box instead.
    """
    giou: Tensor = torch.ops.tcm_d2.paired_giou_rotated(*check_aligned_boxes(boxes1, boxes2))
    return giou


def paired_diou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the distance IoU of boxes1[i] with boxes2[i], differentiable in both.

    DIoU = IoU - d^2 / c^2, with d the distance of the centres and c the largest distance between
    two corners of the pair, that is, the diameter of their convex hull.

    The gradient is analytic, finite everywhere, and not zero for disjoint boxes. Where several
    distances are the largest it is the mean of theirs.

    Args:
        boxes1: (N, 5) cx, cy, w, h, angle_deg; float32 or float64. float16 and bfloat16 are cast
            up to float32. A negative side counts as zero, and has no gradient.
        boxes2: (N, 5), likewise.

    Returns:
        (N,) in [-1, 1], in the wider dtype of the two (at least float32): 1 for identical boxes of
        positive area, -1 without gradient for boxes with a non-finite number. Two boxes without
        size in one point give 0 without gradient.
        Gradients flow to both (per pixel, and per degree for the angle), once: there is no second
        derivative.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, different lengths, tensors on different devices.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020 (arXiv 1911.08287), equation 7. Deliberate
    difference: c is there the diagonal of the smallest enclosing upright box. It depends on the
    axes, and that of the smallest rotated box jumps where two boxes tie; the diameter does neither.
    For equal upright boxes, shifted, both are the same.
    """
    diou: Tensor = torch.ops.tcm_d2.paired_diou_rotated(*check_aligned_boxes(boxes1, boxes2))
    return diou


def _giou_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (P,) GIoU of aligned pairs in plain torch."""
    pair = enclose_pairs(boxes1, boxes2)
    hull = torch.maximum(hull_area(pair.corners)[0], pair.whole)
    return _finish(pair, (hull - pair.whole) / hull, hull, boxes1.dtype)


def _giou_reference_backward(
    grad_iou: Tensor, boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients (P, 5) wrt both sides of the (P,) GIoU."""
    pair = enclose_pairs(boxes1, boxes2)
    area, (grad_x, grad_y) = hull_area(pair.corners)
    hull = torch.maximum(area, pair.whole)
    grads = chain_corners(pair, grad_x, grad_y)
    share = (pair.whole / hull)[:, None]
    penalties = tuple(
        (share * grad - whole_grad) / hull[:, None]
        for grad, whole_grad in zip(grads, whole_grads(pair))
    )
    return _finish_grads(pair, penalties, hull, grad_iou, boxes1.dtype)


def _diou_reference(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (P,) DIoU of aligned pairs in plain torch."""
    pair = enclose_pairs(boxes1, boxes2)
    diameter2 = squared_diameter(pair).value
    dx, dy = centre_difference(pair)
    return _finish(pair, (dx * dx + dy * dy) / diameter2, diameter2, boxes1.dtype)


def _diou_reference_backward(
    grad_iou: Tensor, boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients (P, 5) wrt both sides of the (P,) DIoU."""
    pair = enclose_pairs(boxes1, boxes2)
    diameter2, grads = squared_diameter(pair)
    dx, dy = centre_difference(pair)
    share = ((dx * dx + dy * dy) / diameter2)[:, None]
    zero = torch.zeros_like(dx)
    step = torch.stack([2 * dx, 2 * dy, zero, zero, zero], dim=1)
    penalties = tuple(
        (sign * step - share * grad) / diameter2[:, None] for sign, grad in zip((1, -1), grads)
    )
    return _finish_grads(pair, penalties, diameter2, grad_iou, boxes1.dtype)


def _finish(pair: EnclosedPairs, penalty: Tensor, size: Tensor, dtype: torch.dtype) -> Tensor:
    value = pair_iou(pair) - torch.where(size > 0, penalty, 0.0)
    counts = pair.finite & (value >= -1)  # NaN doesn't
    return torch.where(counts, value, -1.0).to(dtype)


def _finish_grads(
    pair: EnclosedPairs,
    penalties: tuple[Tensor, ...],
    size: Tensor,
    grad_iou: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    divisor = torch.where(pair.whole > 0, pair.whole, 1.0)[:, None]
    counts = pair.finite & (size > 0) & size.isfinite()
    limit = torch.finfo(dtype).max
    grads = []
    parts = zip(common_grads(pair), whole_grads(pair), penalties)
    for common_grad, whole_grad, penalty in parts:
        grad = (common_grad - pair_iou(pair)[:, None] * whole_grad) / divisor - penalty
        grad = grad_iou.double()[:, None] * grad
        grad = torch.where(counts[:, None] & grad.isfinite(), grad, 0.0)
        grads.append(grad.clamp(-limit, limit).to(dtype))
    return grads[0], grads[1]


register_paired(
    "paired_giou_rotated",
    kernels="boxes/enclosing_iou",
    reference=_giou_reference,
    reference_backward=_giou_reference_backward,
)
register_paired(
    "paired_diou_rotated",
    kernels="boxes/enclosing_iou",
    reference=_diou_reference,
    reference_backward=_diou_reference_backward,
)
