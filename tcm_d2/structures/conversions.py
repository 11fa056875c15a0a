"""Conversions between rotated boxes, corner points, upright boxes and the boxes of other libraries.

Those (le90, le135 and oc, as named by mmrotate) measure theta in radians, clockwise on screen, from
the x axis to the width; they differ in the range of theta and in which side is the width.

Letters: M boxes. Boxes are (M, 5) cx, cy, w, h, angle_deg, counter-clockwise on screen (y down):
the width axis points to (cos a, -sin a), the height axis to (sin a, cos a).
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tcm_d2.ops import minimum_area_boxes
from tcm_d2.structures.angles import (
    canonicalize_boxes,
    check_box_width,
    wrap_angle_deg,
    wrap_angle_rad,
)

ArrayOrTensor = TypeVar("ArrayOrTensor", np.ndarray, Tensor)


def quads_to_boxes(quads: ArrayOrTensor) -> ArrayOrTensor:
    """Return the smallest rectangle around each quadrilateral, in canonical form.

    Corners may come in any order, cross or coincide; see tcm_d2.ops.minimum_area_boxes, which
    serves. Of rectangles of the same area, that along the first side in corner order is taken.

    Args:
        quads: (M, 4, 2) or (M, 8) corner points x, y; array or tensor. Not changed.

    Returns:
        (M, 5) canonical boxes, of the same kind and floating dtype (integers and half precision
        become float32). Corners on one line give a box of height 0, a single point a box of size 0.
        No gradients flow.

    Raises:
        TypeError: neither array nor tensor.
        ValueError: another shape, or a corner that is not finite.
    """
    if isinstance(quads, np.ndarray):
        boxes = quads_to_boxes(torch.from_numpy(np.array(quads, order="C")))
        return boxes.numpy()
    if not isinstance(quads, Tensor):
        raise TypeError(f"quads: expected an array or a tensor, got {type(quads).__name__}")
    if quads.dim() == 2 and quads.shape[1] == 8:
        quads = quads.reshape(-1, 4, 2)
    if quads.dim() != 3 or tuple(quads.shape[1:]) != (4, 2):
        raise ValueError(f"quads: expected shape (M, 4, 2), got {tuple(quads.shape)}")
    dtype = quads.dtype if quads.dtype in (torch.float32, torch.float64) else torch.float32
    points = quads.detach() if quads.dtype == dtype else quads.detach().double()
    if not bool(points.isfinite().all()):
        row = int(torch.nonzero(~points.isfinite().flatten(1).all(dim=1))[0])
        raise ValueError(f"quads: expected finite corners, got {points[row].tolist()} in row {row}")
    boxes = minimum_area_boxes(points)
    # Rounding those of integers to float32 can turn 89.9999999 into 90.
    return boxes if boxes.dtype == dtype else canonicalize_boxes(boxes.to(dtype))


def boxes_to_quads(boxes: Tensor) -> Tensor:
    """Return the corner points of boxes.

    With W = w (cos a, -sin a) and H = h (sin a, cos a) the order is c + W/2 + H/2, c + W/2 - H/2,
    c - W/2 - H/2, c - W/2 + H/2. Gradients flow.

    Args:
        boxes: (M, 5) cx, cy, w, h, angle_deg, floating point.

    Returns:
        (M, 4, 2) points x, y in the frame and dtype of the boxes.

    Raises:
        TypeError: boxes is not a floating point tensor.
        ValueError: the shape is not (..., 5).
    """
    check_box_width("boxes", boxes)
    half_w, half_h = _half_axes(boxes)
    centers = boxes[..., :2]
    corners = [
        centers + half_w + half_h,
        centers + half_w - half_h,
        centers - half_w - half_h,
        centers - half_w + half_h,
    ]
    return torch.stack(corners, dim=-2)


def boxes_to_hboxes(boxes: Tensor) -> Tensor:
    """Return the upright boxes around boxes. Gradients flow.

    Args:
        boxes: (M, 5) cx, cy, w, h, angle_deg, floating point.

    Returns:
        (M, 4) x1, y1, x2, y2 in the frame and dtype of the boxes.

    Raises:
        TypeError: boxes is not a floating point tensor.
        ValueError: the shape is not (..., 5).
    """
    check_box_width("boxes", boxes)
    half_w, half_h = _half_axes(boxes)
    reach = half_w.abs() + half_h.abs()
    return torch.cat([boxes[..., :2] - reach, boxes[..., :2] + reach], dim=-1)


def le90_to_boxes(boxes_le90: Tensor) -> Tensor:
    """Return mmrotate's rotated boxes in this project's canonical form. Gradients flow.

    Args:
        boxes_le90: (M, 5) cx, cy, w, h, theta_rad, clockwise on screen; w < h and any angle are
            taken too (mmrotate's FCOS gives such boxes).

    Returns:
        (M, 5) cx, cy, w, h, angle_deg, canonical; squares keep their angle.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: the shape is not (..., 5).
    """
    check_box_width("boxes_le90", boxes_le90)
    angle_deg = -torch.rad2deg(boxes_le90[..., 4:])
    return canonicalize_boxes(torch.cat([boxes_le90[..., :4], angle_deg], dim=-1))


def boxes_to_le90(boxes: Tensor, *, square_quirk: bool = False) -> Tensor:
    """Return boxes in mmrotate's le90 form. Gradients flow.

    Args:
        boxes: (M, 5) cx, cy, w, h, angle_deg, canonical or not.
        square_quirk: turn squares (w == h) by a quarter, as mmrotate's
            `RotatedBoxes.regularize_boxes('le90')` does: a square at 0 gets theta = -pi/2.

    Returns:
        (M, 5) cx, cy, w, h, theta_rad with w >= h and theta in [-pi/2, pi/2), clockwise.

    Raises:
        TypeError: boxes is not a floating point tensor.
        ValueError: the shape is not (..., 5).
    """
    check_box_width("boxes", boxes)
    cx, cy, w, h, angle_deg = boxes.unbind(dim=-1)
    theta_rad = -torch.deg2rad(wrap_angle_deg(angle_deg))
    swap = w <= h if square_quirk else w < h
    theta_rad = wrap_angle_rad(torch.where(swap, theta_rad + math.pi / 2, theta_rad))
    return torch.stack(
        [cx, cy, torch.where(swap, h, w), torch.where(swap, w, h), theta_rad], dim=-1
    )


def _half_axes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Half the width axis and half the height axis as vectors, each (..., 2)."""
    angle_rad = torch.deg2rad(boxes[..., 4])
    cos, sin = torch.cos(angle_rad), torch.sin(angle_rad)
    half_w = torch.stack([cos, -sin], dim=-1) * (boxes[..., 2:3] / 2)
    half_h = torch.stack([sin, cos], dim=-1) * (boxes[..., 3:4] / 2)
    return half_w, half_h


def le135_to_boxes(boxes_le135: Tensor) -> Tensor:
    """Return le135 boxes (M, 5) cx, cy, w, h, theta_rad in canonical form. Gradients flow.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: the shape is not (..., 5).
    """
    return le90_to_boxes(boxes_le135)


def boxes_to_le135(boxes: Tensor) -> Tensor:
    """Return boxes in le135 form: w >= h, theta_rad in [-pi/4, 3 pi/4). Gradients flow.

    Args:
        boxes: (M, 5) cx, cy, w, h, angle_deg, canonical or not; squares keep their direction.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: the shape is not (..., 5).
    """
    cx, cy, w, h, angle_deg = canonicalize_boxes(boxes).unbind(dim=-1)
    theta_deg = -angle_deg  # in (-90, 90]
    theta_deg = torch.where(theta_deg < -45, theta_deg + 180, theta_deg)
    return torch.stack([cx, cy, w, h, torch.deg2rad(theta_deg)], dim=-1)


def oc_to_boxes(boxes_oc: Tensor) -> Tensor:
    """Return oc boxes (M, 5) cx, cy, w, h, theta_rad in canonical form. Gradients flow.

    Rectangles of ``cv2.minAreaRect`` are of this kind from OpenCV 4.5.1 on, once their degrees are
    turned into radians.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: the shape is not (..., 5).
    """
    return le90_to_boxes(boxes_oc)


def boxes_to_oc(boxes: Tensor) -> Tensor:
    """Return boxes in oc form: theta_rad in (0, pi/2], the width whichever side has that angle.

    Gradients flow.

    Args:
        boxes: (M, 5) cx, cy, w, h, angle_deg, canonical or not.

    Raises:
        TypeError: not a floating point tensor.
        ValueError: the shape is not (..., 5).
    """
    cx, cy, w, h, angle_deg = canonicalize_boxes(boxes).unbind(dim=-1)
    theta_deg = -angle_deg  # in (-90, 90]
    turned = theta_deg <= 0
    theta_deg = torch.where(turned, theta_deg + 90, theta_deg)
    theta_rad = theta_deg * (math.pi / 180)
    return torch.stack(
        [cx, cy, torch.where(turned, h, w), torch.where(turned, w, h), theta_rad], dim=-1
    )
