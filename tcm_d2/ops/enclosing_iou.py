"""Differentiable GIoU and DIoU of aligned pairs of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops import _library  # noqa: F401  (declares torch.ops.tcm_d2)
from tcm_d2.ops._arguments import check_aligned_boxes


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
