"""Four-corner polygons as arrays: signed areas, order of the corners, crossing edges."""

from __future__ import annotations

import numpy as np

from tcm_d2.structures.arrays import BoolArray, FloatArray

# Columns of x1, y1, x2, y2 that give the corners of an upright box, clockwise on screen.
HBOX_CORNERS = [0, 1, 2, 1, 2, 3, 0, 3]


def signed_areas(polygons: FloatArray) -> FloatArray:
    """Return the signed areas (...,) of ``polygons`` (..., N, 2) by the shoelace formula.

    Positive where the corners run clockwise on screen (y down).
    """
    relative = polygons - polygons[..., :1, :]
    x, y = relative[..., 0], relative[..., 1]
    cross = x * np.roll(y, -1, axis=-1) - y * np.roll(x, -1, axis=-1)
    return np.asarray(0.5 * cross.sum(axis=-1), dtype=np.float64)


def quads_cross_themselves(quads: FloatArray) -> BoolArray:
    """Return (M,) bool: two opposite edges of quads (M, 4, 2) cut each other."""
    p0, p1, p2, p3 = (quads[:, i] for i in range(4))
    return np.asarray(_segments_cut(p0, p1, p2, p3) | _segments_cut(p1, p2, p3, p0))


def order_quads_around_center(quads: FloatArray) -> FloatArray:
    """Return quads (M, 4, 2) with corners sorted by angle about their mean, starting anywhere."""
    offset = quads - quads.mean(axis=1, keepdims=True)
    order = np.argsort(np.arctan2(offset[..., 1], offset[..., 0]), axis=1, kind="stable")
    return np.take_along_axis(quads, order[..., None], axis=1)


def hboxes_to_quads(hboxes: FloatArray) -> FloatArray:
    """Return the corners (N, 4, 2) of upright boxes (N, 4) x1, y1, x2, y2, from the top left on."""
    return np.asarray(hboxes[:, HBOX_CORNERS].reshape(-1, 4, 2))


def _segments_cut(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> BoolArray:
    """Return (M,) bool: segments a-b and c-d, points (M, 2), cross in their interiors."""
    return np.asarray((_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0))


def _side(a: FloatArray, b: FloatArray, point: FloatArray) -> FloatArray:
    ab, ap = b - a, point - a
    return np.asarray(np.sign(ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]))
