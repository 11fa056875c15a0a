from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely

from tcm_d2.data.dota.clipping import clip_quads_to_window
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.dota.windows import quads_window_iof

WINDOW = np.array([0, 0, 100, 100])


def _quads(rng: np.random.Generator, num: int) -> np.ndarray:
    centers = rng.uniform(-10, 110, (num, 1, 2))
    angle = rng.uniform(0, np.pi, num)
    sides = rng.uniform(4, 60, (num, 2))
    axes = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1)
    axes = axes.reshape(num, 2, 2) * sides[:, :, None] / 2
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    return centers + signs @ axes


def test_cut_upright_boxes_end_at_the_border_and_keep_their_first_corner() -> None:
    quads = np.array(
        [
            [[-10, 20], [30, 20], [30, 40], [-10, 40]],
            [[90, 90], [120, 90], [120, 130], [90, 130]],
            [[10, 10], [20, 10], [20, 20], [10, 20]],
        ]
    )
    clipped = clip_quads_to_window(quads, WINDOW)
    assert clipped[0].tolist() == [[0, 20], [30, 20], [30, 40], [0, 40]]
    assert clipped[1].tolist() == [[90, 90], [100, 90], [100, 100], [90, 100]]
    assert np.array_equal(clipped[2], quads[2])


def test_a_long_object_cut_along_its_side_keeps_its_width() -> None:
    quad = np.array([[[-2, 0.2], [9, 0.1], [2, 90], [-9, 89]]])  # 11 px wide, 90 px long
    clipped = clip_quads_to_window(quad, WINDOW)
    exact = shapely.Polygon(quad[0]).intersection(shapely.box(0, 0, 100, 100))
    assert len(exact.exterior.coords) - 1 == 4
    quad += (2.5, 0)
    clipped = clip_quads_to_window(quad, WINDOW)
    exact = shapely.Polygon(quad[0]).intersection(shapely.box(0, 0, 100, 100))
    assert len(exact.exterior.coords) - 1 == 5  # the short sides are the shortest edges
    assert shapely.Polygon(clipped[0]).area > 0.9 * exact.area


def test_a_missing_corner_becomes_the_middle_of_the_edge_that_cut_it() -> None:
    # Only the tip beyond x = 100 is lost: its cut, the shortest edge, becomes (100, 50).
    quad = np.array([[[104, 50], [70, 84], [36, 50], [70, 16]]])
    clipped = clip_quads_to_window(quad, WINDOW)
    np.testing.assert_allclose(clipped[0], [[100, 50], [70, 84], [36, 50], [70, 16]])


def test_a_triangle_gets_a_fourth_corner_without_changing_its_area() -> None:
    quad = np.array([[[60, 20], [20, 60], [-20, 20], [20, -20]]])
    window = np.array([40, -100, 100, 100])  # the tip (60, 20)
    clipped = clip_quads_to_window(quad, window)
    exact = shapely.Polygon(quad[0]).intersection(shapely.box(*window))
    assert exact.area == 400 and shapely.Polygon(clipped[0]).area == pytest.approx(400)


def test_random_quads_stay_inside_and_lose_little_area() -> None:
    quads = _quads(np.random.default_rng(0), 2000)
    share = quads_window_iof(quads, WINDOW[None])[:, 0]
    quads, share = quads[share >= 0.7], share[share >= 0.7]
    clipped = clip_quads_to_window(quads, WINDOW)
    assert clipped.min() >= 0 and clipped.max() <= 100
    lost = []
    for quad, result, part in zip(quads, clipped, share):
        exact = shapely.Polygon(quad).intersection(shapely.box(0, 0, 100, 100))
        ours = shapely.Polygon(result)
        assert ours.is_valid
        num_corners = len(exact.exterior.coords) - 1
        if num_corners == 4 or part == 1:
            assert ours.symmetric_difference(exact).area < 1e-6 * exact.area
        else:
            lost.append(ours.symmetric_difference(exact).area / exact.area)
    # The worst are boxes with three of their corners cut off.
    assert len(lost) > 100 and np.mean(lost) < 0.12 and max(lost) < 0.35


def test_quads_outside_are_refused() -> None:
    quads = np.array([[[200, 20], [230, 20], [230, 40], [200, 40]]])
    with pytest.raises(ValueError, match=r"row 0 .* no area inside the window"):
        clip_quads_to_window(quads, WINDOW)


@pytest.mark.realdata
def test_cut_objects_are_those_of_the_devkit(realdata_dir: Path) -> None:
    """Patches that DOTA's own tool cut from half-size images, beside the whole images' labels.

    That tool rounds to whole pixels of the half-size image and pushes cut coordinates into
    1..1024; its labels are of an earlier version, in which a few objects lie elsewhere.
    """
    num_whole = num_cut = num_near_whole = num_near_cut = 0
    for path in sorted((realdata_dir / "dota" / "halfscale_patches" / "labelTxt").glob("P*.txt")):
        image_id, _, x, y = path.stem.replace("___", "__").split("__")
        source = realdata_dir / "dota" / "dotadevkit" / "labelTxt" / f"{image_id}.txt"
        quads = np.array([obj.quad for obj in read_label(source).objects]).reshape(-1, 4, 2) / 2
        window = np.array([int(x), int(y), int(x) + 1024, int(y) + 1024])
        share = quads_window_iof(quads, window[None])[:, 0]
        quads, share = quads[share >= 0.7], share[share >= 0.7]
        ours = clip_quads_to_window(quads, window) - window[:2]
        theirs = [obj.quad for obj in read_label(path, on_error="skip").objects]
        their_quads = np.array(theirs).reshape(-1, 4, 2)
        turns = np.stack([np.roll(their_quads, turn, axis=1) for turn in range(4)])
        for quad, part in zip(ours, share):
            is_near = abs(turns - quad).max(axis=(2, 3)).min() <= 1.0
            num_whole += part == 1
            num_cut += part < 1
            num_near_whole += is_near and part == 1
            num_near_cut += is_near and part < 1
    assert (num_whole, num_cut) == (1456, 12)
    assert num_near_whole == 1454
    assert num_near_cut == 10
