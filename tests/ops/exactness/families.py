"""Pairs of boxes that overlap in the ways which break implementations, by family.

Boxes are (cx, cy, w, h, angle_deg), float64; the caller rounds them to the dtype that the operator
shall see. Letters: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
Pairs = tuple[Boxes, Boxes]
Random = np.random.Generator


def ordinary_boxes(rng: Random, num: int, *, extent: float = 1024.0) -> Boxes:
    """Boxes as on an image: centres over `extent` px, sides of 2 to 400 px, any angle."""
    boxes = np.empty((num, 5))
    boxes[:, :2] = rng.uniform(0, extent, (num, 2))
    boxes[:, 2:4] = np.exp(rng.uniform(np.log(2), np.log(400), (num, 2)))
    boxes[:, 4] = rng.uniform(-360, 360, num)
    return boxes


def _random(rng: Random, num: int) -> Pairs:
    # So close together that most pairs overlap.
    return ordinary_boxes(rng, num, extent=80), ordinary_boxes(rng, num, extent=80)


def _jitter(rng: Random, num: int) -> Pairs:
    boxes = ordinary_boxes(rng, num)
    size = 10 ** rng.uniform(-5, 0, (num, 1))
    moved = boxes + size * rng.standard_normal((num, 5))
    moved[:, 2:4] = np.abs(moved[:, 2:4])
    return boxes, moved


def _identical(rng: Random, num: int) -> Pairs:
    boxes = ordinary_boxes(rng, num)
    return boxes, boxes.copy()


def _renamed(rng: Random, num: int) -> Pairs:
    """The same rectangle by other numbers: half turns, and quarter turns with sides exchanged."""
    boxes = ordinary_boxes(rng, num)
    boxes[:, 4] = np.where(rng.random(num) < 0.2, boxes[:, 4].round(), boxes[:, 4])
    turned = boxes[:, [0, 1, 3, 2, 4]] + np.array([0, 0, 0, 0, 90.0])
    half = boxes + np.array([0, 0, 0, 0, 180.0])
    return boxes, np.where(rng.random((num, 1)) < 0.5, turned, half)


def _shared_edge(rng: Random, num: int) -> Pairs:
    """Moved along an axis, or stretched to one side: edges on common lines, overlapping or not."""
    boxes = ordinary_boxes(rng, num)
    grown = boxes.copy()
    side = rng.integers(0, 2, num)
    row = np.arange(num)
    length = boxes[row, 2 + side]
    shift = length * rng.choice([0.25, 0.5, 1.0, -1.0, 2.0, rng.uniform(0, 1)], num)
    grown[row, 2 + side] = np.where(rng.random(num) < 0.5, length, length + 2 * np.abs(shift))
    angle_rad = np.deg2rad(boxes[:, 4])
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    grown[:, 0] += shift * np.where(side == 0, cos, sin)
    grown[:, 1] += shift * np.where(side == 0, -sin, cos)
    return boxes, grown


def _corner(boxes: Boxes, sign_w: NDArray[np.float64], sign_h: NDArray[np.float64]) -> Boxes:
    angle_rad = np.deg2rad(boxes[:, 4])
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    along_w, along_h = sign_w * boxes[:, 2] / 2, sign_h * boxes[:, 3] / 2
    return np.stack(
        [
            boxes[:, 0] + along_w * cos + along_h * sin,
            boxes[:, 1] - along_w * sin + along_h * cos,
        ],
        axis=1,
    )


def _shared_corner(rng: Random, num: int) -> Pairs:
    boxes, others = ordinary_boxes(rng, num), ordinary_boxes(rng, num)
    parallel = rng.random(num) < 0.3
    others[:, 4] = np.where(parallel, boxes[:, 4] + 90 * rng.integers(-2, 3, num), others[:, 4])
    signs = rng.choice([-1.0, 1.0], (4, num))
    others[:, :2] += _corner(boxes, signs[0], signs[1]) - _corner(others, signs[2], signs[3])
    return boxes, others


def _nested(rng: Random, num: int) -> Pairs:
    boxes = ordinary_boxes(rng, num)
    inner = boxes.copy()
    inner[:, 2:4] *= rng.uniform(0.01, 0.5, (num, 2))
    shortest = boxes[:, 2:4].min(axis=1, keepdims=True)
    inner[:, :2] += shortest * rng.uniform(-0.1, 0.1, (num, 2))
    inner[:, 4] += rng.uniform(-180, 180, num)
    return boxes, inner


def _thin(rng: Random, num: int) -> Pairs:
    """1 : 1000, nearly on top of each other or crossing."""
    boxes = ordinary_boxes(rng, num)
    boxes[:, 2] = rng.uniform(10, 2000, num)
    boxes[:, 3] = boxes[:, 2] / 1000
    others = boxes.copy()
    others[:, :2] += boxes[:, 3:4] * rng.standard_normal((num, 2))
    others[:, 2:4] *= np.exp(0.1 * rng.standard_normal((num, 2)))
    crossing = rng.random(num) < 0.3
    others[:, 4] += np.where(crossing, rng.uniform(-90, 90, num), 0.05 * rng.standard_normal(num))
    return boxes, others


def _sizes(rng: Random, num: int) -> Pairs:
    """Sides from 1e-3 to 1e5 px, each for itself."""
    boxes, others = ordinary_boxes(rng, num), ordinary_boxes(rng, num)
    boxes[:, 2:4] = 10 ** rng.uniform(-3, 5, (num, 2))
    others[:, 2:4] = 10 ** rng.uniform(-3, 5, (num, 2))
    alike = rng.random(num) < 0.5
    close = boxes[:, 2:4] * np.exp(0.3 * rng.standard_normal((num, 2)))
    others[:, 2:4] = np.where(alike[:, None], close, others[:, 2:4])
    others[:, 4] = np.where(alike, boxes[:, 4] + rng.standard_normal(num), others[:, 4])
    shift = boxes[:, 2:4].min(axis=1, keepdims=True) * rng.uniform(-0.5, 0.5, (num, 2))
    others[:, :2] = boxes[:, :2] + shift
    return boxes, others


def _far(rng: Random, num: int) -> Pairs:
    """Centres up to 1e5 px, where a float32 counts in steps of 1 / 128 px."""
    boxes, others = ordinary_boxes(rng, num, extent=80), ordinary_boxes(rng, num, extent=80)
    near = boxes + 10 ** rng.uniform(-3, 0, (num, 1)) * rng.standard_normal((num, 5))
    near[:, 2:4] = np.abs(near[:, 2:4])
    others = np.where(rng.random((num, 1)) < 0.5, near, others)
    offset = rng.uniform(-1e5, 1e5, (num, 2))
    boxes[:, :2] += offset
    others[:, :2] += offset
    return boxes, others


def _seam(rng: Random, num: int) -> Pairs:
    """Angles at -90 and 90, at 0 and at the half turn, on both sides of the seam."""
    boxes = ordinary_boxes(rng, num)
    boxes[:, 4] = rng.choice([-180.0, -90.0, 0.0, 90.0, 180.0], num)
    boxes[:, 4] += np.where(rng.random(num) < 0.5, 0, 1e-4 * rng.standard_normal(num))
    others = boxes + 0.05 * rng.standard_normal((num, 5)) * (rng.random((num, 1)) < 0.7)
    others[:, 2:4] = np.abs(others[:, 2:4])
    others[:, 4] = -boxes[:, 4]
    return boxes, others


def _zero_area(rng: Random, num: int) -> Pairs:
    boxes, others = ordinary_boxes(rng, num, extent=80), ordinary_boxes(rng, num, extent=80)
    column = 2 + rng.integers(0, 2, num)
    others[np.arange(num), column] = np.where(rng.random(num) < 0.7, 0.0, -5.0)
    both = rng.random(num) < 0.2
    boxes[both] = others[both]
    return boxes, others


def _touching(rng: Random, num: int) -> Pairs:
    """Whole numbers, upright: edges and corners meet exactly."""
    boxes = ordinary_boxes(rng, num).round()
    boxes[:, 2:4] = 2 * np.maximum(boxes[:, 2:4].round(), 1)
    boxes[:, 4] = 90.0 * rng.integers(-4, 5, num)
    others = boxes.copy()
    quarter = (boxes[:, 4] / 90).astype(np.int64) % 2 == 1
    extent = np.where(quarter[:, None], boxes[:, [3, 2]], boxes[:, 2:4])
    others[:, :2] += extent * rng.choice([[1, 0], [0, 1], [1, 1], [-1, 1], [-1, 0]], num)
    return boxes, others


FAMILIES: dict[str, Callable[[Random, int], Pairs]] = {
    "random": _random,
    "jitter 1e-5 ... 1": _jitter,
    "identical": _identical,
    "same, other numbers": _renamed,
    "shared edge": _shared_edge,
    "shared corner": _shared_corner,
    "touching, upright": _touching,
    "nested": _nested,
    "aspect 1:1000": _thin,
    "sides 1e-3 ... 1e5": _sizes,
    "centres to 1e5": _far,
    "angles at the seam": _seam,
    "zero area": _zero_area,
}


def draw_pairs(family: str, num: int, seed: int) -> Pairs:
    """Return num aligned pairs (P, 5) of a family; the same for the same seed."""
    index = list(FAMILIES).index(family)
    return FAMILIES[family](np.random.default_rng([index, seed]), num)
