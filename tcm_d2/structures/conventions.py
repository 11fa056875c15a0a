"""The other angle conventions in use: le135 and oc, as named by mmrotate; le90 is in conversions.

All three measure theta in radians, clockwise on screen (y down), from the x axis to the width. They
differ in the range of theta and in which side is the width; this project's form is degrees,
counter-clockwise, w >= h, [-90, 90). Letters: M boxes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcm_d2.structures.angles import canonicalize_boxes
from tcm_d2.structures.conversions import le90_to_boxes


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
