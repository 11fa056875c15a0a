"""Assigners: which location learns which object.

Letters: N images, P locations of one image, M ground truths over all images.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.modeling.dense.anchors import PointGrid


class Assignment(NamedTuple):
    """The positive locations of a batch, in ascending order.

    Attributes:
        location_index: (Q,) int64 image * P + location.
        ground_truth_index: (Q,) int64 row in the concatenated ground truths of the batch.
    """

    location_index: Tensor
    ground_truth_index: Tensor


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

    @torch.no_grad()
    def assign(self, grid: PointGrid, boxes: list[Tensor]) -> Assignment:
        """Return the positive locations of a batch.

        Args:
            grid: the locations of one image (the same for all N images).
            boxes: ground truths (M_i, 5) of each image, image pixels.
        """
        all_boxes = torch.cat(boxes)  # (M, 5)
        num_points = len(grid.points_xy)
        image_index = torch.repeat_interleave(
            torch.arange(len(boxes), device=all_boxes.device),
            torch.tensor([len(b) for b in boxes], device=all_boxes.device),
        )  # (M,)
        locations, owners = [], []
        start = 0
        for level, (height, width) in enumerate(grid.level_sizes_hw):
            owner, cell = self._level_candidates(all_boxes, level, (height, width))
            locations.append(image_index[owner] * num_points + start + cell)
            owners.append(owner)
            start += height * width
        return _smallest_per_location(
            torch.cat(locations), torch.cat(owners), all_boxes, len(boxes) * num_points
        )

    def _level_candidates(
        self, boxes: Tensor, level: int, size_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the pairs (ground truth, cell of this level) that satisfy all three rules."""
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
        owner, row, column = keep.nonzero(as_tuple=True)
        return owner, cell_y[owner, row] * width + cell_x[owner, column]


def _smallest_per_location(
    locations: Tensor, owners: Tensor, boxes: Tensor, num_locations: int
) -> Assignment:
    """Return the candidate of smallest area (then lowest index) of each location."""
    areas = boxes[:, 2] * boxes[:, 3]
    order = torch.argsort(areas, stable=True)  # (M,) ground truths by area, then index
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    # An integer minimum does not depend on the order of the writes.
    best = torch.full((num_locations,), len(order), dtype=torch.int64, device=boxes.device)
    best.scatter_reduce_(0, locations, rank[owners], reduce="amin")
    location_index = (best < len(order)).nonzero(as_tuple=True)[0]
    return Assignment(location_index, order[best[location_index]])
