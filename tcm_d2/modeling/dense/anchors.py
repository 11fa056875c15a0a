"""Locations and anchors of dense heads.

Letters: P locations of one image over all levels, L levels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor

from tcm_d2.config.registries import PART_REGISTRY

WIDTH_SIDES = ("long", "horizontal", "vertical")


class PointGrid(NamedTuple):
    """The locations a dense head predicts at, all levels of one image in a row.

    Attributes:
        points_xy: (P, 2) centres of the cells, image pixels.
        strides_px: (P,) stride of each location's level.
        level_sizes_hw: grid size (H, W) of each level; a level's points are row-major.
    """

    points_xy: Tensor
    strides_px: Tensor
    level_sizes_hw: list[tuple[int, int]]

    @property
    def level_num_points(self) -> list[int]:
        """Number of locations of each level."""
        return [height * width for height, width in self.level_sizes_hw]


def make_point_grid(
    level_sizes_hw: list[tuple[int, int]], strides_px: list[int], device: torch.device
) -> PointGrid:
    """Return the cell centres ``((x + 0.5) * stride, (y + 0.5) * stride)`` of every level.

    Args:
        level_sizes_hw: grid size of each of the L levels.
        strides_px: stride of each of the L levels.
        device: where the result lives.
    """
    points, strides = [], []
    for (height, width), stride_px in zip(level_sizes_hw, strides_px, strict=True):
        ys = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) * stride_px
        xs = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) * stride_px
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        points.append(torch.stack([grid_x.flatten(), grid_y.flatten()], dim=1))
        strides.append(torch.full((height * width,), float(stride_px), device=device))
    return PointGrid(torch.cat(points), torch.cat(strides), list(level_sizes_hw))


class AnchorGrid(NamedTuple):
    """The anchors of one image, all levels in a row; A anchors per cell, R = P x A in all.

    Within a level, cells are row-major and the A anchors of a cell are adjacent.

    Attributes:
        boxes: (R, 5) float32 boxes at 0 or -90 degrees, image pixels.
        level_sizes_hw: grid size (H, W) of each level.
        strides_px: stride of each level; the anchors of cell (x, y) have their centres at
            (x, y) * stride.
        sides_wh: (L, A, 2) float32 width and height of each level's upright anchors.
    """

    boxes: Tensor
    level_sizes_hw: list[tuple[int, int]]
    strides_px: list[int]
    sides_wh: Tensor

    @property
    def level_num_anchors(self) -> list[int]:
        """Number of anchors of each level."""
        return [height * width * self.sides_wh.shape[1] for height, width in self.level_sizes_hw]


@PART_REGISTRY.register()
class AnchorGenerator:
    """Lay upright anchors over the grid of every level.

    A cell has, for each ratio (height / width) in the given order, ``scales_per_octave`` anchors
    with 2^(i / scales_per_octave) times the base side and the same area for each ratio.

    Which side of an anchor is its width, and with it the axes along which the coder measures, is
    ``width_side``:

    - "long": the longer one (mmrotate 1.x, le90 and le135); a square's is upright.
    - "horizontal": always along x, and the anchor lies at 0 degrees (mmrotate 0.x).
    - "vertical": always along y, at -90 degrees (mmrotate 1.x, oc).

    Habits of the source that are kept, because trained weights depend on them:

    - The anchors of cell (x, y) are centred on its corner (x, y) * stride, not on its middle.
    - With "long" a square anchor is stored turned by -90 degrees. That is the same rectangle, but
      the coder measures shifts along an anchor's own axes.
    - Width and height are float32 differences of corner coordinates. Far from the origin rounding
      makes some squares (sides that are no binary fractions) wider than high, and these lie at 0.

    Source: mmdet's AnchorGenerator and mmrotate's FakeRotatedAnchorGenerator (le90).
    """

    def __init__(
        self,
        *,
        strides_px: list[int],
        base_side_strides: float,
        scales_per_octave: int,
        ratios: list[float],
        width_side: str = "long",
    ) -> None:
        """Args:
        strides_px: stride of each level.
        base_side_strides: side of the smallest square anchor, in strides.
        scales_per_octave: sizes per ratio, >= 1.
        ratios: height / width of the upright anchors.
        width_side: "long", "horizontal" or "vertical"; see the class. Earlier copies of
            configurations do not name it.

        Raises:
            ValueError: a value that is not possible.
        """
        if width_side not in WIDTH_SIDES:
            raise ValueError(
                f"width_side: expected one of {', '.join(WIDTH_SIDES)}, got {width_side!r}"
            )
        if scales_per_octave < 1:
            raise ValueError(f"scales_per_octave: expected >= 1, got {scales_per_octave}")
        if base_side_strides <= 0 or not ratios or min(ratios) <= 0:
            raise ValueError(
                "base_side_strides and ratios: expected positive numbers, got "
                f"{base_side_strides} and {list(ratios)}"
            )
        self.width_side = width_side
        self.strides_px = list(strides_px)
        octave = torch.arange(scales_per_octave, dtype=torch.float64) / scales_per_octave
        sizes = (base_side_strides * 2.0**octave).float()
        height_factors = torch.tensor(ratios, dtype=torch.float32).sqrt()
        # The order of the float32 operations is the source's.
        factors = torch.stack([1 / height_factors, height_factors], dim=1)  # (ratios, 2)
        self._sides_wh = torch.stack(
            [(s * factors[:, None] * sizes[:, None]).flatten(0, 1) for s in self.strides_px]
        )  # (L, A, 2)

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the keys that `from_config` reads."""
        head = cfg.MODEL.ROTATED_HEAD
        # Side of the smallest square anchor in strides; sizes 2^(i / n) per octave; heights /
        # widths. ATSS takes one anchor per cell.
        head.ANCHOR_SIDE_STRIDES = 4.0
        head.ANCHOR_SCALES_PER_OCTAVE = 1
        head.ANCHOR_RATIOS = [1.0]
        # Which side of an anchor is its width: "long", "horizontal" or "vertical".
        head.ANCHOR_WIDTH_SIDE = "long"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        head = cfg.MODEL.ROTATED_HEAD
        return {
            "strides_px": head.STRIDES_PX,
            "base_side_strides": head.ANCHOR_SIDE_STRIDES,
            "scales_per_octave": head.ANCHOR_SCALES_PER_OCTAVE,
            "ratios": head.ANCHOR_RATIOS,
            "width_side": head.ANCHOR_WIDTH_SIDE,
        }

    @property
    def num_anchors(self) -> int:
        """Number of anchors of a cell."""
        return self._sides_wh.shape[1]

    def make_grid(self, level_sizes_hw: list[tuple[int, int]], device: torch.device) -> AnchorGrid:
        """Return the anchors of one image.

        Args:
            level_sizes_hw: grid size of each of the L levels.
            device: where the result lives.
        """
        sides_wh = self._sides_wh.to(device)
        levels = []
        for (height, width), stride_px, sides in zip(
            level_sizes_hw, self.strides_px, sides_wh, strict=True
        ):
            ys = torch.arange(height, dtype=torch.float32, device=device) * stride_px
            xs = torch.arange(width, dtype=torch.float32, device=device) * stride_px
            grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
            corners = torch.stack([grid_x, grid_y], dim=2).flatten(0, 1)[:, None]  # (P, 1, 2)
            low, high = corners - sides / 2, corners + sides / 2  # (P, A, 2)
            levels.append(_upright_boxes(low.flatten(0, 1), high.flatten(0, 1), self.width_side))
        return AnchorGrid(torch.cat(levels), list(level_sizes_hw), self.strides_px, sides_wh)


def _upright_boxes(low: Tensor, high: Tensor, width_side: str) -> Tensor:
    """Return boxes (R, 5) from corners (R, 2), each at 0 or -90 degrees."""
    width, height = (high - low).unbind(dim=1)
    if width_side == "long":
        wide = width > height
    else:
        wide = torch.full_like(width, width_side == "horizontal", dtype=torch.bool)
    return torch.stack(
        [
            *((low + high) / 2).unbind(dim=1),
            torch.where(wide, width, height),
            torch.where(wide, height, width),
            torch.where(wide, 0.0, -90.0),
        ],
        dim=1,
    )
