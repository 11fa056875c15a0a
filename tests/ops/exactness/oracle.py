"""Overlaps of boxes and quads by clipping vertex lists in extended precision, in numpy alone.

It shares nothing with the operators: they integrate along edges in float64, in the frame of one of
the two boxes; here a list of vertices is clipped by one half-plane after the other (Sutherland and
Hodgman, 1974), on screen, in numpy's long double. On x86 that has 64 bits of mantissa, 11 more than
float64; where it is no wider than float64 (`IS_EXTENDED` is false), errors below about 1e-12 say
nothing.

Letters: P pairs, K vertices. Polygons are two arrays (K, P) of x and y; unused places at the end of
a column repeat its last vertex.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Real = np.longdouble
Array = NDArray[np.longdouble]
IS_EXTENDED = bool(np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant)

_RADIANS_PER_DEGREE = np.arctan2(Real(0), Real(-1)) / Real(180)
# Signs of the corners along the width and the height axis, in order around the box.
_SIGNS = ((1, 1), (1, -1), (-1, -1), (-1, 1))


class Polygons(NamedTuple):
    """P convex polygons of up to K vertices each, in order."""

    x: Array
    y: Array


class PairTruth(NamedTuple):
    """Exact values (P,) of aligned pairs."""

    iou: Array
    iof: Array  # intersection over the area of the first
    diou: Array


def _cos_sin_deg(angle_deg: Array) -> tuple[Array, Array]:
    """Cosine and sine, exact at multiples of 90 degrees."""
    turned = np.fmod(angle_deg, Real(360))
    quarters = np.rint(turned / 90)
    rest_rad = (turned - 90 * quarters) * _RADIANS_PER_DEGREE
    cos, sin = np.cos(rest_rad), np.sin(rest_rad)
    quarters = quarters.astype(np.int64) % 4
    return np.choose(quarters, [cos, -sin, -cos, sin]), np.choose(quarters, [sin, cos, -sin, -cos])


def box_corners(boxes: NDArray[np.floating], origins: Array) -> Polygons:
    """Return the corners of (P, 5) boxes, relative to (P, 2) origins; negative sides are zero."""
    cx, cy, w, h, angle_deg = boxes.astype(Real).T
    cos, sin = _cos_sin_deg(angle_deg)
    half_w, half_h = np.maximum(w, 0) / 2, np.maximum(h, 0) / 2
    x, y = cx - origins[:, 0], cy - origins[:, 1]
    # The width axis is (cos, -sin), the height axis (sin, cos): y points down.
    return Polygons(
        np.stack([x + sw * half_w * cos + sh * half_h * sin for sw, sh in _SIGNS]),
        np.stack([y - sw * half_w * sin + sh * half_h * cos for sw, sh in _SIGNS]),
    )


def signed_area(polygons: Polygons) -> Array:
    """Return the shoelace areas (P,), positive where the corners run clockwise on screen."""
    x, y = polygons.x - polygons.x[0], polygons.y - polygons.y[0]
    doubled = (x * np.roll(y, -1, axis=0) - y * np.roll(x, -1, axis=0)).sum(axis=0)
    return np.asarray(doubled / 2)


def clip(polygons: Polygons, signed_distance: Array) -> Polygons:
    """Return what is left of the polygons where the (K, P) distance of their vertices is >= 0."""
    x, y, d = polygons.x, polygons.y, signed_distance
    next_x, next_y, next_d = (np.roll(values, -1, axis=0) for values in (x, y, d))
    inside, next_inside = d >= 0, next_d >= 0
    crossing = inside != next_inside
    share = d / np.where(crossing, d - next_d, 1)
    # Each vertex inside stays, and each edge that crosses the border adds the crossing after it.
    emitted_x = np.stack([x, x + share * (next_x - x)], axis=1).reshape(-1, x.shape[1])
    emitted_y = np.stack([y, y + share * (next_y - y)], axis=1).reshape(-1, x.shape[1])
    emitted = np.stack([inside, crossing], axis=1).reshape(-1, x.shape[1])
    place = np.cumsum(emitted, axis=0) - 1
    count = place[-1] + 1
    num_places = max(int(count.max(initial=0)), 1)
    slot, column = np.nonzero(emitted)
    row = place[slot, column]
    left = Polygons(
        np.zeros((num_places, x.shape[1]), Real), np.zeros((num_places, len(count)), Real)
    )
    left.x[row, column] = emitted_x[slot, column]
    left.y[row, column] = emitted_y[slot, column]
    last = np.minimum(np.arange(num_places)[:, None], np.maximum(count - 1, 0))
    return Polygons(np.take_along_axis(left.x, last, 0), np.take_along_axis(left.y, last, 0))


def common_area(one: Polygons, two: Polygons) -> Array:
    """Return the areas (P,) common to convex polygons; `two` without unused places.

    Corners may run either way round. A polygon `two` without area has none in common.
    """
    turn = np.sign(signed_area(two))
    left = one
    for i in range(len(two.x)):
        j = (i + 1) % len(two.x)
        edge_x, edge_y = two.x[j] - two.x[i], two.y[j] - two.y[i]
        distance = (edge_x * (left.y - two.y[i]) - edge_y * (left.x - two.x[i])) * turn
        left = clip(left, distance)
    return np.where(turn == 0, 0, np.abs(signed_area(left)))


def _safe_ratio(numerator: Array, denominator: Array) -> Array:
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1), 0)


def pair_truth(boxes1: NDArray[np.floating], boxes2: NDArray[np.floating]) -> PairTruth:
    """Return the exact overlaps of (P, 5) boxes, taken as they are; finite numbers only."""
    origins = boxes1[:, :2].astype(Real)
    one, two = box_corners(boxes1, origins), box_corners(boxes2, origins)
    sides1, sides2 = boxes1[:, 2:4].astype(Real), boxes2[:, 2:4].astype(Real)
    positive = (sides1 > 0).all(axis=1) & (sides2 > 0).all(axis=1)
    area1, area2 = np.maximum(sides1, 0).prod(axis=1), np.maximum(sides2, 0).prod(axis=1)
    common = np.where(positive, common_area(one, two), 0)
    iou = _safe_ratio(common, area1 + area2 - common)
    distance2 = ((boxes2[:, :2].astype(Real) - origins) ** 2).sum(axis=1)
    diou = iou - _safe_ratio(distance2, _squared_diameter(one, two))
    return PairTruth(iou, _safe_ratio(common, area1), diou)


def _squared_diameter(one: Polygons, two: Polygons) -> Array:
    """Return the largest squared distance (P,) of two corners of a pair."""
    x, y = np.concatenate([one.x, two.x]), np.concatenate([one.y, two.y])
    largest = np.zeros(x.shape[1], Real)
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            largest = np.maximum(largest, (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2)
    return largest


def quad_iou_truth(quads1: NDArray[np.floating], quads2: NDArray[np.floating]) -> Array:
    """Return the IoU (P,) of (P, 4, 2) quads of any shape, as the DOTA devkit defines it.

    A quad is its winding number, turned so that its signed area is not negative. As such it is the
    signed sum of the two triangles a diagonal cuts it into; the product of two sums is a sum over
    four pairs of triangles, each of which is clipped as a convex polygon. Outside [0, 1] it means
    nothing: winding numbers of quads that cross themselves may cancel in the union.
    """
    origins = quads1[:, 0].astype(Real)
    one, two = quads1.astype(Real) - origins[:, None], quads2.astype(Real) - origins[:, None]
    area1 = signed_area(Polygons(one[..., 0].T, one[..., 1].T))
    area2 = signed_area(Polygons(two[..., 0].T, two[..., 1].T))
    common = np.zeros(len(one), Real)
    for corners1 in ((0, 1, 2), (0, 2, 3)):
        triangle1 = Polygons(one[:, corners1, 0].T, one[:, corners1, 1].T)
        for corners2 in ((0, 1, 2), (0, 2, 3)):
            triangle2 = Polygons(two[:, corners2, 0].T, two[:, corners2, 1].T)
            sign = np.sign(signed_area(triangle1)) * np.sign(signed_area(triangle2))
            common += sign * common_area(triangle1, triangle2)
    common = np.maximum(common * np.sign(area1) * np.sign(area2), 0)
    whole = np.abs(area1) + np.abs(area2) - common
    return np.asarray(common / np.where(common > 0, whole, 1))


def inside_margin(points: NDArray[np.floating], boxes: NDArray[np.floating]) -> Array:
    """Return how deep (P,) each of (P, 2) points lies in its box, in pixels; negative outside."""
    offset = points.astype(Real) - boxes[:, :2].astype(Real)
    cos, sin = _cos_sin_deg(boxes[:, 4].astype(Real))
    along_w = np.abs(offset[:, 0] * cos - offset[:, 1] * sin)
    along_h = np.abs(offset[:, 0] * sin + offset[:, 1] * cos)
    half = boxes[:, 2:4].astype(Real) / 2
    return np.minimum(half[:, 0] - along_w, half[:, 1] - along_h)
