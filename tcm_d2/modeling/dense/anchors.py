"""Locations and anchors of dense heads.

Letters: P locations of one image over all levels, L levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
