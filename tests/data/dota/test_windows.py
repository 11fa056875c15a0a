from __future__ import annotations

import numpy as np
import pytest
import shapely

from tcm_d2.data.dota.windows import (
    keep_covered_windows,
    quads_cut_by_window,
    quads_window_iof,
    sliding_windows,
    window_starts,
)
from tcm_d2.structures.quads import order_quads_around_center, signed_areas


@pytest.mark.parametrize(
    ("length", "window", "gap", "expected"),
    [
        (500, 1024, 200, [0]),
        (1024, 1024, 200, [0]),
        (1025, 1024, 200, [0, 1]),
        (1848, 1024, 200, [0, 824]),  # fits exactly
        (1849, 1024, 200, [0, 824, 825]),
        (1903, 1024, 200, [0, 824, 879]),
        (4000, 2048, 1000, [0, 1048, 1952]),
    ],
)
def test_starts_step_by_window_minus_gap_and_end_at_the_border(
    length: int, window: int, gap: int, expected: list[int]
) -> None:
    assert window_starts(length, window, gap) == expected


def test_windows_go_column_by_column_and_cover_the_image() -> None:
    windows = sliding_windows(1903, 1599, window_px=1024, gap_px=200)
    assert windows[:, :2].tolist() == [[x, y] for x in (0, 575) for y in (0, 824, 879)]
    covered = np.zeros((1903, 1599), dtype=bool)
    for x1, y1, x2, y2 in windows:
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    with pytest.raises(ValueError, match="gap_px: expected 0 <= gap < window size 100"):
        sliding_windows(10, 10, window_px=100, gap_px=100)


def test_windows_mostly_outside_are_dropped_unless_none_is_left() -> None:
    windows = np.concatenate(
        [
            sliding_windows(700, 700, window_px=1024, gap_px=200),  # 47% inside
            sliding_windows(700, 700, window_px=682, gap_px=0),
        ]
    )
    kept = keep_covered_windows(windows, 700, 700, min_image_rate=0.6)
    assert len(kept) == len(windows) - 1
    alone = keep_covered_windows(windows[:1], 700, 700, min_image_rate=0.6)
    assert alone.tolist() == [[0, 0, 1024, 1024]]
    # Exactly 60% is not more than 60%.
    half = np.array([[0, 0, 100, 100], [0, 0, 60, 60]])
    assert keep_covered_windows(half, 60, 100, min_image_rate=0.6).tolist() == [[0, 0, 60, 60]]


def _random_quads(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-200, 1300, (1500, 1, 2))
    quads = order_quads_around_center(centers + rng.normal(0, 60, (1500, 4, 2)))
    quads[::2] = quads[::2, ::-1]
    quads[:300] = np.round(quads[:300])
    low, size = np.round(rng.uniform(-100, 1000, (300, 2))), np.round(rng.uniform(1, 300, (300, 2)))
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    quads[300:600] = low[:, None] + corners * size[:, None]  # edges along the axes
    return quads[np.abs(signed_areas(quads)) > 1]


def test_iof_agrees_with_shapely() -> None:
    quads = _random_quads(0)  # convex and concave
    windows = np.array([[0, 0, 1024, 1024], [824, 100, 1848, 1124], [200, 200, 300, 300]])
    polygons = shapely.polygons(quads)
    assert shapely.is_valid(polygons).all()
    expected = np.stack(
        [
            shapely.area(shapely.intersection(polygons, shapely.box(*window)))
            / shapely.area(polygons)
            for window in windows.tolist()
        ],
        axis=1,
    )
    np.testing.assert_allclose(quads_window_iof(quads, windows), expected, rtol=0, atol=1e-11)


def test_iof_of_boxes_on_the_border_is_exact() -> None:
    def box(x1: float, x2: float) -> list[list[float]]:
        return [[x1, 10], [x2, 10], [x2, 20], [x1, 20]]

    quads = np.array([box(90, 100), box(90, 110), box(100, 110), box(93, 103), box(-10, 110)])
    iof = quads_window_iof(quads, np.array([[0, 0, 100, 100]]))[:, 0]
    np.testing.assert_allclose(iof, [1, 0.5, 0, 0.7, 100 / 120], rtol=1e-15)
    assert iof[3] >= 0.7
    cut = quads_cut_by_window(quads, np.array([0, 0, 100, 100]))
    assert cut.tolist() == [False, True, True, True, True]


def test_iof_without_quads_or_windows_is_empty() -> None:
    assert quads_window_iof(np.zeros((0, 4, 2)), np.zeros((3, 4))).shape == (0, 3)
    assert quads_window_iof(np.zeros((2, 4, 2)), np.zeros((0, 4))).shape == (2, 0)
