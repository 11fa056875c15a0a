"""What a report says in numbers: outcome of every detection and object, curves, confusion, strata.

Outcomes do not depend on a score threshold: by the devkit's rule the best-scored detection of an
object takes it, so raising the threshold only removes detections. An object is found at a
threshold if the detection that took it reaches it. That is what lets the page's slider be exact.

Letters: D detections, G objects (ground truths), K classes, T score thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcm_d2.evaluation.average_precision import (
    ClassResult,
    Detections,
    GroundTruths,
    Matches,
    Metric,
    match_detections,
    mean_ap,
    score_matches,
)
from tcm_d2.evaluation.quad_iou import FloatArray, IntArray
from tcm_d2.evaluation.submission import ClassDetections, no_detections
from tcm_d2.evaluation.task1_scoring import Annotations
from tcm_d2.structures.conversions import quads_to_boxes

# Outcomes of detections.
HIT, FALSE, IGNORED = 0, 1, 2
# The slider's steps.
THRESHOLDS: FloatArray = np.round(np.arange(0.0, 1.005, 0.01), 2)
# Confusion matrices are kept at every fifth of them.
CONFUSION_STEP = 5
# Upper bounds of the root of an object's area in px, and of long side / short side.
SIZE_BOUNDS_PX: tuple[float, ...] = (16, 32, 64, 128)
ASPECT_BOUNDS: tuple[float, ...] = (1.5, 3, 5)


class ObjectTable(NamedTuple):
    """Objects of all classes.

    Attributes:
        image_index: (G,).
        class_index: (G,).
        quads: (G, 4, 2) image pixels.
        difficult: bool (G,).
        found_score: (G,) score of the detection that took the object, NaN for none.
    """

    image_index: IntArray
    class_index: IntArray
    quads: FloatArray
    difficult: NDArray[np.bool_]
    found_score: FloatArray


class DetectionTable(NamedTuple):
    """Detections of all classes.

    Attributes:
        image_index: (D,).
        class_index: (D,).
        quads: (D, 4, 2) image pixels.
        scores: (D,).
        outcome: (D,) HIT, FALSE or IGNORED (on a difficult object).
        iou: (D,) with the best object of the class; 0 where it does not exceed the threshold.
    """

    image_index: IntArray
    class_index: IntArray
    quads: FloatArray
    scores: FloatArray
    outcome: IntArray
    iou: FloatArray


class Strata(NamedTuple):
    """AP by a property of the objects, in B bins.

    Attributes:
        bins: names of the bins.
        ap: (K, B), NaN without objects.
        num_objects: (K, B) without difficult ones.
    """

    bins: list[str]
    ap: FloatArray
    num_objects: IntArray


@dataclass(frozen=True)
class Analysis:
    """Everything the page shows besides pictures.

    Attributes:
        class_names: K names.
        image_ids: ids by image index.
        iou_threshold: a hit needs an IoU above it.
        metric: "11point" or "area".
        results: K results in the order of the names.
        detections: all of them.
        objects: all of them.
        confusion: (T', K + 1, K + 1) counts at every CONFUSION_STEP-th threshold: rows are classes
            of objects, the last one none (false detections); columns are classes of detections,
            the last one none (missed objects).
        by_size: AP by the root of the area.
        by_aspect: AP by long side / short side.
    """

    class_names: list[str]
    image_ids: list[str]
    iou_threshold: float
    metric: Metric
    results: list[ClassResult]
    detections: DetectionTable
    objects: ObjectTable
    confusion: IntArray
    by_size: Strata
    by_aspect: Strata

    @property
    def mean_ap(self) -> float:
        """Mean over the classes with ground truth; NaN without any."""
        return mean_ap(self.results)


def analyze(
    detections: Mapping[str, ClassDetections],
    annotations: Annotations,
    *,
    iou_threshold: float,
    metric: Metric,
) -> Analysis:
    """Score Task1 rows and keep what happened to each of them.

    Args:
        detections: rows by class name, see ``read_task1``; classes not annotated are left out.
        annotations: the truth, which says what the classes and the images are.
        iou_threshold: in [0, 1), strict.
        metric: "11point" or "area".

    Raises:
        ValueError: rows of images that ``annotations`` does not list, non-finite numbers.
    """
    names = list(annotations.by_class)
    index_of = {image_id: index for index, image_id in enumerate(annotations.image_ids)}
    found = [_with_index(detections.get(name, no_detections()), index_of, name) for name in names]
    truths = [annotations.by_class[name] for name in names]
    matches = [match_detections(d, g, min_iou=iou_threshold) for d, g in zip(found, truths)]
    results = [
        score_matches(d, g, m, iou_threshold=iou_threshold, metric=metric)
        for d, g, m in zip(found, truths, matches)
    ]
    outcomes, found_scores = [], []
    for d, g, m in zip(found, truths, matches):
        outcome, found_score = _outcomes(d, g, m)
        outcomes.append(outcome)
        found_scores.append(found_score)
    table = DetectionTable(
        image_index=_join([d.image_index for d in found], np.int64),
        class_index=_class_index([len(d.scores) for d in found]),
        quads=_join([d.quads for d in found], np.float64, (4, 2)),
        scores=_join([d.scores for d in found], np.float64),
        outcome=_join(outcomes, np.int64),
        iou=_join([m.best_iou for m in matches], np.float64),
    )
    objects = ObjectTable(
        image_index=_join([g.image_index for g in truths], np.int64),
        class_index=_class_index([len(g.difficult) for g in truths]),
        quads=_join([g.quads for g in truths], np.float64, (4, 2)),
        difficult=_join([g.difficult for g in truths], bool),
        found_score=_join(found_scores, np.float64),
    )
    return Analysis(
        class_names=names,
        image_ids=list(annotations.image_ids),
        iou_threshold=iou_threshold,
        metric=metric,
        results=results,
        detections=table,
        objects=objects,
        confusion=_confusion(table, objects, len(names), iou_threshold),
        by_size=_strata(found, truths, matches, _root_area_px, SIZE_BOUNDS_PX, " px", metric),
        by_aspect=_strata(found, truths, matches, _aspect, ASPECT_BOUNDS, "", metric),
    )


def count_outcomes(analysis: Analysis) -> tuple[IntArray, IntArray]:
    """Return hits and false detections (K, T) of each class at each of THRESHOLDS."""
    table = analysis.detections
    shape = (len(analysis.class_names), len(THRESHOLDS))
    counts = []
    # A score counts at every threshold up to it.
    last = np.searchsorted(THRESHOLDS, table.scores + 1e-9, side="right") - 1  # (D,)
    for outcome in (HIT, FALSE):
        chosen = (table.outcome == outcome) & (last >= 0)
        at = np.zeros(shape, np.int64)
        np.add.at(at, (table.class_index[chosen], last[chosen]), 1)
        counts.append(at[:, ::-1].cumsum(1)[:, ::-1])
    return counts[0], counts[1]


def rank_images(analysis: Analysis, *, score_threshold: float) -> list[int]:
    """Return image indices, those with most missed and false boxes at the threshold first."""
    table, objects = analysis.detections, analysis.objects
    errors = np.zeros(len(analysis.image_ids), np.int64)
    is_false = (table.outcome == FALSE) & (table.scores >= score_threshold)
    np.add.at(errors, table.image_index[is_false], 1)
    # NaN, never found, compares False.
    is_missed = ~objects.difficult & ~(objects.found_score >= score_threshold)
    np.add.at(errors, objects.image_index[is_missed], 1)
    return [int(index) for index in np.argsort(-errors, kind="stable")]


def _with_index(rows: ClassDetections, index_of: Mapping[str, int], name: str) -> Detections:
    image_index = np.array([index_of.get(i, -1) for i in rows.image_ids], dtype=np.int64)
    unknown = np.flatnonzero(image_index < 0)
    if len(unknown):
        raise ValueError(
            f"results of class {name!r}: {len(unknown)} rows of images without a label file, such "
            f"as {rows.image_ids[unknown[0]]!r}; merge patch results into whole images first, or "
            "give the label folder of these images"
        )
    return Detections(image_index, rows.quads, rows.scores)


def _outcomes(
    detections: Detections, truths: GroundTruths, matches: Matches
) -> tuple[IntArray, FloatArray]:
    """Return outcome (D,) and found_score (G,) of one class; the order is that of the score."""
    order = np.argsort(-detections.scores)  # the devkit's own call, see average_precision
    found_score = np.full(len(truths.difficult), np.nan)
    outcome = np.full(len(order), FALSE, np.int64)
    for row in order.tolist():
        target = int(matches.best_gt[row])
        if target < 0:
            continue
        if truths.difficult[target]:
            outcome[row] = IGNORED
        elif np.isnan(found_score[target]):
            outcome[row] = HIT
            found_score[target] = detections.scores[row]
    return outcome, found_score


def _confusion(
    table: DetectionTable, objects: ObjectTable, num_classes: int, iou_threshold: float
) -> IntArray:
    """Count pairs of classes; see Analysis.confusion.

    Each detection, best score first, goes to the object of any class with the largest IoU above
    the threshold; a later one on the same object is false.
    """
    # What cannot be seen at the lowest threshold above 0 needs no matching.
    rows = np.flatnonzero(table.scores >= THRESHOLDS[CONFUSION_STEP])
    rows = rows[np.argsort(-table.scores[rows], kind="stable")]
    matches = match_detections(
        Detections(table.image_index[rows], table.quads[rows], table.scores[rows]),
        GroundTruths(objects.image_index, objects.quads, objects.difficult),
        min_iou=iou_threshold,
    )
    thresholds = THRESHOLDS[CONFUSION_STEP::CONFUSION_STEP]
    counts = np.zeros((len(thresholds), num_classes + 1, num_classes + 1), np.int64)
    counts[:, :num_classes, num_classes] = np.bincount(
        objects.class_index[~objects.difficult], minlength=num_classes
    )
    taken = np.zeros(len(objects.difficult), bool)
    last = np.searchsorted(thresholds, table.scores[rows] + 1e-9, side="right")  # (D',)
    for row, target, end in zip(rows.tolist(), matches.best_gt.tolist(), last.tolist()):
        column = int(table.class_index[row])
        if target >= 0 and objects.difficult[target]:
            continue
        if target < 0 or taken[target]:
            counts[:end, num_classes, column] += 1
            continue
        taken[target] = True
        line = int(objects.class_index[target])
        counts[:end, line, column] += 1
        counts[:end, line, num_classes] -= 1
    return counts


def _strata(
    found: Sequence[Detections],
    truths: Sequence[GroundTruths],
    matches: Sequence[Matches],
    measure: object,
    bounds: Sequence[float],
    unit: str,
    metric: Metric,
) -> Strata:
    """Score each bin as if objects of other bins were difficult.

    A detection without an object counts in the bin of its own measure.
    """
    names = [f"< {bounds[0]:g}{unit}"]
    names += [f"{low:g} - {high:g}{unit}" for low, high in pairwise(bounds)]
    names.append(f">= {bounds[-1]:g}{unit}")
    ap = np.full((len(found), len(names)), np.nan)
    num = np.zeros(ap.shape, np.int64)
    assert callable(measure)
    for row, (d, g, m) in enumerate(zip(found, truths, matches)):
        gt_bin = np.searchsorted(bounds, measure(g.quads), side="right")
        own_bin = np.searchsorted(bounds, measure(d.quads), side="right")
        for column in range(len(names)):
            kept = (m.best_gt >= 0) | (own_bin == column)
            result = score_matches(
                Detections(d.image_index[kept], d.quads[kept], d.scores[kept]),
                GroundTruths(g.image_index, g.quads, g.difficult | (gt_bin != column)),
                Matches(m.best_gt[kept], m.best_iou[kept]),
                iou_threshold=0.0,
                metric=metric,
            )
            ap[row, column], num[row, column] = result.ap, result.num_ground_truths
    return Strata(names, ap, num)


def _root_area_px(quads: FloatArray) -> FloatArray:
    boxes = quads_to_boxes(quads)
    return np.sqrt(boxes[:, 2] * boxes[:, 3])


def _aspect(quads: FloatArray) -> FloatArray:
    boxes = quads_to_boxes(quads)
    return boxes[:, 2] / np.maximum(boxes[:, 3], 1e-6)


def _join(parts: Sequence[np.ndarray], dtype: type, tail: tuple[int, ...] = ()) -> np.ndarray:
    return np.concatenate([np.zeros((0, *tail), dtype), *parts]).astype(dtype)


def _class_index(lengths: Sequence[int]) -> IntArray:
    return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
