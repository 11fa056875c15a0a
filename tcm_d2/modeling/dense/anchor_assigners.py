"""Assigners of anchor-based heads: which anchor learns which object.

Letters: N images, R anchors of one image, L levels, A anchors per cell, M ground truths over all
images, S = L x A shapes of anchors, Q pairs (ground truth, anchor).

Neither assigner ever holds all M x R pairs: only anchors near an object are looked at, in chunks.
Boxes of any precision are taken as float32, the anchors' own, since "equal" depends on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.modeling.dense.anchors import AnchorGrid
from tcm_d2.modeling.dense.assigners import Assignment
from tcm_d2.ops import paired_iou_rotated
from tcm_d2.structures.conversions import boxes_to_hboxes

# Pairs whose IoU is computed at a time: about 1 KiB each in the slow twin of the operator.
MAX_PAIRS = 1 << 17
# An anchor's centre counts as inside an object this far from the object's sides (source's value).
INSIDE_MARGIN_PX = 0.01
# Bounds on the IoU are lowered by this much, and windows widened, to outlast rounding.
BOUND_SLACK = 1e-3


class AnchorAssignment(NamedTuple):
    """The positive and the ignored anchors of a batch, each in ascending order.

    Attributes:
        location_index: (Q,) int64 image * R + anchor.
        ground_truth_index: (Q,) int64 row in the concatenated ground truths of the batch.
        ignored_index: (I,) int64 image * R + anchor of anchors that are neither positive nor
            negative.
    """

    location_index: Tensor
    ground_truth_index: Tensor
    ignored_index: Tensor


class ATSSAssigner:
    """Assign the anchors nearest to an object whose IoU stands out among their like.

    Per object and level the ``topk`` anchors with the nearest centres are candidates (ties by
    index). A candidate is positive if its IoU is at least the mean plus the standard deviation
    over the object's candidates, and its centre lies inside the object. An anchor wanted by
    several objects goes to that of highest IoU, then of lowest index.

    The nearest cells of a grid lie within the ``topk`` nearest columns and rows, so only a window
    of cells around each object is sorted.

    Source: ATSS (arXiv 1912.02424), turned as in mmrotate's RotatedATSSAssigner.
    """

    def __init__(self, *, topk: int) -> None:
        """Args:
        topk: candidates per level, >= 1.
        """
        if topk < 1:
            raise ValueError(f"topk: expected >= 1, got {topk}")
        self.topk = topk

    @torch.no_grad()
    def assign(self, grid: AnchorGrid, boxes: list[Tensor]) -> Assignment:
        """Return the positive anchors of a batch.

        Args:
            grid: the anchors of one image (the same for all N images), one per cell.
            boxes: ground truths (M_i, 5) of each image, image pixels.

        Raises:
            ValueError: the grid has several anchors per cell.
        """
        if grid.sides_wh.shape[1] != 1:
            raise ValueError(
                f"grid: ATSS expects 1 anchor per cell, got {grid.sides_wh.shape[1]}; set one "
                "scale and one ratio"
            )
        all_boxes = torch.cat(boxes).float()
        first_key = _first_keys(boxes, len(grid.boxes))
        keys, owners, overlaps = [], [], []
        num_candidates = sum(min(self.topk, h * w) for h, w in grid.level_sizes_hw)
        rows_per_chunk = max(1, MAX_PAIRS // num_candidates)
        for start in range(0, len(all_boxes), rows_per_chunk):
            chunk = all_boxes[start : start + rows_per_chunk]
            candidate = self._nearest(grid, chunk)  # (m, C)
            anchors = grid.boxes[candidate.flatten()]
            targets = chunk.repeat_interleave(candidate.shape[1], dim=0)
            iou = paired_iou_rotated(anchors, targets).view_as(candidate)
            spread, mean = torch.std_mean(iou.double(), dim=1, keepdim=True)
            inside = _is_inside(anchors[:, :2], targets).view_as(candidate)
            row, column = ((iou >= mean + spread) & inside).nonzero(as_tuple=True)
            keys.append(first_key[start + row] + candidate[row, column])
            owners.append(start + row)
            overlaps.append(iou[row, column])
        if not keys:
            return Assignment(first_key, first_key)
        key, owner = torch.cat(keys), torch.cat(owners)
        return Assignment(
            *_best_owners(key, owner, torch.cat(overlaps), len(boxes) * len(grid.boxes))
        )

    def _nearest(self, grid: AnchorGrid, boxes: Tensor) -> Tensor:
        """Return the candidates (m, C) of each box as anchors of one image."""
        candidates = []
        start = 0
        for (height, width), stride_px in zip(grid.level_sizes_hw, grid.strides_px):
            cell_x, distance_x = self._near_cells(boxes[:, 0], width, stride_px)
            cell_y, distance_y = self._near_cells(boxes[:, 1], height, stride_px)
            squared = (distance_y[:, :, None] ** 2 + distance_x[:, None, :] ** 2).flatten(1)
            index = (cell_y[:, :, None] * width + cell_x[:, None, :]).flatten(1)
            # The window's cells come by ascending index, which a stable sort keeps among ties.
            order = squared.argsort(dim=1, stable=True)[:, : min(self.topk, height * width)]
            candidates.append(start + index.gather(1, order))
            start += height * width
        return torch.cat(candidates, dim=1)

    def _near_cells(self, centers: Tensor, size: int, stride_px: int) -> tuple[Tensor, Tensor]:
        """Return columns (or rows), (m, V), that hold the topk nearest, and their distances."""
        # One more than topk: which of two cells is nearer depends on the place between them.
        count = min(size, self.topk + 1)
        position = centers.double() / stride_px
        first = (position.floor().clamp(-1, size) - self.topk // 2).clamp(0, size - count)
        cells = first.long()[:, None] + torch.arange(count, device=centers.device)
        return cells, (cells - position[:, None]) * stride_px


class MaxIoUAssigner:
    """Assign an anchor to the object of highest IoU, and every object to its best anchors.

    An anchor is positive from ``positive_iou`` on, negative below ``negative_iou`` and ignored in
    between; it belongs to the object of highest IoU, then of lowest index. Besides, each object
    takes the anchors whose IoU with it equals its best one (if that is at least
    ``min_positive_iou``), also from other objects; among several such objects the last wins.

    Deliberate differences from the source: an object that meets no anchor takes none (the source
    with ``min_positive_iou`` 0 gives it every anchor that it does not meet). And the IoU is exact:
    an object inside several anchors of one area has the same IoU with all of them and takes them
    all, where the rounding errors of the source's float32 IoU pick some of them.

    Source: mmdet's MaxIoUAssigner with mmrotate's rotated IoU.
    """

    def __init__(
        self, *, positive_iou: float, negative_iou: float, min_positive_iou: float
    ) -> None:
        """Args:
        positive_iou: in (0, 1].
        negative_iou: in (0, positive_iou].
        min_positive_iou: in [0, 1].
        """
        if not 0 < negative_iou <= positive_iou <= 1:
            raise ValueError(
                "negative_iou and positive_iou: expected 0 < negative_iou <= positive_iou <= 1, "
                f"got {negative_iou} and {positive_iou}"
            )
        if not 0 <= min_positive_iou <= 1:
            raise ValueError(f"min_positive_iou: expected in [0, 1], got {min_positive_iou}")
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.min_positive_iou = min_positive_iou

    @torch.no_grad()
    def assign(self, grid: AnchorGrid, boxes: list[Tensor]) -> AnchorAssignment:
        """Return the positive and the ignored anchors of a batch.

        Args:
            grid: the anchors of one image (the same for all N images).
            boxes: ground truths (M_i, 5) of each image, image pixels.
        """
        all_boxes = torch.cat(boxes).float()
        first_key = _first_keys(boxes, len(grid.boxes))
        if len(all_boxes) == 0:
            return AnchorAssignment(first_key, first_key, first_key)
        num_keys = len(boxes) * len(grid.boxes)
        every_box = torch.arange(len(all_boxes), device=all_boxes.device)
        floor = all_boxes.new_full((len(all_boxes),), self.negative_iou)
        high = _pairs_above(grid, all_boxes, every_box, floor)

        # Objects whose best IoU is below negative_iou: search further down for the best.
        poor = torch.ones_like(every_box, dtype=torch.bool)
        poor[high.owner] = False
        poor = poor.nonzero(as_tuple=True)[0]
        floor = _probe(grid, all_boxes[poor]).clamp(min=self.min_positive_iou)
        low = _pairs_above(grid, all_boxes, poor, floor)

        owner, anchor, iou = (torch.cat(fields) for fields in zip(high, low))
        best_iou = iou.new_zeros(len(all_boxes)).scatter_reduce(0, owner, iou, "amax")
        is_best = (iou == best_iou[owner]) & (iou > 0) & (iou >= self.min_positive_iou)
        best_key, best_owner = first_key[owner[is_best]] + anchor[is_best], owner[is_best]

        high_key = first_key[high.owner] + high.anchor
        location, _ = _best_owners(high_key, high.owner, high.iou, num_keys)
        positive = high.iou >= self.positive_iou
        positive_location, positive_owner = _best_owners(
            high_key[positive], high.owner[positive], high.iou[positive], num_keys
        )
        # -2 nothing, -1 ignored, else the owner; later lines overrule.
        label = torch.full((num_keys,), -2, dtype=torch.int64, device=all_boxes.device)
        label[location] = -1
        label[positive_location] = positive_owner
        last = torch.full_like(label, -1).scatter_reduce(0, best_key, best_owner, "amax")
        label = torch.where(last >= 0, last, label)
        location = (label >= 0).nonzero(as_tuple=True)[0]
        return AnchorAssignment(location, label[location], (label == -1).nonzero(as_tuple=True)[0])


class _Pairs(NamedTuple):
    """Pairs of ground truth and anchor, each field (Q,)."""

    owner: Tensor
    anchor: Tensor
    iou: Tensor


class _Shapes(NamedTuple):
    """The anchor shapes of all levels, each field (S,); sides float64."""

    width: Tensor
    height: Tensor
    stride_px: Tensor
    num_columns: Tensor
    num_rows: Tensor
    first_anchor: Tensor
    per_cell: int


def _first_keys(boxes: list[Tensor], num_anchors: int) -> Tensor:
    """Return image * R for each ground truth of the batch, (M,) int64."""
    counts = torch.tensor([len(b) for b in boxes], device=boxes[0].device)
    return torch.arange(len(boxes), device=counts.device).repeat_interleave(counts) * num_anchors


def _best_owners(key: Tensor, owner: Tensor, iou: Tensor, num_keys: int) -> tuple[Tensor, Tensor]:
    """Return the keys that occur, ascending, and the owner of highest IoU (lowest index) of each.

    Minimum and maximum do not depend on the order of the writes.
    """
    best_iou = iou.new_full((num_keys,), -1.0).scatter_reduce(0, key, iou, "amax")
    is_best = iou == best_iou[key]
    none = torch.iinfo(torch.int64).max
    owners = torch.full((num_keys,), none, dtype=torch.int64, device=key.device)
    owners = owners.scatter_reduce(0, key[is_best], owner[is_best], "amin")
    location = (owners != none).nonzero(as_tuple=True)[0]
    return location, owners[location]


def _is_inside(points_xy: Tensor, boxes: Tensor) -> Tensor:
    """Return whether each point (Q, 2) lies inside its box (Q, 5), not too near to a side."""
    offset_x, offset_y = (points_xy - boxes[:, :2]).unbind(dim=1)
    angle_rad = torch.deg2rad(boxes[:, 4])
    cos, sin = angle_rad.cos(), angle_rad.sin()
    along_w, along_h = cos * offset_x - sin * offset_y, sin * offset_x + cos * offset_y
    return (along_w.abs() < boxes[:, 2] / 2 - INSIDE_MARGIN_PX) & (
        along_h.abs() < boxes[:, 3] / 2 - INSIDE_MARGIN_PX
    )


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


def _probe(grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """Return the best IoU (m,) of each box with the nearest anchor of each shape."""
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


def _pairs_above(grid: AnchorGrid, boxes: Tensor, rows: Tensor, floor: Tensor) -> _Pairs:
    """Return every pair of a ground truth with an anchor whose IoU is positive and >= ``floor``.

    Args:
        grid: the anchors of one image.
        boxes: (M, 5) ground truths.
        rows: (m,) int64 the ground truths to look at.
        floor: (m,) their lower bounds.
    """
    found = [_Pairs(rows[:0], rows[:0], boxes[:0, 0])]
    for item, anchor in _possible_pairs(grid, boxes[rows].double(), floor.double()):
        owner = rows[item]
        iou = paired_iou_rotated(boxes[owner], grid.boxes[anchor])
        kept = (iou > 0) & (iou >= floor[item])
        found.append(_Pairs(owner[kept], anchor[kept], iou[kept]))
    return _Pairs(*(torch.cat(fields) for fields in zip(*found)))


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
    first_x, count_x = _window(
        hull[:, 0], hull[:, 2], width, needed / reach_y, stride_px, shapes.num_columns[shape]
    )
    first_y, count_y = _window(
        hull[:, 1], hull[:, 3], height, needed / reach_x, stride_px, shapes.num_rows[shape]
    )
    count = count_x * count_y
    start = count.cumsum(0) - count
    chunk_sizes = [size for size in torch.bincount(start // MAX_PAIRS).tolist() if size > 0]
    for members in torch.arange(len(count), device=boxes.device).split(chunk_sizes):
        pair = members.repeat_interleave(count[members])
        within = torch.arange(len(pair), device=boxes.device) + start[members[0]] - start[pair]
        column = first_x[pair] + within % count_x[pair]
        row = first_y[pair] + within // count_x[pair]
        x, y = column * stride_px[pair], row * stride_px[pair]
        common = _overlap(x, width[pair], hull[pair, 0], hull[pair, 2])
        common = common * _overlap(y, height[pair], hull[pair, 1], hull[pair, 3])
        likely = (common >= needed[pair]).nonzero(as_tuple=True)[0]
        cell = row[likely] * shapes.num_columns[shape[pair[likely]]] + column[likely]
        yield item[pair[likely]], shapes.first_anchor[shape[pair[likely]]] + cell * shapes.per_cell


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
