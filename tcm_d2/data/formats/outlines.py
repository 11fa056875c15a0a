"""Outlines of objects: turned and upright boxes, polygons and masks as four corners."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import shapely

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.structures.quads import hboxes_to_quads

# Whether the corners are turned (also by 0), upright for want of an angle, or a rectangle around a
# polygon or mask.
OutlineKind = Literal["turned", "upright", "fitted"]

_NUM_CORNERS = 4


class Outline(NamedTuple):
    """The four corners of an object, x1, y1, ..., y4 in image pixels, and where they come from."""

    quad: tuple[float, ...]
    kind: OutlineKind


def turned_box(cx: float, cy: float, width: float, height: float, angle_rad: float) -> Outline:
    """Return a box turned clockwise on screen about its centre, from its top left corner on.

    Raises:
        LabelError: (a ValueError) sides that are not positive.
    """
    if width <= 0 or height <= 0:
        raise LabelError(f"expected sides above 0, got {width:g} x {height:g}", "box without sides")
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    quad: list[float] = []
    for along, across in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        u, v = along * width / 2, across * height / 2
        quad += [cx + u * cos - v * sin, cy + u * sin + v * cos]
    return Outline(tuple(quad), "turned")


def upright_box(x1: float, y1: float, x2: float, y2: float) -> Outline:
    """Return a box for which its file gives no angle.

    Raises:
        LabelError: (a ValueError) sides that are not positive.
    """
    if x2 <= x1 or y2 <= y1:
        raise LabelError(
            f"expected x1 < x2 and y1 < y2, got {x1:g} {y1:g} {x2:g} {y2:g}", "box without sides"
        )
    quad = hboxes_to_quads(np.array([[x1, y1, x2, y2]]))
    return Outline(tuple(quad.reshape(-1).tolist()), "upright")


def polygon(coordinates: Sequence[float]) -> Outline:
    """Return a polygon of four corners as it is, the smallest rectangle around any other.

    Args:
        coordinates: x1, y1, x2, ...; a last corner equal to the first is dropped.

    Raises:
        LabelError: (a ValueError) fewer than three corners, or no area.
    """
    if len(coordinates) % 2:
        raise LabelError(
            f"expected pairs of x and y, got {len(coordinates)} numbers", "wrong number of values"
        )
    points = np.array(coordinates, dtype=np.float64).reshape(-1, 2)
    if len(points) > _NUM_CORNERS and (points[0] == points[-1]).all():
        points = points[:-1]
    if len(points) == _NUM_CORNERS:
        return Outline(tuple(points.reshape(-1).tolist()), "turned")
    return fitted_rectangle(points)


def fitted_rectangle(points: np.ndarray) -> Outline:
    """Return the smallest rectangle around points (N, 2).

    Raises:
        LabelError: (a ValueError) fewer than three points, or all on one line.
    """
    rectangle = shapely.MultiPoint(points).minimum_rotated_rectangle
    if len(points) < _NUM_CORNERS - 1 or rectangle.geom_type != "Polygon":
        raise LabelError(
            f"expected a polygon with an area, got {len(points)} points on a line",
            "polygon without area",
        )
    corners = np.array(rectangle.exterior.coords)[:_NUM_CORNERS]
    return Outline(tuple(corners.reshape(-1).tolist()), "fitted")


def mask_rectangle(mask: np.ndarray, left: int = 0, top: int = 0) -> Outline:
    """Return the smallest rectangle around the pixels of a mask (H, W) bool.

    Args:
        left, top: where its first pixel lies in the image.

    Raises:
        LabelError: (a ValueError) no pixel is set.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        raise LabelError("expected a mask with pixels, got an empty one", "empty mask")
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - mask[rows][:, ::-1].argmax(axis=1)
    x = np.concatenate([first, last, first, last]) + left
    y = np.concatenate([rows, rows, rows + 1, rows + 1]) + top
    return fitted_rectangle(np.stack([x, y], axis=1).astype(np.float64))
