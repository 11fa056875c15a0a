"""One evaluation as one structure: numbers of each class, curves, bins, confusion, every match.

``analyze_evaluation`` makes it from prepared arrays; ``analysis.export`` writes it and reports
read it. ``VERSION`` changes when a reader of an older file would misunderstand a newer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tcm_d2.evaluation.analysis.numbers import (
    ANGLE_TOLERANCES_DEG,
    ASPECT_EDGES,
    SIZE_EDGES_PX,
    Bin,
    Confusion,
    Scoring,
    Shapes,
    Tolerance,
    angle_errors_deg,
    ap_by_angle_tolerance,
    ap_in_bins,
    count_confusion,
    measure_quads,
    select_shapes,
)
from tcm_d2.evaluation.scoring.average_precision import (
    ClassResult,
    Matches,
    Outcomes,
    decide_outcomes,
)
from tcm_d2.evaluation.scoring.protocols import Prepared, Rules
from tcm_d2.evaluation.scoring.score import ScoreTable, match_prepared, score_prepared
from tcm_d2.structures.arrays import FloatArray, IntArray

VERSION = 1
# What became of a detection, by code.
OUTCOMES = ("false", "true", "duplicate", "ignored")


@dataclass(frozen=True)
class AnalysisOptions:
    """Limits of the bins, and the score from which a detection counts in the confusion matrix."""

    size_edges_px: Sequence[float] = SIZE_EDGES_PX
    aspect_edges: Sequence[float] = ASPECT_EDGES
    angle_tolerances_deg: Sequence[float] = ANGLE_TOLERANCES_DEG
    confusion_score: float = 0.3


@dataclass(frozen=True)
class ClassAnalysis:
    """All about one class.

    Attributes:
        result: AP, curve and counts.
        ap_by_iou: AP at the IoUs of the COCO-style mean.
        num_true: found objects.
        mean_iou: of the found objects; NaN without any.
        median_angle_error_deg: of the found objects; NaN without any.
        best_f1: the highest F1 on the curve, and the score where it is reached; NaN without any.
        best_f1_score: the score threshold that gives it.
        by_size, by_aspect, by_angle: AP in bins, AP by angle tolerance.
        outcome: (D,) int index into ``OUTCOMES``, detections as given.
        best_gt: (D,) object with the highest IoU, -1 for none; detections as given.
        best_iou: (D,).
    """

    result: ClassResult
    ap_by_iou: dict[float, float]
    num_true: int
    mean_iou: float
    median_angle_error_deg: float
    best_f1: float
    best_f1_score: float
    by_size: list[Bin]
    by_aspect: list[Bin]
    by_angle: list[Tolerance]
    outcome: IntArray
    best_gt: IntArray
    best_iou: FloatArray


@dataclass(frozen=True)
class EvaluationResult:
    """A whole evaluation; ``prepared`` holds images, detections and objects as arrays."""

    table: ScoreTable
    prepared: Prepared
    rules: Rules
    options: AnalysisOptions
    classes: dict[str, ClassAnalysis]
    confusion: Confusion
    version: int = VERSION


def analyze_evaluation(
    prepared: Prepared,
    *,
    iou_threshold: float,
    rules: Rules,
    options: AnalysisOptions | None = None,
) -> EvaluationResult:
    """Score prepared arrays and take them apart by size, shape, angle and class."""
    options = AnalysisOptions() if options is None else options
    matches = match_prepared(prepared, iou_threshold=iou_threshold, sweep=True)
    table = score_prepared(
        prepared, iou_threshold=iou_threshold, rules=rules, sweep=True, matches=matches
    )
    scoring = Scoring(iou_threshold, rules.metric, rules.tie_order, rules.inclusive)
    classes = {
        name: _analyze_class(prepared, label, matches[label], table, scoring, options)
        for label, name in enumerate(prepared.names)
    }
    confusion = count_confusion(
        prepared.detections,
        prepared.ground_truths,
        iou_threshold=iou_threshold,
        score_threshold=options.confusion_score,
    )
    return EvaluationResult(table, prepared, rules, options, classes, confusion)


def _analyze_class(
    prepared: Prepared,
    label: int,
    matches: Matches,
    table: ScoreTable,
    scoring: Scoring,
    options: AnalysisOptions,
) -> ClassAnalysis:
    name = prepared.names[label]
    result = table.classes[name]
    scores = prepared.detections[label].scores
    ignored = prepared.ground_truths[label].difficult.astype(bool)
    if table.difficult == "count":
        ignored = np.zeros_like(ignored)
    found = measure_quads(prepared.detection_quads[label])
    true = measure_quads(prepared.object_quads[label])
    errors_deg = _errors_of_matches(found, true, matches)
    outcomes = decide_outcomes(
        scores,
        matches,
        ignored,
        iou_threshold=scoring.iou_threshold,
        tie_order=scoring.tie_order,
        inclusive=scoring.inclusive,
    )
    hits = outcomes.order[outcomes.is_true]
    best_f1, best_f1_score = _best_f1(result)
    in_bins = partial(ap_in_bins, scores, matches, ignored, scoring=scoring)
    return ClassAnalysis(
        result=result,
        ap_by_iou=table.ap_by_iou[name],
        num_true=len(hits),
        mean_iou=float(matches.best_iou[hits].mean()) if len(hits) else float("nan"),
        median_angle_error_deg=float(np.median(errors_deg[hits])) if len(hits) else float("nan"),
        best_f1=best_f1,
        best_f1_score=best_f1_score,
        by_size=in_bins(
            edges=options.size_edges_px,
            detection_values=found.size_px,
            object_values=true.size_px,
        ),
        by_aspect=in_bins(
            edges=options.aspect_edges, detection_values=found.aspect, object_values=true.aspect
        ),
        by_angle=ap_by_angle_tolerance(
            scores,
            matches,
            ignored,
            tolerances_deg=options.angle_tolerances_deg,
            errors_deg=errors_deg,
            scoring=scoring,
        ),
        outcome=_outcome_codes(outcomes),
        best_gt=matches.best_gt,
        best_iou=matches.best_iou,
    )


def _errors_of_matches(found: Shapes, true: Shapes, matches: Matches) -> FloatArray:
    """Return the angle error (D,) of each detection to its best object, 0 where it has none."""
    errors = np.zeros(len(matches.best_gt))
    has = np.flatnonzero(matches.best_gt >= 0)
    errors[has] = angle_errors_deg(
        select_shapes(found, has), select_shapes(true, matches.best_gt[has])
    )
    return errors


def _best_f1(result: ClassResult) -> tuple[float, float]:
    if result.num_ground_truths == 0 or result.num_detections == 0:
        return float("nan"), float("nan")
    total = np.maximum(result.precision + result.recall, np.finfo(np.float64).eps)
    f1 = 2 * result.precision * result.recall / total
    best = int(np.argmax(f1))
    return float(f1[best]), float(result.scores[best])


def _outcome_codes(outcomes: Outcomes) -> IntArray:
    codes = np.full(len(outcomes.order), OUTCOMES.index("ignored"), dtype=np.int64)
    codes[outcomes.is_true] = OUTCOMES.index("true")
    missed = outcomes.is_false & (outcomes.matched_gt < 0)
    codes[missed] = OUTCOMES.index("false")
    codes[outcomes.is_false & ~missed] = OUTCOMES.index("duplicate")
    in_input_order = np.empty_like(codes)
    in_input_order[outcomes.order] = codes
    return in_input_order
