"""What a report says in numbers: outcome of every detection and object, curves, confusion, strata.

Outcomes do not depend on a score threshold: by the devkit's rule the best-scored detection of an
object takes it, so raising the threshold only removes detections. An object is found at a
threshold if the detection that took it reaches it. That is what lets the page's slider be exact.

Letters: D detections, G objects (ground truths), K classes, T score thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcm_d2.evaluation.analysis.numbers import Bin, count_confusion
from tcm_d2.evaluation.analysis.result import OUTCOMES, EvaluationResult, analyze_evaluation
from tcm_d2.evaluation.scoring.annotations import Annotations
from tcm_d2.evaluation.scoring.average_precision import ClassResult, Metric, mean_ap
from tcm_d2.evaluation.scoring.protocols import Rules, prepare_evaluation
from tcm_d2.structures.arrays import FloatArray, IntArray
from tcm_d2.structures.detections import ClassDetections

# Outcomes of detections.
HIT, FALSE, IGNORED = 0, 1, 2
_FROM_NAME = {"true": HIT, "false": FALSE, "duplicate": FALSE, "ignored": IGNORED}
# The slider's steps.
THRESHOLDS: FloatArray = np.round(np.arange(0.0, 1.005, 0.01), 2)
# Confusion matrices are kept at every fifth of them.
CONFUSION_STEP = 5


class ObjectTable(NamedTuple):
    """Objects of all classes.

    Attributes:
        image_index: (G,).
        class_index: (G,).
        quads: (G, 4, 2) image pixels.
        difficult: bool (G,), those that do not count.
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
        iou: (D,) with the best object of the class.
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
        ap_75, ap_50_95: (K,) AP at IoU 0.75, and the mean over 0.5 to 0.95; NaN without objects.
        angle_error_deg: (K,) median over the hits; NaN without hits.
        detections: all of them.
        objects: all of them.
        confusion: (T', K + 1, K + 1) counts at every CONFUSION_STEP-th threshold: rows are classes
            of objects, the last one none (false detections); columns are classes of detections,
            the last one none (missed objects).
        by_size: AP by the root of the area.
        by_aspect: AP by long side / short side.
        warnings: sentences about what was left out or is odd.
    """

    class_names: list[str]
    image_ids: list[str]
    iou_threshold: float
    metric: Metric
    results: list[ClassResult]
    ap_75: FloatArray
    ap_50_95: FloatArray
    angle_error_deg: FloatArray
    detections: DetectionTable
    objects: ObjectTable
    confusion: IntArray
    by_size: Strata
    by_aspect: Strata
    warnings: list[str]

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
    """Score Task1 rows by the devkit's rules and keep what happened to each of them.

    Args:
        detections: rows by class name, see ``read_task1``; classes not annotated are left out.
        annotations: the truth, which says what the classes and the images are.
        iou_threshold: in [0, 1), strict.
        metric: "11point" or "area".

    Raises:
        ValueError: rows of images that ``annotations`` does not list, non-finite numbers.
    """
    rules = Rules(metric=metric)
    prepared = prepare_evaluation(detections, annotations, rules=rules)
    return collect(analyze_evaluation(prepared, iou_threshold=iou_threshold, rules=rules))


def collect(result: EvaluationResult) -> Analysis:
    """Return what the page shows of an evaluation."""
    prepared, parts = result.prepared, list(result.classes.values())
    found_scores = []
    for part, found, truths in zip(parts, prepared.detections, prepared.ground_truths):
        rows = np.flatnonzero(part.outcome == OUTCOMES.index("true"))
        score = np.full(len(truths.difficult), np.nan)
        score[part.best_gt[rows]] = found.scores[rows]
        found_scores.append(score)
    to_outcome = np.array([_FROM_NAME[name] for name in OUTCOMES])
    counts_all = result.rules.difficult == "count"
    return Analysis(
        class_names=list(prepared.names),
        image_ids=list(prepared.image_ids),
        iou_threshold=result.table.iou_threshold,
        metric=result.rules.metric,
        results=[part.result for part in parts],
        ap_75=np.array([_ap_near(part.ap_by_iou, 0.75) for part in parts], dtype=np.float64),
        ap_50_95=np.array([_mean(list(part.ap_by_iou.values())) for part in parts]),
        angle_error_deg=np.array([part.median_angle_error_deg for part in parts]),
        detections=DetectionTable(
            image_index=_join([d.image_index for d in prepared.detections], np.int64),
            class_index=_class_index([len(d.scores) for d in prepared.detections]),
            quads=_join(prepared.detection_quads, np.float64, (4, 2)),
            scores=_join([d.scores for d in prepared.detections], np.float64),
            outcome=_join([to_outcome[part.outcome] for part in parts], np.int64),
            iou=_join([part.best_iou for part in parts], np.float64),
        ),
        objects=ObjectTable(
            image_index=_join([g.image_index for g in prepared.ground_truths], np.int64),
            class_index=_class_index([len(g.difficult) for g in prepared.ground_truths]),
            quads=_join(prepared.object_quads, np.float64, (4, 2)),
            difficult=_join([g.difficult & (not counts_all) for g in prepared.ground_truths], bool),
            found_score=_join(found_scores, np.float64),
        ),
        confusion=_confusion(result),
        by_size=_strata([part.by_size for part in parts], " px"),
        by_aspect=_strata([part.by_aspect for part in parts], ""),
        warnings=list(prepared.warnings),
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


def _confusion(result: EvaluationResult) -> IntArray:
    prepared = result.prepared
    return np.stack(
        [
            count_confusion(
                prepared.detections,
                prepared.ground_truths,
                iou_threshold=result.table.iou_threshold,
                # A score equal to the threshold counts, also where rounding makes it less.
                score_threshold=float(threshold) - 1e-9,
            ).counts
            for threshold in THRESHOLDS[CONFUSION_STEP::CONFUSION_STEP]
        ]
    )


def _strata(parts: Sequence[Sequence[Bin]], unit: str) -> Strata:
    bins = parts[0] if parts else []
    return Strata(
        [_bin_name(entry, unit) for entry in bins],
        np.array([[entry.ap for entry in part] for part in parts], dtype=np.float64),
        np.array([[entry.num_ground_truths for entry in part] for part in parts], dtype=np.int64),
    )


def _bin_name(entry: Bin, unit: str) -> str:
    if math.isinf(entry.high):
        return f">= {entry.low:g}{unit}"
    return f"{entry.low:g} - {entry.high:g}{unit}"


def _ap_near(ap_by_iou: Mapping[float, float], iou: float) -> float:
    """Return the AP at an IoU among floating-point keys; NaN where it was not computed."""
    near = [ap for key, ap in ap_by_iou.items() if math.isclose(key, iou, abs_tol=1e-6)]
    return near[0] if near else float("nan")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _join(parts: Sequence[np.ndarray], dtype: type, tail: tuple[int, ...] = ()) -> np.ndarray:
    return np.concatenate([np.zeros((0, *tail), dtype), *parts]).astype(dtype)


def _class_index(lengths: Sequence[int]) -> IntArray:
    return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
