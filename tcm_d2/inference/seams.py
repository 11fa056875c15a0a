"""Make one set of detections from those of overlapping windows.

A window's inner borders cut objects. What a detector finds there is a piece, or a guess at the
whole, and plain suppression lets the piece win where its score is higher, or keeps both where their
IoU is small. The rule here, for windows that overlap by more than an object's length:

1. A detection is *cut* when it comes within a margin of an inner border of its window (the border
   of the picture is none). Its place is *seen whole* when some window holds it with that margin
   free on all inner sides.
2. Suppression is greedy, in float64, in this order: detections that are not cut, cut ones whose
   place no window sees whole, cut ones whose place one does; within each by descending score. A box
   is dropped when its IoU with a kept one of its class is above the threshold, a cut one also when
   most of it lies in a kept one: it is a piece of it. A piece whose place is seen whole is dropped
   for an uncut box of any class, as pieces are easily taken for something else.
3. A cut detection whose place is seen whole, and that no other window confirms, keeps half of its
   score: the window that sees the place whole has found nothing there.

Letters: M detections, W windows, K kept.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from shapely import STRtree, box

from tcm_d2.ops import paired_iou_rotated
from tcm_d2.structures.arrays import BoolArray, FloatArray, IntArray
from tcm_d2.structures.conversions import boxes_to_hboxes
from tcm_d2.structures.detections import BoxDetections

SeamRule = Literal["whole", "nms"]
SEAM_RULES: tuple[str, ...] = ("whole", "nms")

# A cut detection is a piece of another when more than this part of it lies inside.
_PIECE_IOF = 0.5
# Factor on the score of a detection that the window with the better view does not share.
_DOUBT = 0.5
# The order of suppression.
_UNCUT, _CUT, _CUT_BUT_SEEN_WHOLE = 0, 1, 2
# Margin as a part of the window's shorter side, and its least value: what lies nearer to a border
# is seen without its surroundings.
_MARGIN_FRACTION, _MIN_MARGIN_PX = 1 / 32, 2.0
# Pairs whose overlap is computed at a time: 40 MB.
_PAIRS_AT_ONCE = 500_000


class SeamReport(NamedTuple):
    """What became of the detections of all windows.

    Attributes:
        keep: (K,) int64 indices of those kept, by descending score.
        scores: (K,) their scores, halved where doubted.
        is_cut: (M,) bool, near an inner border of its window.
        is_seen_whole: (M,) bool, some window holds the place whole.
    """

    keep: IntArray
    scores: FloatArray
    is_cut: BoolArray
    is_seen_whole: BoolArray


class _Pairs(NamedTuple):
    """Pairs of overlapping boxes: the one that comes first in the order, and the other."""

    first: IntArray
    second: IntArray
    iou: FloatArray
    intersection: FloatArray


def merge_windows(
    found: BoxDetections,
    *,
    window_index: IntArray,
    windows: IntArray,
    image_size_hw: tuple[int, int],
    iou_threshold: float,
    rule: SeamRule,
) -> SeamReport:
    """Return which detections to keep.

    Args:
        found: M finite boxes of all windows, image pixels.
        window_index: (M,) the window of each detection.
        windows: (W, 4) x1, y1, x2, y2 in image pixels, all of one size, a full grid.
        image_size_hw: size of the whole image.
        iou_threshold: in [0, 1].
        rule: "whole" as above, or "nms" for plain suppression.

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in SEAM_RULES:
        raise ValueError(f"seam_rule: expected one of {SEAM_RULES}, got {rule!r}")
    boxes, scores, class_ids = found.boxes, found.scores, found.class_ids
    num_boxes = len(found)
    is_cut, is_seen_whole = np.zeros(num_boxes, dtype=bool), np.zeros(num_boxes, dtype=bool)
    if rule == "whole" and num_boxes:
        free = _free_areas(windows, image_size_hw, seam_margin_px(windows))  # (W, 4)
        reach = boxes_to_hboxes(torch.from_numpy(boxes)).numpy()  # (M, 4)
        own = free[window_index]
        is_inside = (reach[:, :2] >= own[:, :2]) & (reach[:, 2:] <= own[:, 2:])
        is_cut = ~np.asarray(is_inside.all(axis=1))
        is_seen_whole = _fits_any(reach[:, [0, 2]], free[:, [0, 2]])
        is_seen_whole &= _fits_any(reach[:, [1, 3]], free[:, [1, 3]])
    tier = np.where(is_cut, np.where(is_seen_whole, _CUT_BUT_SEEN_WHOLE, _CUT), _UNCUT)
    order = np.lexsort((np.arange(num_boxes), -scores, tier))
    pairs = _overlapping_pairs(boxes, order)
    kept = np.flatnonzero(_suppress(pairs, boxes, class_ids, order, tier, iou_threshold))

    agrees = (class_ids[pairs.first] == class_ids[pairs.second]) & (pairs.iou > iou_threshold)
    agrees &= window_index[pairs.first] != window_index[pairs.second]
    is_confirmed = np.zeros(num_boxes, dtype=bool)
    is_confirmed[pairs.first[agrees]] = is_confirmed[pairs.second[agrees]] = True
    is_doubted = (tier == _CUT_BUT_SEEN_WHOLE) & ~is_confirmed
    new_scores = np.where(is_doubted, _DOUBT * scores, scores)[kept]
    by_score = np.lexsort((kept, -new_scores))
    return SeamReport(kept[by_score], new_scores[by_score], is_cut, is_seen_whole)


def seam_margin_px(windows: IntArray) -> float:
    """Return how near to an inner border a detection counts as cut."""
    sides = windows[:, 2:] - windows[:, :2]
    return max(_MIN_MARGIN_PX, float(sides.min()) * _MARGIN_FRACTION)


def _suppress(
    pairs: _Pairs,
    boxes: FloatArray,
    class_ids: IntArray,
    order: IntArray,
    tier: IntArray,
    iou_threshold: float,
) -> BoolArray:
    """Return (M,) bool: the boxes that greedy suppression in an order keeps."""
    a, b = pairs.first, pairs.second
    is_same_class = class_ids[a] == class_ids[b]
    is_piece = pairs.intersection > _PIECE_IOF * (boxes[b, 2] * boxes[b, 3])
    is_piece &= (is_same_class & (tier[b] >= _CUT)) | (
        (tier[b] == _CUT_BUT_SEEN_WHOLE) & (tier[a] == _UNCUT)
    )
    drops = (is_same_class & (pairs.iou > iou_threshold)) | is_piece
    rank = np.empty(len(boxes), dtype=np.int64)
    rank[order] = np.arange(len(boxes))
    a, b = a[drops], b[drops]
    # By the first box's rank: whatever may drop a box comes before what it may drop.
    by_rank = np.argsort(rank[a], kind="stable")
    is_kept = np.ones(len(boxes), dtype=bool)
    for first, second in zip(a[by_rank].tolist(), b[by_rank].tolist()):
        if is_kept[first]:
            is_kept[second] = False
    return is_kept


def _overlapping_pairs(boxes: FloatArray, order: IntArray) -> _Pairs:
    """Return the pairs of boxes whose upright hulls meet; few of all pairs in a large picture."""
    rank = np.empty(len(boxes), dtype=np.int64)
    rank[order] = np.arange(len(boxes))
    hulls = boxes_to_hboxes(torch.from_numpy(boxes)).numpy()
    shapes = box(*hulls.T)
    first, second = STRtree(shapes).query(shapes)
    is_ordered = rank[first] < rank[second]
    first, second = first[is_ordered], second[is_ordered]
    tensor, areas = torch.from_numpy(boxes).to(torch.float64), boxes[:, 2] * boxes[:, 3]
    iou = np.empty(len(first))
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        iou[part] = paired_iou_rotated(tensor[first[part]], tensor[second[part]]).numpy()
    intersection = iou / (1 + iou) * (areas[first] + areas[second])
    return _Pairs(first, second, iou, intersection)


def _free_areas(windows: IntArray, image_size_hw: tuple[int, int], margin_px: float) -> FloatArray:
    """Return the windows without the margins along their inner borders, (W, 4)."""
    height, width = image_size_hw
    free = windows.astype(np.float64)
    for column, limit in enumerate((0, 0)):
        at_border = windows[:, column] <= limit
        free[:, column] = np.where(at_border, -np.inf, windows[:, column] + margin_px)
    for column, limit in ((2, width), (3, height)):
        at_border = windows[:, column] >= limit
        free[:, column] = np.where(at_border, np.inf, windows[:, column] - margin_px)
    return free


def _fits_any(reach: FloatArray, free: FloatArray) -> BoolArray:
    """Return (M,) bool: the intervals (M, 2) that lie in one of the intervals (W, 2)."""
    fits = np.zeros(len(reach), dtype=bool)
    # The windows are a grid: few intervals differ.
    for low, high in np.unique(free, axis=0):
        fits |= (reach[:, 0] >= low) & (reach[:, 1] <= high)
    return fits
