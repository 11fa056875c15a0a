"""Assigners of anchor-based heads: which anchor learns which object.

Letters: N images, R anchors of one image, L levels, M ground truths over all images, m of them,
C candidates of one ground truth, V cells on a side of a window, Q pairs (ground truth, anchor).

Neither assigner ever holds all M x R pairs: only anchors near an object are looked at, in chunks.

Which of two nearly equal IoUs is higher decides who gets an anchor. ``iou_rounding`` says whose
rounding errors decide: with "reference" those of the reference's code on the CPU, for the very same
assignment (see ``reference_iou``); with "exact" none, since equal overlaps are equal there. Boxes
are taken as float32, the anchors' own precision; only "reference" makes use of the further digits
of a float64 angle.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor

from tcm_d2.config.registries import PART_REGISTRY
from tcm_d2.modeling.dense.anchor_pairs import (
    MAX_PAIRS,
    Pairs,
    join_pairs,
    pairs_above,
    probe,
    rounding_bound,
)
from tcm_d2.modeling.dense.anchors import AnchorGrid
from tcm_d2.modeling.dense.point_assigner import Assignment
from tcm_d2.modeling.dense.reference_iou import MIN_SIDE_PX, reference_iou, to_reference_form
from tcm_d2.ops import box_iou_rotated, paired_iou_rotated

IOU_ROUNDINGS = ("reference", "exact")
# Of ASSIGNER_IOU, a key of ATSS and RetinaNet; files that reproduce mmrotate say "reference".
DEFAULT_IOU_ROUNDING = "exact"
# An anchor's centre counts as inside an object this far from the object's sides (source's value).
INSIDE_MARGIN_PX = 0.01


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


@PART_REGISTRY.register()
class ATSSAssigner:
    """Assign the anchors nearest to an object whose IoU stands out among their like.

    Per object and level the ``topk`` anchors with the nearest centres are candidates. A candidate
    is positive if its IoU is at least the mean plus the standard deviation over the object's
    candidates, and its centre lies inside the object. An anchor wanted by several objects goes to
    that of highest IoU, then of lowest index.

    The nearest cells of a grid lie within the ``topk`` nearest columns and rows, so only a window
    of cells around each object is sorted. Of anchors equally far from an object, the first by index
    are candidates; with ``iou_rounding`` "reference" those that ``torch.topk`` takes from a level's
    float32 distances, which is what the source does (its choice may depend on the device).

    Source: ATSS (arXiv 1912.02424), turned as in mmrotate's RotatedATSSAssigner.
    """

    def __init__(self, *, topk: int, iou_rounding: str) -> None:
        """Args:
        topk: candidates per level, >= 1.
        iou_rounding: "reference" or "exact"; see the top of this file.
        """
        if topk < 1:
            raise ValueError(f"topk: expected >= 1, got {topk}")
        _check_rounding(iou_rounding)
        self.topk = topk
        self.iou_rounding = iou_rounding

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the keys that `from_config` reads."""
        head = cfg.MODEL.ROTATED_HEAD
        head.ASSIGNER_IOU = DEFAULT_IOU_ROUNDING
        # Candidates per object and level.
        head.ATSS_TOPK = 9

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        head = cfg.MODEL.ROTATED_HEAD
        return {
            "topk": head.ATSS_TOPK,
            "iou_rounding": head.ASSIGNER_IOU,
        }

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
        all_boxes = torch.cat(boxes)
        first_key = _first_keys(boxes, len(grid.boxes))
        keys, owners, overlaps = [], [], []
        num_candidates = sum(min(self.topk, h * w) for h, w in grid.level_sizes_hw)
        rows_per_chunk = max(1, MAX_PAIRS // num_candidates)
        for start in range(0, len(all_boxes), rows_per_chunk):
            chunk = all_boxes[start : start + rows_per_chunk]
            candidate = self._nearest(grid, chunk.float())  # (m, C)
            anchors = grid.boxes[candidate.flatten()]
            targets = chunk.float().repeat_interleave(candidate.shape[1], dim=0)
            if self.iou_rounding == "reference":
                form = to_reference_form(chunk).repeat_interleave(candidate.shape[1], dim=0)
                iou = reference_iou(to_reference_form(anchors), form)
            else:
                iou = paired_iou_rotated(anchors, targets)
            by_candidate = iou.view_as(candidate).t().contiguous()  # (C, m), the source's order
            threshold = by_candidate.mean(dim=0) + by_candidate.std(dim=0)
            inside = _is_inside(anchors[:, :2], targets).view_as(candidate)
            iou = iou.view_as(candidate)
            row, column = ((iou >= threshold[:, None]) & inside).nonzero(as_tuple=True)
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
            count = min(self.topk, height * width)
            cell_x, distance_x = self._near_cells(boxes[:, 0], width, stride_px)
            cell_y, distance_y = self._near_cells(boxes[:, 1], height, stride_px)
            index = (cell_y[:, :, None] * width + cell_x[:, None, :]).flatten(1)  # (m, V * V)
            if self.iou_rounding == "reference":
                centers_xy = grid.boxes[start : start + height * width, :2]
                distance = _distances(boxes[:, None, :2], centers_xy[index])
            else:
                distance = (distance_y[:, :, None] ** 2 + distance_x[:, None, :] ** 2).flatten(1)
            # The window's cells come by ascending index, which a stable sort keeps among ties.
            distance, order = distance.sort(dim=1, stable=True)
            nearest = start + index.gather(1, order[:, :count])
            if self.iou_rounding == "reference" and distance.shape[1] > count:
                tied = (distance[:, count - 1] == distance[:, count]).nonzero(as_tuple=True)[0]
                nearest[tied] = start + _nearest_of_level(centers_xy, boxes[tied, :2], count)
            candidates.append(nearest)
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


@PART_REGISTRY.register()
class MaxIoUAssigner:
    """Assign an anchor to the object of highest IoU, and every object to its best anchors.

    An anchor is positive from ``positive_iou`` on, negative below ``negative_iou`` and ignored in
    between; it belongs to the object of highest IoU, then of lowest index. Besides, each object
    takes the anchors whose IoU with it equals its best one (if that is at least
    ``min_positive_iou``), also from other objects; among several such objects the last wins.

    A small object lies inside many anchors of one area. With ``iou_rounding`` "exact" it takes them
    all; with "reference" those whose IoU the reference's rounding makes the highest. The values are
    only compared, so the reference's are taken as they are, a bit above 1 or far too low (where
    sides of the object and of an anchor lie on one line).

    Deliberate difference from the source, with either rounding: an object that meets no anchor, or
    has no area, takes none. The source with ``min_positive_iou`` 0 gives the former every anchor
    that it does not meet, all positives of other objects included; the latter gets targets log(0).
    No published model can have learned from either, since anchors cover the image, and the loss of
    an object without area is infinite.

    Source: mmdet's MaxIoUAssigner with mmrotate's rotated IoU.
    """

    def __init__(
        self,
        *,
        positive_iou: float,
        negative_iou: float,
        min_positive_iou: float,
        iou_rounding: str,
    ) -> None:
        """Args:
        positive_iou: in (0, 1].
        negative_iou: in (0, positive_iou].
        min_positive_iou: in [0, 1].
        iou_rounding: "reference" or "exact"; see the top of this file.
        """
        if not 0 < negative_iou <= positive_iou <= 1:
            raise ValueError(
                "negative_iou and positive_iou: expected 0 < negative_iou <= positive_iou <= 1, "
                f"got {negative_iou} and {positive_iou}"
            )
        if not 0 <= min_positive_iou <= 1:
            raise ValueError(f"min_positive_iou: expected in [0, 1], got {min_positive_iou}")
        _check_rounding(iou_rounding)
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.min_positive_iou = min_positive_iou
        self.iou_rounding = iou_rounding

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the keys that `from_config` reads."""
        head = cfg.MODEL.ROTATED_HEAD
        head.ASSIGNER_IOU = DEFAULT_IOU_ROUNDING
        # An anchor is positive from the first IoU on and negative below the second; an object's
        # best anchors are positive if their IoU is at least the third.
        head.POSITIVE_IOU_THRESH = 0.5
        head.NEGATIVE_IOU_THRESH = 0.4
        head.MIN_POSITIVE_IOU = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        head = cfg.MODEL.ROTATED_HEAD
        return {
            "positive_iou": head.POSITIVE_IOU_THRESH,
            "negative_iou": head.NEGATIVE_IOU_THRESH,
            "min_positive_iou": head.MIN_POSITIVE_IOU,
            "iou_rounding": head.ASSIGNER_IOU,
        }

    @torch.no_grad()
    def assign(self, grid: AnchorGrid, boxes: list[Tensor]) -> AnchorAssignment:
        """Return the positive and the ignored anchors of a batch.

        Args:
            grid: the anchors of one image (the same for all N images).
            boxes: ground truths (M_i, 5) of each image, image pixels.
        """
        all_boxes = torch.cat(boxes)
        if len(all_boxes) == 0:
            return self._from_pairs(None, boxes, len(grid.boxes))
        if self.iou_rounding == "reference":
            pairs = self._reference_pairs(grid, all_boxes)
        else:
            pairs = self._exact_pairs(grid, all_boxes.float())
        return self._from_pairs(pairs, boxes, len(grid.boxes))

    @torch.no_grad()
    def assign_boxes(self, anchors: Tensor, boxes: list[Tensor]) -> AnchorAssignment:
        """Return the same for anchors that lie anywhere, with exact IoU of all M x R pairs.

        Args:
            anchors: (N, R, 5) of each image.
            boxes: ground truths (M_i, 5) of each image, image pixels.
        """
        found, num_before = [], 0
        for image_anchors, image_boxes in zip(anchors, boxes, strict=True):
            iou = box_iou_rotated(image_boxes.float(), image_anchors.float())  # (M_i, R)
            best = iou.amax(dim=1, keepdim=True)
            chosen = (iou >= self.negative_iou) | ((iou == best) & (best > 0))
            owner, anchor = chosen.nonzero(as_tuple=True)
            found.append(Pairs(owner + num_before, anchor, iou[owner, anchor]))
            num_before += len(image_boxes)
        pairs = join_pairs(found, anchors.device) if num_before else None
        return self._from_pairs(pairs, boxes, anchors.shape[1])

    def _from_pairs(
        self, pairs: Pairs | None, boxes: list[Tensor], num_anchors: int
    ) -> AnchorAssignment:
        """Return the assignment by pairs of IoU >= negative_iou and every object's best ones."""
        all_boxes = torch.cat(boxes)
        first_key = _first_keys(boxes, num_anchors)
        if pairs is None:
            return AnchorAssignment(first_key, first_key, first_key)
        num_keys = len(boxes) * num_anchors
        best_iou = pairs.best_iou(len(all_boxes))
        is_best = (pairs.iou == best_iou[pairs.owner]) & (pairs.iou >= self.min_positive_iou)
        key = first_key[pairs.owner] + pairs.anchor

        high, positive = pairs.iou >= self.negative_iou, pairs.iou >= self.positive_iou
        positive_location, positive_owner = _best_owners(
            key[positive], pairs.owner[positive], pairs.iou[positive], num_keys
        )
        # -2 nothing, -1 ignored, else the owner; later lines overrule.
        label = torch.full((num_keys,), -2, dtype=torch.int64, device=all_boxes.device)
        label[key[high]] = -1
        label[positive_location] = positive_owner
        last = torch.full_like(label, -1)
        last = last.scatter_reduce(0, key[is_best], pairs.owner[is_best], "amax")
        label = torch.where(last >= 0, last, label)
        location = (label >= 0).nonzero(as_tuple=True)[0]
        return AnchorAssignment(location, label[location], (label == -1).nonzero(as_tuple=True)[0])

    def _exact_pairs(self, grid: AnchorGrid, boxes: Tensor) -> Pairs:
        """Return all pairs of exact IoU >= negative_iou, and every object's best ones."""
        every_box = torch.arange(len(boxes), device=boxes.device)
        floor = boxes.new_full((len(boxes),), self.negative_iou)
        high = join_pairs(pairs_above(grid, boxes, every_box, floor), boxes.device)
        # Objects whose best IoU is lower: search further down for the best.
        poor = (high.best_iou(len(boxes)) == 0).nonzero(as_tuple=True)[0]
        floor = probe(grid, boxes[poor]).clamp(min=self.min_positive_iou)
        return join_pairs([high, *pairs_above(grid, boxes, poor, floor)], boxes.device)

    def _reference_pairs(self, grid: AnchorGrid, boxes: Tensor) -> Pairs:
        """Return all pairs of reference IoU >= negative_iou, and every object's best ones.

        The exact IoU tells which pairs come into question. The reference's lies within a bound of
        it, or anywhere below, when all pairs down to the best value found are looked at.
        """
        least = boxes.new_tensor([-torch.inf, -torch.inf, MIN_SIDE_PX, MIN_SIDE_PX, -torch.inf])
        search = _ReferenceSearch(
            grid, torch.maximum(boxes, least).float(), to_reference_form(boxes), self.negative_iou
        )
        rich = (boxes[:, 2:4] > 0).all(dim=1).nonzero(as_tuple=True)[0]
        search.look(rich, self.negative_iou - search.bound[rich])
        poor = rich[search.best[rich] < self.negative_iou]
        best = probe(grid, search.boxes[poor]).clamp(min=self.min_positive_iou)
        search.look(poor, best - 2 * search.bound[poor])
        poor = poor[(search.best < search.best_exact - search.bound)[poor]]
        search.look(poor, (search.best - search.bound)[poor])
        return join_pairs(search.found, boxes.device)


class _ReferenceSearch:
    """Look for pairs of high reference IoU among those of high exact IoU.

    Attributes:
        boxes: (M, 5) float32 ground truths.
        bound: (M,) by how much the reference's IoU may exceed the exact one.
        best: (M,) highest reference IoU found.
        best_exact: (M,) highest exact IoU found.
        found: the pairs of reference IoU >= ``high``, the best ones of each box, and others; with
            the reference's IoU.
    """

    def __init__(self, grid: AnchorGrid, boxes: Tensor, form: Tensor, high: float) -> None:
        """Args:
        grid: the anchors of one image.
        boxes: (M, 5) float32 ground truths.
        form: (M, 5) the same from ``to_reference_form``.
        high: the reference IoU from which on pairs are wanted.
        """
        self.boxes = boxes
        self.bound = rounding_bound(grid, boxes)
        self.best = boxes.new_zeros(len(boxes))
        self.best_exact = boxes.new_zeros(len(boxes))
        self.found: list[Pairs] = []
        self._grid, self._form, self._high = grid, form, high
        self._floor = boxes.new_full((len(boxes),), torch.inf)  # how far down each was looked at

    def look(self, rows: Tensor, floor: Tensor) -> None:
        """Look at all pairs of the boxes ``rows`` (m,) with exact IoU >= ``floor`` (m,)."""
        floor = floor.clamp(min=0)
        new = floor < self._floor[rows]
        rows, floor = rows[new], floor[new]
        self._floor[rows] = floor
        for pairs in pairs_above(self._grid, self.boxes, rows, floor):
            self.best_exact = torch.maximum(self.best_exact, pairs.best_iou(len(self.boxes)))
            form = self._form[pairs.owner], to_reference_form(self._grid.boxes[pairs.anchor])
            pairs = Pairs(pairs.owner, pairs.anchor, reference_iou(*form))
            self.best = torch.maximum(self.best, pairs.best_iou(len(self.boxes)))
            wanted = (pairs.iou >= self._high) | (pairs.iou == self.best[pairs.owner])
            self.found.append(pairs.select(wanted & (pairs.iou > 0)))


def _check_rounding(iou_rounding: str) -> None:
    if iou_rounding not in IOU_ROUNDINGS:
        raise ValueError(f"iou_rounding: expected one of {IOU_ROUNDINGS}, got {iou_rounding!r}")


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
    return (along_w.abs() <= boxes[:, 2] / 2 - INSIDE_MARGIN_PX) & (
        along_h.abs() <= boxes[:, 3] / 2 - INSIDE_MARGIN_PX
    )


def _distances(points_xy: Tensor, others_xy: Tensor) -> Tensor:
    """Return the distances (...) of points (..., 2), in the source's float32 operations."""
    x, y = (others_xy - points_xy).unbind(dim=-1)
    return (x * x + y * y).sqrt()


def _nearest_of_level(centers_xy: Tensor, points_xy: Tensor, count: int) -> Tensor:
    """Return (m, count) the ``count`` of all ``centers_xy`` (A, 2) nearest to each point (m, 2).

    Which of equally near ones is left to ``torch.topk``, run along the dimension that the source
    runs it along, since the choice depends on it.
    """
    nearest = [torch.zeros(0, count, dtype=torch.int64, device=points_xy.device)]
    for chunk in points_xy.split(max(1, MAX_PAIRS // len(centers_xy))):
        distance = _distances(chunk[None], centers_xy[:, None])  # (A, m)
        nearest.append(distance.topk(count, dim=0, largest=False).indices.t())
    return torch.cat(nearest)
