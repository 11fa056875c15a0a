"""What an AP hides: where detections fail by size, shape and angle, and which classes mix up.

Arrays in, dataclasses out; nothing here reads or writes files.

Letters: D detections, G ground truths of one class over all images; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tcm_d2.evaluation.scoring.average_precision import (
    GroundTruths,
    Matches,
    Metric,
    Outcomes,
    TieOrder,
    decide_outcomes,
    score_outcomes,
)
from tcm_d2.evaluation.scoring.quad_iou import overlapping_quads
from tcm_d2.structures.arrays import FloatArray, IntArray
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.structures.detections import QuadDetections

# Square root of the area of the smallest rectangle; COCO's limits, and one for tiny objects.
SIZE_EDGES_PX = (0.0, 16.0, 32.0, 96.0, float("inf"))
# Long side over short side.
ASPECT_EDGES = (1.0, 1.5, 3.0, 5.0, float("inf"))
ANGLE_TOLERANCES_DEG = (2.0, 5.0, 10.0, 15.0, 30.0, 90.0)
# Below this aspect ratio a rectangle looks the same after a quarter turn: its angle is taken
# modulo 90 degrees.
SQUARE_ASPECT = 1.2
# Sides below this have no ratio.
_MIN_SIDE_PX = 1e-6


@dataclass(frozen=True)
class Scoring:
    """How matches count, as in ``decide_outcomes`` and ``score_outcomes``."""

    iou_threshold: float
    metric: Metric
    tie_order: TieOrder
    inclusive: bool


@dataclass(frozen=True)
class Bin:
    """AP of one class in one bin; NaN without ground truth there.

    Attributes:
        low, high: values from ``low`` to below ``high``.
        num_ground_truths: objects of the bin that count.
        num_found: those of them that are found.
        num_detections: detections that count as true or false.
    """

    low: float
    high: float
    ap: float
    num_ground_truths: int
    num_found: int
    num_detections: int


@dataclass(frozen=True)
class Tolerance:
    """AP of one class when a match may be off by at most this angle; NaN without ground truth."""

    max_error_deg: float
    ap: float


@dataclass(frozen=True)
class Shapes:
    """Measures of quads by their smallest rectangles, each (N,).

    Attributes:
        size_px: square root of the area.
        aspect: long side over short side, infinite for a line.
        angle_deg: of the long side, in [-90, 90).
    """

    size_px: FloatArray
    aspect: FloatArray
    angle_deg: FloatArray


@dataclass(frozen=True)
class Confusion:
    """Which class is taken for which.

    Attributes:
        counts: (K + 1, K + 1); row: true class, column: predicted class. The last row counts
            detections of nothing, the last column objects that are missed.
        score_threshold: detections below it take no part.
        iou_threshold: a pair needs an IoU above it.
    """

    counts: IntArray
    score_threshold: float
    iou_threshold: float


def measure_quads(quads: FloatArray) -> Shapes:
    """Return size, aspect ratio and angle of quads (N, 4, 2)."""
    boxes = np.asarray(quads_to_boxes(np.array(quads, np.float64)))
    long, short = boxes[:, 2], boxes[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        aspect = np.where(short > _MIN_SIDE_PX, long / short, np.inf)
    return Shapes(np.sqrt(long * short), aspect, boxes[:, 4])


def angle_errors_deg(found: Shapes, true: Shapes) -> FloatArray:
    """Return the angles (N,) in [0, 90] between paired shapes; in [0, 45] where the true is square.

    Rectangles have no front: a half turn is no error.
    """
    period = np.where(true.aspect < SQUARE_ASPECT, 90.0, 180.0)
    difference = np.mod(found.angle_deg - true.angle_deg, period)
    return np.asarray(np.minimum(difference, period - difference))


def select_shapes(shapes: Shapes, index: IntArray) -> Shapes:
    """Return the shapes at ``index``."""
    return Shapes(shapes.size_px[index], shapes.aspect[index], shapes.angle_deg[index])


def ap_in_bins(
    scores: FloatArray,
    matches: Matches,
    ignored: NDArray[np.bool_],
    *,
    edges: Sequence[float],
    detection_values: FloatArray,
    object_values: FloatArray,
    scoring: Scoring,
) -> list[Bin]:
    """Return the AP of one class for the objects of each bin.

    As COCO does for areas: matches of objects outside the bin count neither way, nor do detections
    without a match whose own value lies outside.

    Args:
        scores: (D,).
        matches: of the detections.
        ignored: (G,) objects that don't count in any bin.
        edges: B + 1 increasing limits of B bins.
        detection_values: (D,).
        object_values: (G,).
        scoring: how matches count.
    """
    bins = []
    for low, high in pairwise(edges):
        outside = ignored | ~_is_within(object_values, low, high)
        outcomes = _decide(scores, matches, outside, scoring)
        own = _is_within(detection_values, low, high)[outcomes.order]
        outcomes = outcomes._replace(
            is_false=outcomes.is_false & (own | (outcomes.matched_gt >= 0))
        )
        result = score_outcomes(scores, outcomes, outside, metric=scoring.metric)
        num_found = int(outcomes.is_true.sum())
        num_false = int(outcomes.is_false.sum())
        bins.append(
            Bin(low, high, result.ap, result.num_ground_truths, num_found, num_found + num_false)
        )
    return bins


def ap_by_angle_tolerance(
    scores: FloatArray,
    matches: Matches,
    ignored: NDArray[np.bool_],
    *,
    tolerances_deg: Sequence[float],
    errors_deg: FloatArray,
    scoring: Scoring,
) -> list[Tolerance]:
    """Return the AP of one class when a match also needs an angle error within each tolerance.

    Args:
        scores: (D,).
        matches: of the detections.
        ignored: (G,) objects that don't count.
        tolerances_deg: in degrees; 90 asks for nothing.
        errors_deg: (D,) error of each detection to its best object; any where it has none.
        scoring: how matches count.
    """
    results = []
    for tolerance in tolerances_deg:
        best_iou = np.where(errors_deg <= tolerance, matches.best_iou, 0.0)
        outcomes = _decide(scores, matches._replace(best_iou=best_iou), ignored, scoring)
        result = score_outcomes(scores, outcomes, ignored, metric=scoring.metric)
        results.append(Tolerance(tolerance, result.ap))
    return results


def count_confusion(
    detections: Sequence[QuadDetections],
    ground_truths: Sequence[GroundTruths],
    *,
    iou_threshold: float,
    score_threshold: float,
) -> Confusion:
    """Pair detections with objects of any class and count the pairs of classes.

    In descending order of score (then of IoU) each detection takes the object of its image that
    overlaps most and is still free. Difficult objects count in no row, and detections that take
    them in no column.

    Args:
        detections: of each of K classes.
        ground_truths: of each class.
        iou_threshold: in [0, 1), strict.
        score_threshold: detections below it take no part.
    """
    num_classes = len(detections)
    found = [part.scores >= score_threshold for part in detections]
    scores = np.concatenate([np.empty(0)] + [d.scores[f] for d, f in zip(detections, found)])
    det_class = np.repeat(np.arange(num_classes), [int(f.sum()) for f in found])
    gt_class = np.repeat(np.arange(num_classes), [len(gt.difficult) for gt in ground_truths])
    difficult = np.concatenate([np.empty(0, bool)] + [gt.difficult for gt in ground_truths])
    no_quads, no_index = np.empty((0, 4, 2)), np.empty(0, np.int64)
    pairs = overlapping_quads(
        np.concatenate([no_quads] + [d.quads[f] for d, f in zip(detections, found)]),
        np.concatenate([no_quads] + [gt.quads for gt in ground_truths]),
        group1=np.concatenate([no_index] + [d.image_index[f] for d, f in zip(detections, found)]),
        group2=np.concatenate([no_index] + [gt.image_index for gt in ground_truths]),
        min_iou=iou_threshold,
    )
    order = np.lexsort((-pairs.iou, pairs.first, -scores[pairs.first]))
    taken_by = np.full(len(gt_class), -1, dtype=np.int64)
    takes = np.full(len(det_class), -1, dtype=np.int64)
    for det, gt in zip(pairs.first[order].tolist(), pairs.second[order].tolist()):
        if takes[det] < 0 and taken_by[gt] < 0:
            takes[det], taken_by[gt] = gt, det
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    paired = np.flatnonzero(takes >= 0)
    paired = paired[~difficult[takes[paired]]]
    np.add.at(counts, (gt_class[takes[paired]], det_class[paired]), 1)
    counts[-1, :-1] = np.bincount(det_class[takes < 0], minlength=num_classes)
    missed = gt_class[(taken_by < 0) & ~difficult]
    counts[:-1, -1] = np.bincount(missed, minlength=num_classes)
    return Confusion(counts, score_threshold, iou_threshold)


def _decide(
    scores: FloatArray, matches: Matches, ignored: NDArray[np.bool_], scoring: Scoring
) -> Outcomes:
    return decide_outcomes(
        scores,
        matches,
        ignored,
        iou_threshold=scoring.iou_threshold,
        tie_order=scoring.tie_order,
        inclusive=scoring.inclusive,
    )


def _is_within(values: FloatArray, low: float, high: float) -> NDArray[np.bool_]:
    return np.asarray((values >= low) & ((values < high) | np.isinf(high)))
