"""Quads as tools want them: a box with sides and an angle, where the quad is a rectangle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Corners that lie this near those of a rectangle make one.
_SAME_CORNER_PX = 0.01


class TurnedBox(NamedTuple):
    """A rectangle from its first corner on: the first side runs at ``angle_deg``, clockwise."""

    corner_xy: tuple[float, float]
    center_xy: tuple[float, float]
    width: float
    height: float
    angle_deg: float


def as_turned_box(quad: Sequence[float]) -> TurnedBox | None:
    """Return a quad as a rectangle whose corners run clockwise; None where it is none.

    The angle is in [0, 360).
    """
    corners = np.array(quad, dtype=np.float64).reshape(4, 2)
    for points in (corners, corners[::-1]):
        first, second = points[1] - points[0], points[3] - points[0]
        width, height = float(np.hypot(*first)), float(np.hypot(*second))
        if min(width, height) == 0 or first[0] * second[1] - first[1] * second[0] <= 0:
            continue
        direction = first / width
        normal = np.array([-direction[1], direction[0]])
        ideal = points[0] + np.stack(
            [np.zeros(2), direction * width, direction * width + normal * height, normal * height]
        )
        if np.abs(ideal - points).max() > _SAME_CORNER_PX:
            return None
        center = ideal.mean(axis=0)
        angle = math.degrees(math.atan2(direction[1], direction[0])) % 360.0
        return TurnedBox(
            (float(points[0, 0]), float(points[0, 1])),
            (float(center[0]), float(center[1])),
            width,
            height,
            angle,
        )
    return None
