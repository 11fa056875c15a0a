"""Each of the devkit's rules on a case computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tcm_d2.evaluation.scoring.average_precision import (
    ClassResult,
    GroundTruths,
    average_precision,
    evaluate_class,
    match_detections,
    mean_ap,
    score_matches,
)
from tcm_d2.structures.detections import QuadDetections
from tests.evaluation.shapes import random_rectangles, upright_quad

Quad = Sequence[Sequence[float]]
UNIT = upright_quad(0, 0, 10, 10)
FAR = upright_quad(100, 0, 10, 10)


def detections(*rows: tuple[int, float, Quad]) -> QuadDetections:
    return QuadDetections(
        np.array([image for image, _, _ in rows], dtype=np.int64),
        np.array([quad for _, _, quad in rows], dtype=np.float64).reshape(-1, 4, 2),
        np.array([score for _, score, _ in rows], dtype=np.float64),
    )


def ground_truths(*rows: tuple[int, Quad, bool]) -> GroundTruths:
    return GroundTruths(
        np.array([image for image, _, _ in rows], dtype=np.int64),
        np.array([quad for _, quad, _ in rows], dtype=np.float64).reshape(-1, 4, 2),
        np.array([difficult for _, _, difficult in rows], dtype=bool),
    )


def area_result(
    found: QuadDetections, truth: GroundTruths, iou_threshold: float = 0.5
) -> ClassResult:
    return evaluate_class(found, truth, iou_threshold=iou_threshold, metric="area")


def test_perfect_detections_have_ap_one() -> None:
    truth = ground_truths((0, UNIT, False), (1, FAR, False))
    found = detections((0, 0.9, UNIT), (1, 0.8, FAR))
    for metric in ("11point", "area"):
        result = evaluate_class(found, truth, iou_threshold=0.5, metric=metric)
        assert result.ap == pytest.approx(1.0, abs=1e-12)
    assert result.recall.tolist() == [0.5, 1.0] and result.precision.tolist() == [1.0, 1.0]
    assert result.max_recall == 1.0


def test_iou_equal_to_the_threshold_is_no_match() -> None:
    truth = ground_truths((0, UNIT, False))
    half = detections((0, 0.9, upright_quad(0, 0, 10, 5)))  # IoU is 0.5 exactly
    assert area_result(half, truth, 0.5).ap == 0.0
    assert area_result(half, truth, 0.4999).ap == 1.0


def test_detection_of_another_image_is_no_match() -> None:
    assert area_result(detections((1, 0.9, UNIT)), ground_truths((0, UNIT, False))).ap == 0.0


def test_second_detection_of_an_object_is_a_false_positive() -> None:
    truth = ground_truths((0, UNIT, False), (0, FAR, False))
    found = detections((0, 0.7, FAR), (0, 0.9, UNIT), (0, 0.8, UNIT))
    result = area_result(found, truth)
    assert result.scores.tolist() == [0.9, 0.8, 0.7]
    assert result.recall.tolist() == [0.5, 0.5, 1.0]
    np.testing.assert_allclose(result.precision, [1, 1 / 2, 2 / 3])
    assert result.ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_a_better_placed_duplicate_with_a_lower_score_is_the_false_positive() -> None:
    truth = ground_truths((0, UNIT, False))
    found = detections((0, 0.8, UNIT), (0, 0.9, upright_quad(0, 0, 10, 8)))
    assert area_result(found, truth).precision.tolist() == [1.0, 0.5]


def test_a_taken_object_is_not_replaced_by_the_second_best() -> None:
    # The second detection lies best on object 0, which is taken, and well enough on object 1.
    truth = ground_truths((0, UNIT, False), (0, upright_quad(2, 0, 10, 10), False))
    found = detections((0, 0.9, UNIT), (0, 0.8, upright_quad(0.5, 0, 10, 10)))
    result = area_result(found, truth)
    assert result.recall.tolist() == [0.5, 0.5]
    assert result.precision.tolist() == [1.0, 0.5]


def test_equal_iou_goes_to_the_first_object() -> None:
    truth = ground_truths((0, UNIT, False), (0, UNIT, False))
    result = area_result(detections((0, 0.9, UNIT), (0, 0.8, UNIT)), truth)
    assert result.recall.tolist() == [0.5, 0.5]


def test_difficult_objects_count_neither_way() -> None:
    truth = ground_truths((0, UNIT, True), (0, FAR, False))
    found = detections((0, 0.9, UNIT), (0, 0.8, UNIT), (0, 0.7, FAR))
    result = area_result(found, truth)
    assert result.ap == 1.0
    assert (result.num_ground_truths, result.num_difficult, result.num_detections) == (1, 1, 3)


def test_difficult_objects_count_as_others_if_asked_to() -> None:
    truth = ground_truths((0, UNIT, True), (0, FAR, False))
    found = detections((0, 0.9, UNIT), (0, 0.8, UNIT), (0, 0.7, FAR))
    result = evaluate_class(found, truth, iou_threshold=0.5, metric="area", difficult="count")
    assert result.ap == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert (result.num_ground_truths, result.num_difficult) == (2, 0)


def test_a_difficult_object_takes_detections_from_its_neighbour() -> None:
    # Best IoU decides before the flag is looked at: the detection is lost to the difficult object.
    truth = ground_truths((0, UNIT, True), (0, upright_quad(2, 0, 10, 10), False))
    result = area_result(detections((0, 0.9, upright_quad(0.5, 0, 10, 10))), truth)
    assert result.ap == 0.0 and result.recall.tolist() == [0.0]


def test_class_without_detections_has_ap_zero() -> None:
    result = evaluate_class(detections(), ground_truths((0, UNIT, False)), iou_threshold=0.5)
    assert result.ap == 0.0 and result.max_recall == 0.0
    assert (result.num_ground_truths, result.num_detections) == (1, 0)


@pytest.mark.parametrize("truth", [ground_truths(), ground_truths((0, UNIT, True))])
def test_class_without_counting_ground_truth_is_nan(truth: GroundTruths) -> None:
    for metric in ("11point", "area"):
        result = evaluate_class(detections((0, 0.9, UNIT)), truth, iou_threshold=0.5, metric=metric)
        assert math.isnan(result.ap) and math.isnan(result.max_recall)
        assert result.num_ground_truths == 0


def test_nothing_at_all_is_nan() -> None:
    assert math.isnan(evaluate_class(detections(), ground_truths(), iou_threshold=0.5).ap)


def test_eleven_points_by_hand() -> None:
    # Recall 0.5 at precision 1, recall 1 at precision 2/3: levels 0..0.5 get 1, 0.6..1 get 2/3.
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    expected = (6 * 1 + 5 * 2 / 3) / 11
    assert average_precision(recall, precision, metric="11point") == pytest.approx(expected)


def test_recall_of_three_tenths_misses_the_level_as_in_the_devkit() -> None:
    # np.arange(0, 1.1, 0.1)[3] is above 0.3, so only the levels 0, 0.1 and 0.2 are reached.
    ap = average_precision(np.array([0.3]), np.array([1.0]), metric="11point")
    assert ap == pytest.approx(3 / 11)
    ap = average_precision(np.array([0.4]), np.array([1.0]), metric="11point")
    assert ap == pytest.approx(5 / 11)


def test_result_does_not_depend_on_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    num_gt, num_det = 40, 150
    truth = GroundTruths(
        rng.integers(0, 4, num_gt), random_rectangles(rng, num_gt), rng.random(num_gt) < 0.2
    )
    near = rng.integers(0, num_gt, num_det)
    quads = truth.quads[near] + rng.normal(0, 1.5, (num_det, 1, 2))
    found = QuadDetections(truth.image_index[near], quads, rng.permutation(num_det) / num_det)
    expected = evaluate_class(found, truth, iou_threshold=0.5)
    assert 0.1 < expected.ap < 0.95
    for _ in range(5):
        rows, objects = rng.permutation(num_det), rng.permutation(num_gt)
        actual = evaluate_class(
            QuadDetections(*(column[rows] for column in found)),
            GroundTruths(*(column[objects] for column in truth)),
            iou_threshold=0.5,
        )
        assert actual.ap == expected.ap
        np.testing.assert_array_equal(actual.precision, expected.precision)


def test_vectorised_rules_equal_the_loop() -> None:
    """A plain loop over detections, as one would write the rules down."""
    rng = np.random.default_rng(5)
    num_gt, num_det = 60, 300
    truth = GroundTruths(
        rng.integers(0, 3, num_gt), random_rectangles(rng, num_gt), rng.random(num_gt) < 0.3
    )
    near = rng.integers(0, num_gt, num_det)
    quads = truth.quads[near] + rng.normal(0, 2, (num_det, 1, 2))
    found = QuadDetections(truth.image_index[near], quads, rng.random(num_det))
    matches = match_detections(found, truth, min_iou=0.0)
    taken: set[int] = set()
    true_positive, false_positive = [], []
    for det in np.argsort(-found.scores):
        hit = matches.best_iou[det] > 0.5
        gt = int(matches.best_gt[det])
        counts = hit and not truth.difficult[gt]
        true_positive.append(counts and gt not in taken)
        false_positive.append(not hit or (counts and gt in taken))
        if counts:
            taken.add(gt)
    result = score_matches(found, truth, matches, iou_threshold=0.5)
    recall = np.cumsum(true_positive) / (~truth.difficult).sum()
    np.testing.assert_array_equal(result.recall, recall)
    total = np.cumsum(true_positive) + np.cumsum(false_positive)
    expected = np.cumsum(true_positive) / np.maximum(total, 1e-300)
    np.testing.assert_allclose(result.precision, expected)


def test_matches_hold_for_all_higher_thresholds() -> None:
    rng = np.random.default_rng(6)
    truth = GroundTruths(np.zeros(30, np.int64), random_rectangles(rng, 30), np.zeros(30, bool))
    quads = truth.quads + rng.normal(0, 1, (30, 1, 2))
    found = QuadDetections(np.zeros(30, np.int64), quads, rng.random(30))
    matches = match_detections(found, truth, min_iou=0.5)
    for threshold in (0.5, 0.75, 0.95):
        once = score_matches(found, truth, matches, iou_threshold=threshold)
        again = evaluate_class(found, truth, iou_threshold=threshold)
        assert once.ap == again.ap


def test_stable_ties_keep_the_order_of_the_rows() -> None:
    truth = ground_truths((0, UNIT, False))
    rows = [(0, 0.5, UNIT)] + [(0, 0.5, FAR)] * 30
    first = evaluate_class(
        detections(*rows), truth, iou_threshold=0.5, metric="area", tie_order="stable"
    )
    last = evaluate_class(
        detections(*rows[::-1]), truth, iou_threshold=0.5, metric="area", tie_order="stable"
    )
    assert first.ap == 1.0 and last.ap == pytest.approx(1 / 31)


def test_mean_is_over_classes_with_ground_truth_or_over_all() -> None:
    good = area_result(detections((0, 0.9, UNIT)), ground_truths((0, UNIT, False)))
    missed = area_result(detections(), ground_truths((0, UNIT, False)))
    absent = area_result(detections((0, 0.9, UNIT)), ground_truths())
    assert mean_ap([good, missed, absent]) == 0.5
    assert mean_ap([good, missed, absent], over_all_classes=True) == pytest.approx(1 / 3)
    assert math.isnan(mean_ap([absent])) and math.isnan(mean_ap([]))
    assert mean_ap([absent], over_all_classes=True) == 0.0


def test_bad_arguments_are_refused_by_name() -> None:
    truth, found = ground_truths((0, UNIT, False)), detections((0, 0.9, UNIT))
    with pytest.raises(ValueError, match=r"iou_threshold: expected .* got 1\.5"):
        evaluate_class(found, truth, iou_threshold=1.5)
    with pytest.raises(ValueError, match="metric: expected one of"):
        evaluate_class(found, truth, iou_threshold=0.5, metric="coco")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tie_order: expected one of"):
        evaluate_class(found, truth, iou_threshold=0.5, tie_order="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"detections.quads: expected shape \(1, 4, 2\)"):
        evaluate_class(found._replace(quads=found.quads[:, :3]), truth, iou_threshold=0.5)
    with pytest.raises(ValueError, match=r"detections.scores: expected finite"):
        evaluate_class(found._replace(scores=np.array([np.nan])), truth, iou_threshold=0.5)


def test_an_inclusive_threshold_takes_its_own_value() -> None:
    """Half of a box: IoU 0.5 exactly, a match for mmrotate and none for the devkit."""
    square = np.array([upright_quad(0, 0, 10, 10)])
    half = QuadDetections(np.array([0]), np.array([upright_quad(0, 0, 10, 5)]), np.array([0.9]))
    objects = GroundTruths(np.array([0]), square, np.array([False]))
    matches = match_detections(half, objects, min_iou=0.4)
    for inclusive, expected in ((False, 0.0), (True, 1.0)):
        result = score_matches(
            half, objects, matches, iou_threshold=0.5, metric="area", inclusive=inclusive
        )
        assert result.ap == expected


def test_the_iou_of_a_self_crossing_quad_stays_below_one() -> None:
    quads = np.array(
        [[[[5, 0], [5, 3], [5, 2], [4, 1]]], [[[5, 4], [0, 0], [0, 4], [5, 0]]]], float
    )
    none = np.zeros(1, np.int64)
    found = QuadDetections(none, quads[0], np.ones(1))
    truth = GroundTruths(none, quads[1], np.zeros(1, bool))
    assert match_detections(found, truth, min_iou=0.5).best_iou.tolist() == [1.0]
