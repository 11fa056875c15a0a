"""Coders: what a head regresses <-> boxes.

The regressed numbers keep the published frame (angles in radians, clockwise on screen, le90), so
that released weights need no change of sign; boxes are (cx, cy, w, h, angle_deg) everywhere else.
This is the only place of the model where radians occur.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.structures.angles import wrap_angle_deg, wrap_angle_rad


class DistanceAnglePointCoder:
    """Encode boxes as distances to the four sides of a turned box, and its angle.

    Source: rotated FCOS of mmrotate (`DistanceAnglePointCoder`, le90).
    """

    def encode(self, points_xy: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the side distances and the angle of each box, seen from its point.

        Args:
            points_xy: (R, 2) locations, in any unit.
            boxes: (R, 5) boxes, same unit and frame.

        Returns:
            (R, 4) distances left, top, right, bottom along the box's own axes, same unit, negative
            where the point lies outside; (R,) angle, clockwise radians in [-pi/2, pi/2).
        """
        angle_rad = -torch.deg2rad(boxes[:, 4])
        cos, sin = angle_rad.cos(), angle_rad.sin()
        offset_x, offset_y = (points_xy - boxes[:, :2]).unbind(dim=1)
        along_w = cos * offset_x + sin * offset_y
        along_h = -sin * offset_x + cos * offset_y
        half_w, half_h = boxes[:, 2] / 2, boxes[:, 3] / 2
        distances = torch.stack(
            [half_w + along_w, half_h + along_h, half_w - along_w, half_h - along_h], dim=1
        )
        return distances, wrap_angle_rad(angle_rad)

    def decode(self, points_xy: Tensor, distances: Tensor, angle_rad: Tensor) -> Tensor:
        """Return the boxes (R, 5) that ``distances`` and ``angle_rad`` describe at ``points_xy``.

        As in the reference only the angle wraps: w < h occurs. Gradients flow to ``distances`` and
        ``angle_rad``.

        Args:
            points_xy: (R, 2) locations.
            distances: (R, 4) left, top, right, bottom, the points' unit, not negative.
            angle_rad: (R,) clockwise radians, any value.
        """
        left, top, right, bottom = distances.unbind(dim=1)
        cos, sin = angle_rad.cos(), angle_rad.sin()
        shift_w, shift_h = (right - left) / 2, (bottom - top) / 2
        return torch.stack(
            [
                points_xy[:, 0] + cos * shift_w - sin * shift_h,
                points_xy[:, 1] + sin * shift_w + cos * shift_h,
                left + right,
                top + bottom,
                wrap_angle_deg(-torch.rad2deg(angle_rad)),
            ],
            dim=1,
        )
