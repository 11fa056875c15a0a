"""Assigners: which location learns which object.

Letters: N images, P locations of one image, M ground truths over all images.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor

from tcm_d2.config.registries import PART_REGISTRY
from tcm_d2.modeling.dense.anchors import PointGrid


class Assignment(NamedTuple):
    """The positive locations of a batch, in ascending order.

    Attributes:
        location_index: (Q,) int64 image * P + location.
        ground_truth_index: (Q,) int64 row in the concatenated ground truths of the batch.
    """

    location_index: Tensor
    ground_truth_index: Tensor


@PART_REGISTRY.register()
class FCOSAssigner:
    """Assign a location to the smallest box in whose centre region it lies.

    A location is a candidate of a box if it lies strictly inside it, strictly within
    ``center_sampling_radius`` strides of its centre along both of the box's axes, and if its
    largest side distance falls into its level's range (both ends included). Among candidates the
    smallest area wins, then the lower index.

    Only the few cells around each centre are looked at, so time and memory grow with the number
    of objects and not with objects x locations.

    Source: FCOS (arXiv 1904.01355 with its centre sampling), turned as in mmrotate's head.
    """

    def __init__(
        self,
        *,
        strides_px: list[int],
        regress_range_bounds_px: list[float],
        center_sampling_radius: float,
    ) -> None:
        """Args:
        strides_px: stride of each level.
        regress_range_bounds_px: upper end of each level's range but the last's, which is
            infinite; a level begins where the one before ends, the first at -1.
        center_sampling_radius: in strides, > 0.
        """
        if len(regress_range_bounds_px) != len(strides_px) - 1:
            raise ValueError(
                f"regress_range_bounds_px: expected {len(strides_px) - 1} values (one less than "
                f"levels), got {len(regress_range_bounds_px)}"
            )
        if center_sampling_radius <= 0:
            raise ValueError(f"center_sampling_radius: expected > 0, got {center_sampling_radius}")
        self.strides_px = list(strides_px)
        bounds = [-1.0, *map(float, regress_range_bounds_px), math.inf]
        self.regress_ranges_px = list(itertools.pairwise(bounds))
        self.center_sampling_radius = center_sampling_radius

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the keys that `from_config` reads."""
        head = cfg.MODEL.ROTATED_HEAD
        # Radius of centre sampling in strides.
        head.CENTER_SAMPLING_RADIUS = 1.5
        # Upper bounds of the regression ranges in px; the last level has none.
        head.REGRESS_RANGE_BOUNDS_PX = [64, 128, 256, 512]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        head = cfg.MODEL.ROTATED_HEAD
        return {
            "strides_px": head.STRIDES_PX,
            "regress_range_bounds_px": head.REGRESS_RANGE_BOUNDS_PX,
            "center_sampling_radius": head.CENTER_SAMPLING_RADIUS,
        }

    def assign(self, grid: PointGrid, boxes: list[Tensor]) -> Assignment:
        """Return the positive locations of a batch.

        Args:
            grid: the locations of one image (the same for all N images).
            boxes: ground truths (M_i, 5) of each image, image pixels.
        """
        owners = self.owners(grid, boxes)
        location_index = (owners >= 0).nonzero(as_tuple=True)[0]
        return Assignment(location_index, owners[location_index])

    @torch.no_grad()
    def owners(self, grid: PointGrid, boxes: list[Tensor]) -> Tensor:
        """Return for each location of the batch the ground truth it learns, or -1.

        The host waits for no result of the device.

        Args:
            grid: the locations of one image (the same for all N images).
            boxes: ground truths (M_i, 5) of each image, image pixels.

        Returns:
            (N * P,) int64 rows in the concatenated ground truths of the batch.
        """
        all_boxes = torch.cat(boxes)  # (M, 5)
        num_points = len(grid.points_xy)
        none = len(all_boxes)
        first_location = torch.cat(
            [torch.full((len(b),), i * num_points, device=b.device) for i, b in enumerate(boxes)]
        )  # (M,)
        areas = all_boxes[:, 2] * all_boxes[:, 3]
        order = torch.argsort(areas, stable=True)  # (M,) ground truths by area, then index
        rank = torch.empty_like(order)
        rank[order] = torch.arange(none, device=order.device)
        # An integer minimum does not depend on the order of the writes.
        best = torch.full((len(boxes) * num_points,), none, device=all_boxes.device)
        start = 0
        for level, (height, width) in enumerate(grid.level_sizes_hw):
            cell, keep = self._level_candidates(all_boxes, level, (height, width))
            location = first_location[:, None, None] + start + cell  # (M, S, S)
            value = torch.where(keep, rank[:, None, None], none)
            best.scatter_reduce_(0, location.flatten(), value.flatten(), reduce="amin")
            start += height * width
        by_rank = torch.cat([order, order.new_full((1,), -1)])
        return by_rank[best]

    def _level_candidates(
        self, boxes: Tensor, level: int, size_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the cells (M, S, S) of this level around each box, and which satisfy the rules.

        Cells beside the level are moved onto it, and satisfy none.
        """
        height, width = size_hw
        stride = float(self.strides_px[level])
        radius_px = self.center_sampling_radius * stride
        # Cells whose centre can lie in the (turned) centre square, whose half diagonal this is.
        reach = math.floor(self.center_sampling_radius * math.sqrt(2.0) + 0.5)
        steps = torch.arange(-reach, reach + 1, device=boxes.device)
        cell_x = (boxes[:, 0, None] / stride).floor().long() + steps  # (M, S)
        cell_y = (boxes[:, 1, None] / stride).floor().long() + steps
        offset_x = (cell_x + 0.5) * stride - boxes[:, 0, None]
        offset_y = (cell_y + 0.5) * stride - boxes[:, 1, None]
        angle_rad = torch.deg2rad(boxes[:, 4])[:, None, None]
        cos, sin = angle_rad.cos(), angle_rad.sin()
        along_w = cos * offset_x[:, None, :] - sin * offset_y[:, :, None]  # (M, S, S)
        along_h = sin * offset_x[:, None, :] + cos * offset_y[:, :, None]
        half_w, half_h = boxes[:, 2, None, None] / 2, boxes[:, 3, None, None] / 2
        abs_w, abs_h = along_w.abs(), along_h.abs()
        low, high = self.regress_ranges_px[level]
        farthest = torch.maximum(half_w + abs_w, half_h + abs_h)
        keep = (abs_w < half_w) & (abs_h < half_h) & (abs_w < radius_px) & (abs_h < radius_px)
        keep &= (farthest >= low) & (farthest <= high)
        keep &= ((cell_x >= 0) & (cell_x < width))[:, None, :]
        keep &= ((cell_y >= 0) & (cell_y < height))[:, :, None]
        row, column = cell_y.clamp(0, height - 1), cell_x.clamp(0, width - 1)
        return row[:, :, None] * width + column[:, None, :], keep
