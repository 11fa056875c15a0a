"""AP in bins and by angle, the confusion matrix: small cases with answers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tcm_d2.evaluation.analysis.numbers import (
    Scoring,
    Shapes,
    angle_errors_deg,
    ap_by_angle_tolerance,
    ap_in_bins,
    count_confusion,
    measure_quads,
)
from tcm_d2.evaluation.scoring.average_precision import GroundTruths, Matches, match_detections
from tcm_d2.structures.detections import QuadDetections
from tests.evaluation.shapes import upright_quad

SCORING = Scoring(iou_threshold=0.5, metric="area", tie_order="stable", inclusive=False)


def found(*rows: tuple[int, float, list[list[float]]]) -> QuadDetections:
    image, scores, quads = zip(*rows)
    return QuadDetections(np.array(image), np.array(quads, dtype=np.float64), np.array(scores))


def objects(*rows: tuple[int, list[list[float]]], difficult: tuple[int, ...] = ()) -> GroundTruths:
    image, quads = zip(*rows)
    flags = np.isin(np.arange(len(rows)), difficult)
    return GroundTruths(np.array(image), np.array(quads, dtype=np.float64), flags)


def nothing() -> tuple[QuadDetections, GroundTruths]:
    none, quads = np.empty(0, dtype=np.int64), np.empty((0, 4, 2))
    return QuadDetections(none, quads, np.empty(0)), GroundTruths(none, quads, np.empty(0, bool))


def test_shapes_of_quads() -> None:
    turned = [[0.0, 0], [30, 30], [20, 40], [-10, 10]]  # 30 sqrt(2) x 10 sqrt(2), down to the right
    shapes = measure_quads(np.array([upright_quad(5, 5, 40, 10), turned, [[1.0, 1]] * 4]))
    assert shapes.size_px.tolist() == pytest.approx([20, math.sqrt(600), 0])
    assert shapes.aspect.tolist() == pytest.approx([4, 3, math.inf])
    assert shapes.angle_deg[:2].tolist() == pytest.approx([0, -45])


def test_angle_errors_know_half_turns_and_squares() -> None:
    def shapes(aspect: list[float], angle_deg: list[float]) -> Shapes:
        return Shapes(np.ones(len(aspect)), np.array(aspect), np.array(angle_deg))

    errors = angle_errors_deg(
        shapes([2, 2, 2, 1], [-89.0, 10.0, -45.0, 88.0]), shapes([2, 2, 2, 1], [89, -10, 45, 0])
    )
    assert errors.tolist() == pytest.approx([2, 20, 90, 2])


def test_ap_in_bins_ignores_what_lies_outside() -> None:
    small, large = upright_quad(0, 0, 10, 10), upright_quad(100, 0, 50, 50)
    gt = objects((0, small), (0, large), (0, upright_quad(300, 0, 10, 10)))
    det = found(
        (0, 0.9, large),
        (0, 0.8, upright_quad(500, 500, 60, 60)),  # of nothing, large
        (0, 0.7, small),
        (0, 0.6, upright_quad(600, 600, 12, 12)),  # of nothing, small
        (0, 0.5, small),  # a second time
    )
    matches = match_detections(det, gt, min_iou=0.5)
    bins = ap_in_bins(
        det.scores,
        matches,
        gt.difficult,
        edges=(0, 32, math.inf),
        detection_values=measure_quads(det.quads).size_px,
        object_values=measure_quads(gt.quads).size_px,
        scoring=SCORING,
    )
    assert [(b.num_ground_truths, b.num_found, b.num_detections) for b in bins] == [
        (2, 1, 3),
        (1, 1, 2),
    ]
    assert [b.ap for b in bins] == pytest.approx([0.5, 1.0])
    empty = ap_in_bins(
        det.scores,
        matches,
        gt.difficult,
        edges=(1000, 2000),
        detection_values=measure_quads(det.quads).size_px,
        object_values=measure_quads(gt.quads).size_px,
        scoring=SCORING,
    )
    assert math.isnan(empty[0].ap) and empty[0].num_ground_truths == 0


def test_ap_by_angle_tolerance_refuses_turned_matches() -> None:
    matches = Matches(np.array([0, 1]), np.array([0.8, 0.7]))
    results = ap_by_angle_tolerance(
        np.array([0.9, 0.8]),
        matches,
        np.zeros(2, bool),
        tolerances_deg=(1, 5, 90),
        errors_deg=np.array([3.0, 10.0]),
        scoring=SCORING,
    )
    assert [entry.ap for entry in results] == pytest.approx([0.0, 0.5, 1.0])


def test_confusion_pairs_across_classes() -> None:
    place = [upright_quad(100 * index, 0, 10, 10) for index in range(6)]
    planes = objects((0, place[0]), (0, place[1]), (0, place[2]), (0, place[3]), difficult=(3,))
    ships = objects((0, place[4]), (1, place[0]))
    plane_hits = found((0, 0.9, place[0]), (0, 0.8, place[4]), (0, 0.2, place[1]))
    ship_hits = found(
        (0, 0.7, place[2]),
        (0, 0.6, place[0]),  # the plane there is taken by a better score
        (0, 0.5, place[3]),  # difficult: counts nowhere
        (1, 0.4, place[0]),
        (1, 0.4, place[5]),
    )
    confusion = count_confusion(
        [plane_hits, ship_hits], [planes, ships], iou_threshold=0.5, score_threshold=0.3
    )
    assert confusion.counts.tolist() == [
        [1, 1, 1],  # planes: found, taken for a ship, missed
        [1, 1, 0],
        [0, 2, 0],  # ships where there is nothing free
    ]


def test_confusion_without_anything() -> None:
    det, gt = nothing()
    counts = count_confusion([det], [gt], iou_threshold=0.5, score_threshold=0.0).counts
    assert counts.tolist() == [[0, 0], [0, 0]]


def test_two_objects_and_two_detections_are_paired_one_to_one() -> None:
    wide = objects((0, upright_quad(0, 0, 10, 10)), (0, upright_quad(2, 0, 10, 10)))
    det = found((0, 0.9, upright_quad(1, 0, 10, 10)), (0, 0.8, upright_quad(1, 0, 10, 10)))
    counts = count_confusion([det], [wide], iou_threshold=0.5, score_threshold=0.0).counts
    assert counts.tolist() == [[2, 0], [0, 0]]
