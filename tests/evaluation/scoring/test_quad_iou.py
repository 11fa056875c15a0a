"""Quad IoU against shapely and by hand; candidate search; NMS of quads."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from tcm_d2.evaluation.scoring.quad_iou import (
    nms_quads,
    overlapping_quads,
    paired_quad_iou,
)
from tcm_d2.structures.quads import signed_areas
from tests.evaluation.shapes import random_rectangles, upright_quad


def shapely_iou(quads1: np.ndarray, quads2: np.ndarray) -> np.ndarray:
    one, two = shapely.polygons(quads1), shapely.polygons(quads2)
    inter = shapely.area(shapely.intersection(one, two))
    return inter / (shapely.area(one) + shapely.area(two) - inter)


@pytest.mark.parametrize("offset_px", [0.0, 2e4])
def test_iou_of_rectangles_agrees_with_shapely(offset_px: float) -> None:
    rng = np.random.default_rng(0)
    quads1, quads2 = random_rectangles(rng, 3000), random_rectangles(rng, 3000)
    expected = shapely_iou(quads1, quads2)
    assert (expected > 0).sum() > 200
    actual = paired_quad_iou(quads1 + offset_px, quads2 + offset_px)
    np.testing.assert_allclose(actual, expected, atol=1e-9)


def test_iou_of_simple_quads_convex_or_not_agrees_with_shapely() -> None:
    rng = np.random.default_rng(1)
    quads1, quads2 = rng.uniform(0, 50, (2, 8000, 4, 2))
    simple = shapely.is_valid(shapely.polygons(quads1)) & shapely.is_valid(shapely.polygons(quads2))
    quads1, quads2 = quads1[simple], quads2[simple]
    convex = shapely.area(shapely.convex_hull(shapely.polygons(quads1)))
    assert (convex > shapely.area(shapely.polygons(quads1)) * 1.001).any()
    np.testing.assert_allclose(
        paired_quad_iou(quads1, quads2), shapely_iou(quads1, quads2), atol=1e-12
    )


def test_iou_does_not_depend_on_first_corner_or_direction() -> None:
    rng = np.random.default_rng(2)
    quads1, quads2 = random_rectangles(rng, 500), random_rectangles(rng, 500)
    expected = paired_quad_iou(quads1, quads2)
    for shift in range(4):
        turned = np.roll(quads1, shift, axis=1)
        np.testing.assert_allclose(paired_quad_iou(turned, quads2), expected, atol=1e-12)
        np.testing.assert_allclose(paired_quad_iou(turned[:, ::-1], quads2), expected, atol=1e-12)
        np.testing.assert_allclose(paired_quad_iou(quads2, turned), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("quad", "expected"),
    [
        (upright_quad(0, 0, 10, 10), 1.0),
        (upright_quad(0, 0, 10, 5), 0.5),
        (upright_quad(2, 2, 5, 5), 0.25),
        (upright_quad(5, 0, 10, 10), 1 / 3),
        (upright_quad(10, 0, 10, 10), 0.0),
        (upright_quad(10, 10, 10, 10), 0.0),
        (upright_quad(30, 30, 10, 10), 0.0),
        (upright_quad(3, 3, 0, 4), 0.0),
        (upright_quad(3, 3, 0, 0), 0.0),
        ([[5, -5], [15, 5], [5, 15], [-5, 5]], 0.5),
    ],
)
def test_iou_by_hand_is_exact_for_whole_numbers(quad: list[list[float]], expected: float) -> None:
    square = np.array([upright_quad(0, 0, 10, 10)])
    assert paired_quad_iou(square, np.array([quad], dtype=float))[0] == expected


def test_iou_of_a_self_crossing_quad_is_the_devkits() -> None:
    # A bow tie of two triangles: 4 x 10 / 2 = 20 on the left, 6 x 15 / 2 = 45 the other way round.
    # Oriented so that the larger counts positive, the square below covers 45 - 20 = 25.
    bow_tie = np.array([[[0.0, 0.0], [10.0, 15.0], [10.0, 0.0], [0.0, 10.0]]])
    area = abs(signed_areas(bow_tie)[0])
    assert area == pytest.approx(25.0)
    cover = np.array([upright_quad(0, 0, 10, 15)])
    assert paired_quad_iou(bow_tie, cover)[0] == pytest.approx(25 / (25 + 150 - 25))


def test_iou_of_two_quads_without_area_is_zero() -> None:
    point = np.zeros((1, 4, 2))
    assert paired_quad_iou(point, point)[0] == 0.0


@pytest.mark.parametrize("min_iou", [1e-9, 0.1, 0.5])
def test_overlapping_quads_finds_all_pairs_of_a_group(min_iou: float) -> None:
    rng = np.random.default_rng(3)
    quads1, quads2 = random_rectangles(rng, 150), random_rectangles(rng, 200)
    group1, group2 = rng.integers(0, 3, 150), rng.integers(0, 4, 200)
    first, second = np.divmod(np.arange(150 * 200), 200)
    iou = paired_quad_iou(quads1[first], quads2[second])
    wanted = (iou > min_iou) & (group1[first] == group2[second])
    pairs = overlapping_quads(quads1, quads2, group1=group1, group2=group2, min_iou=min_iou)
    assert wanted.sum() > 20
    assert pairs.first.tolist() == first[wanted].tolist()
    assert pairs.second.tolist() == second[wanted].tolist()
    np.testing.assert_array_equal(pairs.iou, iou[wanted])


def test_overlapping_quads_survives_an_absurd_coordinate() -> None:
    quads = np.array([upright_quad(0, 0, 10, 10), upright_quad(1e15, 0, 1e15, 10)])
    group = np.zeros(2, dtype=np.int64)
    pairs = overlapping_quads(quads, quads, group1=group, group2=group, min_iou=0.5)
    assert pairs.first.tolist() == [0, 1] and pairs.second.tolist() == [0, 1]


def test_overlapping_quads_of_nothing_is_empty() -> None:
    none, some = np.empty((0, 4, 2)), np.array([upright_quad(0, 0, 1, 1)])
    no_group, group = np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for quads1, group1, quads2, group2 in (
        (none, no_group, some, group),
        (some, group, none, no_group),
        (none, no_group, none, no_group),
    ):
        pairs = overlapping_quads(quads1, quads2, group1=group1, group2=group2, min_iou=0.1)
        assert len(pairs.first) == 0


def test_nms_keeps_the_best_of_each_group() -> None:
    quads = np.array(
        [
            upright_quad(0, 0, 10, 10),
            upright_quad(1, 0, 10, 10),  # IoU 9/11 with the first
            upright_quad(0, 0, 10, 10),  # the same place in another group
            upright_quad(50, 0, 10, 10),
        ]
    )
    scores = np.array([0.5, 0.9, 0.1, 0.7])
    group = np.array([0, 0, 1, 0])
    assert nms_quads(quads, scores, group=group, iou_threshold=0.3).tolist() == [1, 3, 2]


def test_nms_does_not_let_a_suppressed_quad_suppress() -> None:
    quads = np.array([upright_quad(x, 0, 10, 10) for x in (0, 4, 8)])
    scores = np.array([0.9, 0.8, 0.7])
    group = np.zeros(3, dtype=np.int64)
    # Neighbours have IoU 6/14, the outer two 2/18.
    assert nms_quads(quads, scores, group=group, iou_threshold=0.3).tolist() == [0, 2]


def test_nms_threshold_is_strict_and_ties_go_by_index() -> None:
    quads = np.array([upright_quad(0, 0, 10, 5), upright_quad(0, 0, 10, 10)])
    scores = np.array([0.5, 0.5])
    group = np.zeros(2, dtype=np.int64)
    assert nms_quads(quads, scores, group=group, iou_threshold=0.5).tolist() == [0, 1]
    assert nms_quads(quads, scores, group=group, iou_threshold=0.49).tolist() == [0]
