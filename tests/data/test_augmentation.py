from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode

from tcm_d2.config.defaults import get_tcm_config
from tcm_d2.config.plain import build
from tcm_d2.data.augmentation import (
    RandomFlip,
    RandomResize,
    RandomRotation,
    apply_augmentations,
    augmentation_nodes,
    flip,
    resize,
    rotate,
)

# A bright square of 6 x 4 px whose corners are the points.
CORNERS = np.array([[10, 8], [16, 8], [16, 12], [10, 12]], dtype=float)


def _scene(height: int = 40, width: int = 50) -> np.ndarray:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[8:12, 10:16] = 255
    return image


def _bright_box(image: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(image[..., 0] > 127)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def _point_box(points: np.ndarray) -> tuple[float, ...]:
    return (*points.min(axis=0), *points.max(axis=0))


@pytest.mark.parametrize(("along_x", "along_y"), [(1, 0), (0, 1), (1, 1), (0, 0)])
def test_flips_move_points_with_the_pixels(along_x: int, along_y: int) -> None:
    image, points = flip(_scene(), CORNERS, along_x=bool(along_x), along_y=bool(along_y))
    assert _point_box(points) == _bright_box(image)
    assert points[0].tolist() == [40 if along_x else 10, 32 if along_y else 8]
    again = flip(image, points, along_x=bool(along_x), along_y=bool(along_y))
    assert np.array_equal(again.image, _scene())
    assert np.array_equal(again.points, CORNERS)


def test_resize_moves_points_with_the_pixels() -> None:
    image, points = resize(_scene(), CORNERS, factor=2.0)
    assert image.shape == (80, 100, 3)
    assert _point_box(points) == _bright_box(image) == (20, 16, 32, 24)
    image, points = resize(_scene(), CORNERS, factor=0.5)
    assert _point_box(points) == _bright_box(image) == (5, 4, 8, 6)
    # 50 * 0.33 rounds to 16: the points follow the rounded size.
    assert resize(_scene(), CORNERS, factor=0.33).points[0, 0] == pytest.approx(10 * 16 / 50)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_quarter_turns_equal_numpys(quarter_turns: int) -> None:
    image = _scene(50, 50)
    turned = rotate(image, CORNERS, angle_deg=90.0 * quarter_turns, border_rgb=(0, 0, 0))
    assert np.array_equal(turned.image, np.rot90(image, quarter_turns))  # counter-clockwise
    assert _point_box(turned.points) == pytest.approx(_bright_box(turned.image))


def test_rotation_keeps_size_fills_the_border_and_moves_points_with_the_pixels() -> None:
    turned = rotate(_scene(), CORNERS, angle_deg=30.0, border_rgb=(7, 8, 9))
    assert turned.image.shape == (40, 50, 3)
    assert turned.image[0, 0].tolist() == [7, 8, 9]
    weights = turned.image[..., 0].astype(float) * (turned.image[..., 0] > 20)
    rows, columns = np.mgrid[0:40, 0:50] + 0.5
    center = [(weights * columns).sum() / weights.sum(), (weights * rows).sum() / weights.sum()]
    np.testing.assert_allclose(turned.points.mean(axis=0), center, atol=0.05)
    # Up and to the left of the centre, counter-clockwise goes down: (x, y) of the width edge.
    edge = turned.points[1] - turned.points[0]
    np.testing.assert_allclose(edge, [6 * np.cos(np.pi / 6), -6 * np.sin(np.pi / 6)], atol=1e-12)


def test_at_most_one_flip_with_the_given_probabilities() -> None:
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1).repeat(3, axis=2)
    names = {(0, 1): "none", (1, 0): "horizontal", (2, 3): "vertical", (3, 2): "diagonal"}
    random_flip, rng = RandomFlip([0.25, 0.15, 0.2]), np.random.default_rng(0)
    counts = Counter(
        names[tuple(random_flip(image, CORNERS, rng).image[0, :, 0].tolist())] for _ in range(4000)
    )
    for name, probability in (("horizontal", 0.25), ("vertical", 0.15), ("diagonal", 0.2)):
        assert counts[name] / 4000 == pytest.approx(probability, abs=0.03)
    assert counts["none"] / 4000 == pytest.approx(0.4, abs=0.03)


def build_augmentations(cfg: CfgNode, *, is_train: bool) -> list[Any]:
    return [build(node) for node in augmentation_nodes(cfg, is_train)]


def test_the_same_seed_gives_the_same_sample_and_inputs_are_not_changed() -> None:
    cfg = get_tcm_config()
    cfg.INPUT.ROTATION_PROB = 0.8
    cfg.INPUT.RESIZE_FACTORS_TRAIN = [0.5, 1.0, 2.0]
    augmentations = build_augmentations(cfg, is_train=True)
    assert [type(a) for a in augmentations] == [RandomResize, RandomFlip, RandomRotation]
    image, points = _scene(), CORNERS.copy()
    results = [
        apply_augmentations(augmentations, image, points, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(results[0].image, results[1].image)
    assert np.array_equal(results[0].points, results[1].points)
    assert not np.array_equal(results[0].points, results[2].points)
    assert np.array_equal(image, _scene())
    assert np.array_equal(points, CORNERS)


def test_configurations_choose_the_augmentations() -> None:
    cfg = get_tcm_config()
    assert [type(a) for a in build_augmentations(cfg, is_train=True)] == [RandomFlip]
    assert build_augmentations(cfg, is_train=False) == []
    cfg.INPUT.RESIZE_FACTOR_TEST = 0.5
    assert [type(a) for a in build_augmentations(cfg, is_train=False)] == [RandomResize]
    cfg.INPUT.FLIP_PROBS = [0.6, 0.6, 0.0]
    with pytest.raises(ValueError, match=r"INPUT\.FLIP_PROBS: expected 3 probabilities"):
        build_augmentations(cfg, is_train=True)
    cfg.INPUT.RESIZE_FACTORS_TRAIN = [0.0]
    with pytest.raises(ValueError, match=r"INPUT\.RESIZE_FACTORS_TRAIN"):
        build_augmentations(cfg, is_train=True)
