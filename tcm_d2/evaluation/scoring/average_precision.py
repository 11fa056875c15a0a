"""Average precision of one class by the rules of the DOTA devkit (Task 1): arrays in, numbers out.

Source: CAPTAIN-WHU/DOTA_devkit, ``dota_evaluation_task1.py`` (``voc_eval``, ``voc_ap``). The rules:

- QuadDetections of all images are taken in descending order of score.
- Each is matched to the ground truth of its image with the highest polygon IoU, whether or not that
  one is already taken. IoU must exceed the threshold (strict); otherwise it is a false positive.
- A match to a difficult object counts neither way; difficult objects do not count as ground truths.
- The first match to an object is a true positive, every later one a false positive.
- AP is the VOC07 11-point mean or the area under the monotone precision envelope.

Equal scores: the devkit's ``np.argsort`` is not stable, and which of the tied detections comes
first depends on numpy's version and on the CPU (AVX-512 or not). ``tie_order="devkit"`` makes the
same call and so gives the devkit's number on the same machine; ``tie_order="stable"`` keeps the
order of the input and gives the same number everywhere. Without ties both are the same.

Deliberate differences from the devkit:

- A class without detections has AP 0 (there the devkit raises IndexError); a class without ground
  truth has AP NaN (there the devkit gives 0 for 11 points and NaN for the area).

Letters: D detections, G ground truths of one class over all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tcm_d2.evaluation.scoring.quad_iou import overlapping_quads
from tcm_d2.structures.arrays import BoolArray, FloatArray, IntArray
from tcm_d2.structures.detections import QuadDetections

Metric = Literal["11point", "area"]
DifficultRule = Literal["ignore", "count"]
TieOrder = Literal["devkit", "stable"]
METRICS: tuple[str, ...] = ("11point", "area")
DIFFICULT_RULES: tuple[str, ...] = ("ignore", "count")
TIE_ORDERS: tuple[str, ...] = ("devkit", "stable")

# The devkit's own recall levels. Some lie a rounding error above their decimal (0.3 + 4e-17), so
# that a recall of exactly 3/10 does not reach the level 0.3 there; kept for equal numbers.
RECALL_LEVELS = np.arange(0.0, 1.1, 0.1)


class GroundTruths(NamedTuple):
    """Objects of one class: image_index (G,), quads (G, 4, 2) image pixels, difficult (G,) bool."""

    image_index: IntArray
    quads: FloatArray
    difficult: BoolArray


class Matches(NamedTuple):
    """Best ground truth of each detection: best_gt (D,), -1 for none; best_iou (D,), 0 for none."""

    best_gt: IntArray
    best_iou: FloatArray


class Outcomes(NamedTuple):
    """What became of the detections of a class, in descending score order.

    Attributes:
        order: (D,) index of each among the detections as given.
        matched_gt: (D,) object of a match, also of a second one; -1 for none.
        is_true: (D,) bool, the first match of an object that counts.
        is_false: (D,) bool; neither true nor false are matches of ignored objects.
    """

    order: IntArray
    matched_gt: IntArray
    is_true: BoolArray
    is_false: BoolArray


@dataclass(frozen=True)
class ClassResult:
    """Score of one class.

    Attributes:
        ap: in [0, 1]; NaN without ground truth.
        recall: (D,) after each detection in descending score order; NaN without ground truth.
        precision: (D,) likewise.
        scores: (D,) descending.
        num_ground_truths: objects that count (without difficult ones where these are ignored).
        num_difficult: objects that are ignored as difficult.
        num_detections: all detections, D.
    """

    ap: float
    recall: FloatArray
    precision: FloatArray
    scores: FloatArray
    num_ground_truths: int
    num_difficult: int
    num_detections: int

    @property
    def max_recall(self) -> float:
        """Recall over all detections: 0 without detections, NaN without ground truth."""
        if self.num_ground_truths == 0:
            return float("nan")
        return float(self.recall[-1]) if len(self.recall) else 0.0


def evaluate_class(
    detections: QuadDetections,
    ground_truths: GroundTruths,
    *,
    iou_threshold: float,
    metric: Metric = "11point",
    difficult: DifficultRule = "ignore",
    tie_order: TieOrder = "devkit",
) -> ClassResult:
    """Score the detections of one class.

    Args:
        detections: of all images, in any order.
        ground_truths: of all images, in any order (the order decides between equal IoUs).
        iou_threshold: in [0, 1); a match needs an IoU above it.
        metric: "11point" (VOC07, the official one) or "area".
        difficult: "ignore" (the official rule) or "count" difficult objects as any others
            (mmrotate's local metric).
        tie_order: "devkit" or "stable" order of equal scores, see above.

    Raises:
        ValueError: on wrong shapes, non-finite numbers, or an unknown choice.
    """
    matches = match_detections(detections, ground_truths, min_iou=iou_threshold)
    return score_matches(
        detections,
        ground_truths,
        matches,
        iou_threshold=iou_threshold,
        metric=metric,
        difficult=difficult,
        tie_order=tie_order,
    )


def match_detections(
    detections: QuadDetections, ground_truths: GroundTruths, *, min_iou: float
) -> Matches:
    """Find the ground truth with the highest IoU for each detection.

    The result holds for every threshold from ``min_iou`` on: the devkit's choice of ground truth
    does not depend on the threshold.

    Raises:
        ValueError: on wrong shapes, non-finite numbers, or ``min_iou`` outside [0, 1).
    """
    return match_classes([detections], [ground_truths], min_iou=min_iou)[0]


def match_classes(
    detections: Sequence[QuadDetections], ground_truths: Sequence[GroundTruths], *, min_iou: float
) -> list[Matches]:
    """Match the detections of every class with the objects of that class, see above.

    Raises:
        ValueError: on wrong shapes, non-finite numbers, or ``min_iou`` outside [0, 1).
    """
    for found, objects in zip(detections, ground_truths, strict=True):
        _check_inputs(found, objects)
    if not 0 <= min_iou < 1:
        raise ValueError(f"iou_threshold: expected a number in [0, 1), got {min_iou}")
    num_det, num_gt = _starts(detections), _starts(ground_truths)
    pairs = overlapping_quads(
        _concatenate_quads(detections),
        _concatenate_quads(ground_truths),
        group1=_groups(detections),
        group2=_groups(ground_truths),
        min_iou=min_iou,
    )
    best_gt = np.full(num_det[-1], -1, dtype=np.int64)
    best_iou = np.zeros(num_det[-1], dtype=np.float64)
    if len(pairs.first):
        # Pairs are sorted by detection, then by object: the first at the top, as argmax does.
        starts = np.flatnonzero(np.diff(pairs.first, prepend=-1))
        top = np.maximum.reduceat(pairs.iou, starts)
        at_top = np.flatnonzero(pairs.iou == np.repeat(top, np.diff(starts, append=len(pairs.iou))))
        index, first = np.unique(pairs.first[at_top], return_index=True)
        best_gt[index] = pairs.second[at_top[first]]
        # Of self-crossing quads the devkit's IoU may lie far above 1.
        best_iou[index] = np.minimum(top, 1.0)
    matches = []
    for label in range(len(detections)):
        mine = slice(num_det[label], num_det[label + 1])
        gt = best_gt[mine]
        matches.append(Matches(np.where(gt >= 0, gt - num_gt[label], -1), best_iou[mine]))
    return matches


def decide_outcomes(
    scores: FloatArray,
    matches: Matches,
    ignored: BoolArray,
    *,
    iou_threshold: float,
    tie_order: TieOrder = "devkit",
    inclusive: bool = False,
) -> Outcomes:
    """Say for each detection of a class whether it is true, false, or counts neither way.

    Args:
        scores: (D,).
        matches: found with ``min_iou`` below ``iou_threshold``, or equal to it if not inclusive.
        ignored: (G,) objects whose matches count neither way.
        iou_threshold: a match needs an IoU above it.
        tie_order: "devkit" or "stable" order of equal scores.
        inclusive: an IoU equal to the threshold is a match, too (mmrotate's rule).
    """
    _check_choice("tie_order", tie_order, TIE_ORDERS)
    order = np.argsort(-scores, kind="stable" if tie_order == "stable" else None)
    iou = matches.best_iou
    is_match = (iou >= iou_threshold) & (iou > 0) if inclusive else iou > iou_threshold
    matched_gt = np.where(is_match, matches.best_gt, -1)[order]  # (D,)
    matched = np.flatnonzero(matched_gt >= 0)
    # The first detection of each object, in score order, takes it.
    taken, first = np.unique(matched_gt[matched], return_index=True)
    is_true = np.zeros(len(order), dtype=bool)
    is_true[matched[first[~ignored[taken]]]] = True
    is_false = ~is_true
    is_false[matched[ignored[matched_gt[matched]]]] = False
    return Outcomes(order, matched_gt, is_true, is_false)


def score_matches(
    detections: QuadDetections,
    ground_truths: GroundTruths,
    matches: Matches,
    *,
    iou_threshold: float,
    metric: Metric = "11point",
    difficult: DifficultRule = "ignore",
    tie_order: TieOrder = "devkit",
    inclusive: bool = False,
) -> ClassResult:
    """Turn matches (found with ``min_iou`` at most ``iou_threshold``) into the score of a class."""
    _check_choice("metric", metric, METRICS)
    _check_choice("difficult", difficult, DIFFICULT_RULES)
    ignored = ground_truths.difficult.astype(bool)
    if difficult == "count":
        ignored = np.zeros_like(ignored)
    outcomes = decide_outcomes(
        detections.scores,
        matches,
        ignored,
        iou_threshold=iou_threshold,
        tie_order=tie_order,
        inclusive=inclusive,
    )
    return score_outcomes(detections.scores, outcomes, ignored, metric=metric)


def score_outcomes(
    scores: FloatArray, outcomes: Outcomes, ignored: BoolArray, *, metric: Metric
) -> ClassResult:
    """Return the curve and the AP of decided outcomes; scores (D,), ignored objects (G,)."""
    num_counted = int((~ignored).sum())
    true_sum, false_sum = np.cumsum(outcomes.is_true), np.cumsum(outcomes.is_false)
    precision = true_sum / np.maximum(true_sum + false_sum, np.finfo(np.float64).eps)
    num = len(outcomes.order)
    recall = np.full(num, np.nan) if num_counted == 0 else true_sum / float(num_counted)
    ap = float("nan") if num_counted == 0 else average_precision(recall, precision, metric=metric)
    return ClassResult(
        ap=ap,
        recall=recall,
        precision=precision,
        scores=scores[outcomes.order],
        num_ground_truths=num_counted,
        num_difficult=int(ignored.sum()),
        num_detections=num,
    )


def average_precision(recall: FloatArray, precision: FloatArray, *, metric: Metric) -> float:
    """Return the AP of a curve: recall (D,) not decreasing, precision (D,); 0 for an empty one."""
    if len(recall) == 0:
        return 0.0
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "11point":
        index = np.searchsorted(recall, RECALL_LEVELS, side="left")
        padded = np.append(envelope, 0.0)
        ap = 0.0
        for value in padded[index].tolist():
            ap = ap + value / 11.0
        return ap
    steps = np.diff(recall, prepend=0.0)
    return float((steps * envelope).sum())


def mean_ap(results: Sequence[ClassResult], *, over_all_classes: bool = False) -> float:
    """Return the mean AP over the classes with ground truth; NaN when there is none.

    Args:
        results: one per class.
        over_all_classes: divide by the number of all classes instead, with 0 for a class without
            ground truth, as the devkit's main program does.
    """
    counted = [result.ap for result in results if result.num_ground_truths > 0]
    num = len(results) if over_all_classes else len(counted)
    return float(sum(counted) / num) if num else float("nan")


def _starts(parts: Sequence[QuadDetections | GroundTruths]) -> list[int]:
    """Return where each part starts when all are put in a row, and the end."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part.image_index))
    return starts


def _concatenate_quads(parts: Sequence[QuadDetections | GroundTruths]) -> FloatArray:
    return np.concatenate([np.empty((0, 4, 2))] + [part.quads for part in parts])


def _groups(parts: Sequence[QuadDetections | GroundTruths]) -> IntArray:
    """One group for each class of each image."""
    num = len(parts)
    keys = [part.image_index * num + label for label, part in enumerate(parts)]
    return np.concatenate([np.empty(0, np.int64)] + keys).astype(np.int64, copy=False)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def _check_inputs(detections: QuadDetections, ground_truths: GroundTruths) -> None:
    num_det, num_gt = len(detections.scores), len(ground_truths.difficult)
    expected = {
        "detections.image_index": (detections.image_index, (num_det,)),
        "detections.quads": (detections.quads, (num_det, 4, 2)),
        "detections.scores": (detections.scores, (num_det,)),
        "ground_truths.image_index": (ground_truths.image_index, (num_gt,)),
        "ground_truths.quads": (ground_truths.quads, (num_gt, 4, 2)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    for name in ("detections.quads", "detections.scores", "ground_truths.quads"):
        if not np.isfinite(expected[name][0]).all():
            raise ValueError(
                f"{name}: expected finite numbers, got NaN or infinity; drop such rows"
            )
