"""The coder of anchor-based heads: boxes as shifts and stretches of anchors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from tcm_d2.config.registries import PART_REGISTRY
from tcm_d2.structures.angles import canonicalize_boxes, wrap_angle_deg

# A side changes by at most this factor either way, so that exp cannot overflow (source's value).
MAX_SIDE_RATIO = 1000 / 16


@PART_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class DeltaBoxCoder:
    """Encode a box as (dx, dy, dw, dh, da) relative to an anchor.

    The centre's shift is measured along the anchor's own axes, in units of its sides; dw and dh are
    logarithms of the ratios of sides; da is the turn in clockwise radians. Of the two ways to name
    the sides of a box, the one with the smaller turn is encoded ("edge swap"). That is the form of
    the published TCM detectors; weights of other detectors may regress in another one, which the
    attributes say.

    Source: mmrotate's DeltaXYWHTRBBoxCoder with means 0 and stds 1; as it stands with le90,
    edge_swap, proj_xy, norm_factor None. Square boxes and anchors need no special case here: naming
    the sides of a square otherwise changes da by a quarter turn, which the edge swap undoes; but
    the angle of a square anchor fixes the axes of dx and dy (see ``AnchorGenerator``).

    Attributes:
        min_angle_deg: clockwise angles of anchors, boxes and turns lie in the half turn from it
            on. An axis at -90 degrees and its opposite at 90 name one rectangle but give shifts of
            opposite sign.
        quarter_from_deg: None, where a box's width is its longer side; else its width is the side
            with a clockwise angle in the quarter turn from this on, and turns do not wrap.
        along_axes: shifts along the anchor's axes, else along x and y (still in units of width and
            height).
        swap_sides: encode whichever way of naming a box's sides turns less.
        turn_unit_rad: unit of da.
    """

    min_angle_deg: float = -90.0
    quarter_from_deg: float | None = None
    along_axes: bool = True
    swap_sides: bool = True
    turn_unit_rad: float = 1.0

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the keys that `from_config` reads; see the attributes."""
        cfg.MODEL.DELTA_CODER = CfgNode(
            {
                "MIN_ANGLE_DEG": cls.min_angle_deg,
                "QUARTER_FROM_DEG": cls.quarter_from_deg,
                "ALONG_AXES": cls.along_axes,
                "SWAP_SIDES": cls.swap_sides,
                "TURN_UNIT_RAD": cls.turn_unit_rad,
            }
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        coder = cfg.MODEL.DELTA_CODER
        return {
            "min_angle_deg": coder.MIN_ANGLE_DEG,
            "quarter_from_deg": coder.QUARTER_FROM_DEG,
            "along_axes": coder.ALONG_AXES,
            "swap_sides": coder.SWAP_SIDES,
            "turn_unit_rad": coder.TURN_UNIT_RAD,
        }

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Return the deltas (R, 5) of each box from its anchor.

        Args:
            anchors: (R, 5) boxes, w and h > 0, pixels.
            boxes: (R, 5) canonical boxes, w and h > 0, same frame.

        Returns:
            (R, 5) dx, dy in anchor sides; dw, dh logarithms; da clockwise, with swapped sides
            within an eighth turn.
        """
        offset_x, offset_y = (boxes[:, :2] - anchors[:, :2]).unbind(dim=1)
        along_w, along_h = offset_x, offset_y
        if self.along_axes:
            cos, sin = self._anchor_axes(anchors)
            along_w = cos * offset_x + sin * offset_y
            along_h = cos * offset_y - sin * offset_x
        width, height, turn_deg = self._sides_and_turn_deg(anchors, boxes)
        return torch.stack(
            [
                along_w / anchors[:, 2],
                along_h / anchors[:, 3],
                (width / anchors[:, 2]).log(),
                (height / anchors[:, 3]).log(),
                torch.deg2rad(turn_deg) / self.turn_unit_rad,
            ],
            dim=1,
        )

    def decode(
        self,
        anchors: Tensor,
        deltas: Tensor,
        *,
        image_size_hw: tuple[int, int] | None = None,
        is_canonical: bool = True,
    ) -> Tensor:
        """Return the canonical boxes (R, 5) that ``deltas`` describe. Gradients flow to ``deltas``.

        Args:
            anchors: (R, 5) boxes, pixels.
            deltas: (R, 5) as from ``encode``; dw and dh are clamped to a factor of 62.5.
            image_size_hw: moves centres outside the image onto its border, to [0, W - 1] and
                [0, H - 1]. The source does so in prediction (not in training); the boxes still
                reach over the border.
            is_canonical: False leaves the width that of the anchor, also where it is shorter.
        """
        dx, dy, dw, dh, turn = deltas.unbind(dim=1)
        along_w, along_h = dx * anchors[:, 2], dy * anchors[:, 3]
        if self.along_axes:
            cos, sin = self._anchor_axes(anchors)
            x = anchors[:, 0] + cos * along_w - sin * along_h
            y = anchors[:, 1] + sin * along_w + cos * along_h
        else:
            x, y = anchors[:, 0] + along_w, anchors[:, 1] + along_h
        if image_size_hw is not None:
            x = x.clamp(min=0, max=image_size_hw[1] - 1)
            y = y.clamp(min=0, max=image_size_hw[0] - 1)
        limit = math.log(MAX_SIDE_RATIO)
        boxes = [
            x,
            y,
            anchors[:, 2] * dw.clamp(-limit, limit).exp(),
            anchors[:, 3] * dh.clamp(-limit, limit).exp(),
            anchors[:, 4] - torch.rad2deg(turn * self.turn_unit_rad),
        ]
        if not is_canonical:
            return torch.stack([*boxes[:4], wrap_angle_deg(boxes[4])], dim=1)
        return canonicalize_boxes(torch.stack(boxes, dim=1))

    def clockwise_rad(self, anchors: Tensor) -> Tensor:
        """Return the clockwise angle (...) of anchors (..., 5), in the range of this form."""
        return torch.deg2rad(self._wrap_deg(-anchors[..., 4]))

    def _anchor_axes(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of the anchors' clockwise angle."""
        angle_rad = self.clockwise_rad(anchors)
        return angle_rad.cos(), angle_rad.sin()

    def _sides_and_turn_deg(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return width, height (R,) of boxes and their clockwise turn from the anchors (R,)."""
        width, height = boxes[:, 2], boxes[:, 3]
        if self.quarter_from_deg is not None:
            # In [0, 180) from there on; one at 90 or more is that of the other side.
            from_deg = (-boxes[:, 4] - self.quarter_from_deg) % 180
            is_width = from_deg < 90
            angle_deg = from_deg % 90 + self.quarter_from_deg
            turn_deg = angle_deg - self._wrap_deg(-anchors[:, 4])
        else:
            # Clockwise turns; angle_deg is counter-clockwise.
            turn_deg = self._wrap_deg(anchors[:, 4] - boxes[:, 4])
            if not self.swap_sides:
                return width, height, turn_deg
            swapped_turn_deg = self._wrap_deg(turn_deg + 90.0)
            is_width = turn_deg.abs() < swapped_turn_deg.abs()
            turn_deg = torch.where(is_width, turn_deg, swapped_turn_deg)
        return torch.where(is_width, width, height), torch.where(is_width, height, width), turn_deg

    def _wrap_deg(self, angle_deg: Tensor) -> Tensor:
        """Return angles moved by whole half turns into the half turn from ``min_angle_deg`` on."""
        middle_deg = self.min_angle_deg + 90.0
        if middle_deg == 0:
            return wrap_angle_deg(angle_deg)
        return wrap_angle_deg(angle_deg - middle_deg) + middle_deg


# Of the published TCM detectors, and of earlier copies of configurations, which name none.
PUBLISHED_CODER = DeltaBoxCoder()
