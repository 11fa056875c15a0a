"""The unit policy for angles, and the canonical form of a rotated box.

Outside coders and conversions an angle is in degrees, counter-clockwise on screen (y down), and a
canonical box has w >= h and angle_deg in [-90, 90).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wrap_angle_deg(angle_deg: Tensor) -> Tensor:
    """Return angles moved by whole half turns into [-90, 90).

    Angles already in the range come back unchanged to the bit. Gradients flow.

    Args:
        angle_deg: any shape, degrees.
    """
    return _wrap(angle_deg, 180.0)


def wrap_angle_rad(angle_rad: Tensor) -> Tensor:
    """Return angles moved by whole half turns into [-pi/2, pi/2); for coders only.

    Args:
        angle_rad: any shape, radians.
    """
    return _wrap(angle_rad, math.pi)


def canonicalize_boxes(boxes: Tensor) -> Tensor:
    """Return the same rectangles with w >= h and the angle in [-90, 90).

    Square boxes keep their angle (wrapped). Gradients flow.

    Args:
        boxes: (..., 5) cx, cy, w, h, angle_deg, floating point.

    Raises:
        ValueError: the last dimension is not 5.
    """
    check_box_width("boxes", boxes)
    cx, cy, w, h, angle_deg = boxes.unbind(dim=-1)
    swap = w < h
    return torch.stack(
        [
            cx,
            cy,
            torch.where(swap, h, w),
            torch.where(swap, w, h),
            wrap_angle_deg(torch.where(swap, wrap_angle_deg(angle_deg) + 90.0, angle_deg)),
        ],
        dim=-1,
    )


def check_box_width(name: str, boxes: Tensor) -> None:
    """Check that the last dimension holds 5 numbers of floating dtype.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: another last dimension.
    """
    if not isinstance(boxes, Tensor) or not boxes.is_floating_point():
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"{name}: expected a floating point torch.Tensor, got {got}")
    if boxes.dim() == 0 or boxes.shape[-1] != 5:
        raise ValueError(f"{name}: expected shape (..., 5), got {tuple(boxes.shape)}")


def _wrap(angle: Tensor, period: float) -> Tensor:
    half = period / 2
    wrapped = angle - period * torch.floor((angle + half) / period)
    # Rounding can land on the wrong side of the seam.
    wrapped = torch.where(wrapped >= half, wrapped - period, wrapped)
    return torch.where(wrapped < -half, wrapped + period, wrapped)
