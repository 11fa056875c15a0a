"""Differentiable IoU of aligned pairs of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops import _library  # noqa: F401  (declares torch.ops.tcm_d2)
from tcm_d2.ops._arguments import check_boxes, check_same_device


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
    boxes1 = check_boxes("boxes1", boxes1)
    boxes2 = check_boxes("boxes2", boxes2)
    if boxes1.shape[0] != boxes2.shape[0]:
        raise ValueError(
            f"boxes2: expected as many boxes as boxes1, {boxes1.shape[0]}, got {boxes2.shape[0]}; "
            "use box_iou_rotated for all pairs"
        )
    check_same_device(boxes1=boxes1, boxes2=boxes2)
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    iou: Tensor = torch.ops.tcm_d2.paired_iou_rotated(boxes1.to(dtype), boxes2.to(dtype))
    return iou
