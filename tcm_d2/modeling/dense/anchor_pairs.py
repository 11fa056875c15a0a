"""Find the anchors of a grid that may overlap ground truths enough, without looking at all.

Letters: R anchors of one image, M ground truths, m of them looked at, S = levels x anchors per cell
shapes of anchors, Q pairs (ground truth, anchor).

Bounds on the IoU limit the columns and rows of each level that need a look; pairs are looked at in
chunks. Boxes are float32, as the anchors are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.modeling.dense.anchors import AnchorGrid
from tcm_d2.ops import paired_iou_rotated
from tcm_d2.structures.conversions import boxes_to_hboxes

# Pairs whose IoU is computed at a time: about 1 KiB each in the operator's reference
# implementation.
MAX_PAIRS = 1 << 17
# Bounds on the IoU are lowered by this much, and windows widened, to outlast rounding.
BOUND_SLACK = 1e-3
# Relative error of the coordinates in a float32 IoU: 4 roundings.
ROUNDING = 2.0**-22
# The reference's IoU takes points for collinear that span 1e-6 px^2; a few of them.
LEAST_AREA_ERROR = 1e-5


class Pairs(NamedTuple):
    """Pairs of ground truth and anchor, each field (Q,).

    Attributes:
        owner: int64 row of the ground truth.
        anchor: int64 anchor of one image.
        iou: float32.
    """

    owner: Tensor
    anchor: Tensor
    iou: Tensor

    def best_iou(self, num_boxes: int) -> Tensor:
        """Return the highest IoU (M,) of each of ``num_boxes`` ground truths, at least 0."""
        best = self.iou.new_zeros(num_boxes)
        return best.scatter_reduce(0, self.owner, self.iou, "amax")

    def select(self, chosen: Tensor) -> Pairs:
        """Return the pairs where the mask ``chosen`` (Q,) is set."""
        return Pairs(*(field[chosen] for field in self))


class _Shapes(NamedTuple):
    """The anchor shapes of all levels, each field (S,); sides float64."""

    width: Tensor
    height: Tensor
    stride_px: Tensor
    num_columns: Tensor
    num_rows: Tensor
    first_anchor: Tensor
    per_cell: int


def join_pairs(pairs: Iterable[Pairs], device: torch.device) -> Pairs:
    """Return all pairs in a row, on ``device``."""
    index = torch.zeros(0, dtype=torch.int64, device=device)
    none = Pairs(index, index, torch.zeros(0, device=device))
    return Pairs(*(torch.cat(fields) for fields in zip(none, *pairs)))


def pairs_above(grid: AnchorGrid, boxes: Tensor, rows: Tensor, floor: Tensor) -> Iterator[Pairs]:
    """Yield, in chunks, the pairs of box and anchor whose exact IoU is positive and >= ``floor``.

    Args:
        grid: the anchors of one image.
        boxes: (M, 5) float32 ground truths.
        rows: (m,) int64 the ground truths to look at.
        floor: (m,) their lower bounds, >= 0.
    """
    for item, anchor in _possible_pairs(grid, boxes[rows].double(), floor.double()):
        owner = rows[item]
        iou = paired_iou_rotated(boxes[owner], grid.boxes[anchor])
        kept = (iou > 0) & (iou >= floor[item])
        yield Pairs(owner[kept], anchor[kept], iou[kept])


def probe(grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """Return the best exact IoU (M,) of each box with the nearest anchor of each shape."""
    shapes = _anchor_shapes(grid)
    best = [boxes.new_zeros(0)]
    for chunk in boxes.split(max(1, MAX_PAIRS // len(shapes.width))):
        column = (chunk[:, 0, None].double() / shapes.stride_px).round()
        row = (chunk[:, 1, None].double() / shapes.stride_px).round()
        column = torch.minimum(column.clamp(min=0), shapes.num_columns - 1).long()
        row = torch.minimum(row.clamp(min=0), shapes.num_rows - 1).long()
        cell = row * shapes.num_columns + column
        anchor = shapes.first_anchor + cell * shapes.per_cell  # (m, S)
        targets = chunk.repeat_interleave(anchor.shape[1], dim=0)
        iou = paired_iou_rotated(targets, grid.boxes[anchor.flatten()])
        best.append(iou.view_as(anchor).amax(dim=1))
    return torch.cat(best)


def rounding_bound(grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """Return by how much (M,) the reference's IoU with any anchor may exceed the exact one.

    The corners of the common area are out of place, which moves its border, no longer than the
    box's perimeter. In a thin box they are so by more: its short side decides what lies within it,
    and the direction of that is the less exact.

    Where sides lie on one line, the reference's IoU may be lower by far; higher ones were not met
    among two million pairs with sides on or near one line.
    """
    sides = grid.sides_wh.flatten(0, 1).double()
    smallest = (sides[:, 0] * sides[:, 1]).min()
    width, height = boxes[:, 2].double(), boxes[:, 3].double()
    # A larger anchor has larger coordinates, but in the square a larger area.
    extent = torch.hypot(width, height) + torch.hypot(sides[:, 0], sides[:, 1]).min()
    error_px = extent * ROUNDING * (1 + torch.maximum(width / height, height / width))
    area_error = 2 * (width + height) * error_px + LEAST_AREA_ERROR
    return (area_error / torch.maximum(width * height, smallest)).float()


def _anchor_shapes(grid: AnchorGrid) -> _Shapes:
    per_cell = grid.sides_wh.shape[1]
    device = grid.boxes.device

    def of_levels(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device).repeat_interleave(per_cell)

    starts = list(itertools.accumulate(grid.level_num_anchors, initial=0))[:-1]
    sides = grid.sides_wh.double().flatten(0, 1)  # (S, 2)
    return _Shapes(
        width=sides[:, 0],
        height=sides[:, 1],
        stride_px=of_levels(grid.strides_px),
        num_columns=of_levels([width for _, width in grid.level_sizes_hw]),
        num_rows=of_levels([height for height, _ in grid.level_sizes_hw]),
        first_anchor=of_levels(starts) + torch.arange(len(sides), device=device) % per_cell,
        per_cell=per_cell,
    )


def _possible_pairs(
    grid: AnchorGrid, boxes: Tensor, floor: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks of pairs (row of ``boxes``, anchor) that contain all with IoU >= ``floor``.

    The area common to a turned box and an upright anchor is at most the area of either, no longer
    or higher than the anchor's diagonal, and at most what the box's upright hull shares with the
    anchor. The last is a product of overlaps along x and along y, which limits the columns and rows
    of a level that need a look.

    Args:
        grid: the anchors of one image.
        boxes: (m, 5) float64.
        floor: (m,) float64, lower bounds of the IoU.
    """
    shapes = _anchor_shapes(grid)
    floor = floor * (1 - BOUND_SLACK)
    hulls = boxes_to_hboxes(boxes)
    area, shape_area = boxes[:, 2] * boxes[:, 3], shapes.width * shapes.height
    sides = torch.minimum(boxes[:, 2:4, None], torch.hypot(shapes.width, shapes.height))
    limit = torch.minimum(sides[:, 0] * sides[:, 1], shape_area)  # (m, S)
    possible = limit >= floor[:, None] * (area[:, None] + shape_area - limit)
    item, shape = possible.nonzero(as_tuple=True)

    total = area[item] + shape_area[shape]
    needed = floor[item] / (1 + floor[item]) * total  # common area at IoU = floor
    hull, width, height = hulls[item], shapes.width[shape], shapes.height[shape]
    stride_px = shapes.stride_px[shape]
    reach_x = torch.minimum(hull[:, 2] - hull[:, 0], width)
    reach_y = torch.minimum(hull[:, 3] - hull[:, 1], height)
    x = _window(
        hull[:, 0], hull[:, 2], width, needed / reach_y, stride_px, shapes.num_columns[shape]
    )
    y = _window(hull[:, 1], hull[:, 3], height, needed / reach_x, stride_px, shapes.num_rows[shape])
    for window, column, row in _cells_of(*x, *y):
        center_x, center_y = column * stride_px[window], row * stride_px[window]
        common = _overlap(center_x, width[window], hull[window, 0], hull[window, 2])
        common = common * _overlap(center_y, height[window], hull[window, 1], hull[window, 3])
        likely = (common >= needed[window]).nonzero(as_tuple=True)[0]
        cell = row[likely] * shapes.num_columns[shape[window[likely]]] + column[likely]
        window = window[likely]
        yield item[window], shapes.first_anchor[shape[window]] + cell * shapes.per_cell


def _cells_of(
    first_x: Tensor, count_x: Tensor, first_y: Tensor, count_y: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the cells of windows (W,) in chunks: window, column and row, each (Q,)."""
    count = count_x * count_y
    start = count.cumsum(0) - count
    chunk_sizes = [size for size in torch.bincount(start // MAX_PAIRS).tolist() if size > 0]
    for members in torch.arange(len(count), device=count.device).split(chunk_sizes):
        window = members.repeat_interleave(count[members])
        within = torch.arange(len(window), device=count.device) + start[members[0]] - start[window]
        column = first_x[window] + within % count_x[window]
        yield window, column, first_y[window] + within // count_x[window]


def _window(
    low: Tensor, high: Tensor, side: Tensor, needed: Tensor, stride_px: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """Return first and number of the cells whose anchors share >= ``needed`` px with low..high."""
    # A box without area needs 0 / 0 px: no cell.
    needed = needed.nan_to_num(nan=torch.inf)
    slack = BOUND_SLACK * stride_px
    first = torch.ceil((low + needed - side / 2 - slack) / stride_px).clamp(min=0)
    first = torch.minimum(first, size.to(first))
    last = torch.minimum(torch.floor((high - needed + side / 2 + slack) / stride_px), size - 1)
    return first.long(), (last - first + 1).clamp(min=0).long()


def _overlap(center: Tensor, side: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the length that ``center`` +- ``side`` / 2 shares with low..high, at least 0."""
    shared = torch.minimum(center + side / 2, high) - torch.maximum(center - side / 2, low)
    return shared.clamp(min=0)
