"""Quadrilaterals: their IoU, and the smallest rotated boxes around them."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops import _library  # noqa: F401  (declares torch.ops.tcm_d2)
from tcm_d2.ops._arguments import check_quads, check_same_device


def quad_iou(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Return the IoU of every quadrilateral of one set with every one of another.

    A quad is its winding number, turned so that its signed area is not negative: corners may run
    either way round. For simple quads, convex or not, that is the exact area of the intersection,
    computed in float64; for self-crossing ones it is what the DOTA devkit's polyiou computes.

    Args:
        quads1: (N, 4, 2) corners x, y in any one frame; float32 or float64. float16 and bfloat16
            are cast up to float32.
        quads2: (M, 4, 2), likewise.

    Returns:
        (N, M) in the wider dtype of the two (at least float32), in [0, 1] for simple quads; 0 for
        quads without area or with a non-finite corner. No gradients flow.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, tensors on different devices.

    Source: polyiou.cpp of DOTA_devkit. Deliberate differences: no absolute epsilon of 1e-8 (it
    makes the devkit inexact far below a pixel), 0 / 0 is 0, and a negative intersection (possible
    with self-crossing quads only) is 0.
    """
    quads1, quads2 = _check_pair(quads1, quads2)
    iou: Tensor = torch.ops.tcm_d2.quad_iou(quads1, quads2)
    return iou


def paired_quad_iou(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Return the IoU of quads1[i] with quads2[i]; see quad_iou.

    Args:
        quads1: (N, 4, 2) corners x, y, floating point.
        quads2: (N, 4, 2), likewise.

    Returns:
        (N,) in the wider dtype of the two (at least float32). No gradients flow.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, different lengths, tensors on different devices.
    """
    quads1, quads2 = _check_pair(quads1, quads2)
    if quads1.shape[0] != quads2.shape[0]:
        raise ValueError(
            f"quads2: expected as many quads as quads1, {quads1.shape[0]}, got {quads2.shape[0]}; "
            "use quad_iou for all pairs"
        )
    iou: Tensor = torch.ops.tcm_d2.paired_quad_iou(quads1, quads2)
    return iou


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


def _check_pair(quads1: Tensor, quads2: Tensor) -> tuple[Tensor, Tensor]:
    quads1, quads2 = check_quads("quads1", quads1), check_quads("quads2", quads2)
    check_same_device(quads1=quads1, quads2=quads2)
    dtype = torch.promote_types(quads1.dtype, quads2.dtype)
    return quads1.detach().to(dtype), quads2.detach().to(dtype)
