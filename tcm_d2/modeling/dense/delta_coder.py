"""The coder of anchor-based heads: boxes as shifts and stretches of anchors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcm_d2.structures.angles import canonicalize_boxes, wrap_angle_deg

# A side changes by at most this factor either way, so that exp cannot overflow (source's value).
MAX_SIDE_RATIO = 1000 / 16


class DeltaBoxCoder:
    """Encode a box as (dx, dy, dw, dh, da) relative to an anchor.

    The centre's shift is measured along the anchor's own axes, in units of its sides; dw and dh are
    logarithms of the ratios of sides; da is the turn in clockwise radians. Of the two ways to name
    the sides of a box, the one with the smaller turn is encoded ("edge swap").

    Source: mmrotate's DeltaXYWHTRBBoxCoder with le90, edge_swap, proj_xy, norm_factor None, means 0
    and stds 1. Square boxes and anchors need no special case here: naming the sides of a square
    otherwise changes da by a quarter turn, which the edge swap undoes; but the angle of a square
    anchor fixes the axes of dx and dy (see ``AnchorGenerator``).
    """

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Return the deltas (R, 5) of each box from its anchor.

        Args:
            anchors: (R, 5) boxes, w and h > 0, pixels.
            boxes: (R, 5) canonical boxes, w and h > 0, same frame.

        Returns:
            (R, 5) dx, dy in anchor sides; dw, dh logarithms; da clockwise radians within
            [-pi/4, pi/4].
        """
        offset_x, offset_y = (boxes[:, :2] - anchors[:, :2]).unbind(dim=1)
        cos, sin = _anchor_axes(anchors)
        # Clockwise turns; angle_deg is counter-clockwise.
        turn_deg = wrap_angle_deg(anchors[:, 4] - boxes[:, 4])
        swapped_turn_deg = wrap_angle_deg(turn_deg + 90.0)
        keep = turn_deg.abs() < swapped_turn_deg.abs()
        width = torch.where(keep, boxes[:, 2], boxes[:, 3])
        height = torch.where(keep, boxes[:, 3], boxes[:, 2])
        return torch.stack(
            [
                (cos * offset_x + sin * offset_y) / anchors[:, 2],
                (cos * offset_y - sin * offset_x) / anchors[:, 3],
                (width / anchors[:, 2]).log(),
                (height / anchors[:, 3]).log(),
                torch.deg2rad(torch.where(keep, turn_deg, swapped_turn_deg)),
            ],
            dim=1,
        )

    def decode(
        self, anchors: Tensor, deltas: Tensor, *, image_size_hw: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the canonical boxes (R, 5) that ``deltas`` describe. Gradients flow to ``deltas``.

        Args:
            anchors: (R, 5) boxes, pixels.
            deltas: (R, 5) as from ``encode``; dw and dh are clamped to a factor of 62.5.
            image_size_hw: moves centres outside the image onto its border, to [0, W - 1] and
                [0, H - 1]. The source does so in prediction (not in training); the boxes still
                reach over the border.
        """
        dx, dy, dw, dh, turn_rad = deltas.unbind(dim=1)
        cos, sin = _anchor_axes(anchors)
        along_w, along_h = dx * anchors[:, 2], dy * anchors[:, 3]
        x = anchors[:, 0] + cos * along_w - sin * along_h
        y = anchors[:, 1] + sin * along_w + cos * along_h
        if image_size_hw is not None:
            x = x.clamp(min=0, max=image_size_hw[1] - 1)
            y = y.clamp(min=0, max=image_size_hw[0] - 1)
        limit = math.log(MAX_SIDE_RATIO)
        boxes = [
            x,
            y,
            anchors[:, 2] * dw.clamp(-limit, limit).exp(),
            anchors[:, 3] * dh.clamp(-limit, limit).exp(),
            anchors[:, 4] - torch.rad2deg(turn_rad),
        ]
        return canonicalize_boxes(torch.stack(boxes, dim=1))


def _anchor_axes(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the anchors' clockwise angle in [-pi/2, pi/2).

    The range matters: an axis at -90 degrees and its opposite at 90 name one rectangle but give
    shifts of opposite sign.
    """
    angle_rad = torch.deg2rad(wrap_angle_deg(-anchors[:, 4]))
    return angle_rad.cos(), angle_rad.sin()
