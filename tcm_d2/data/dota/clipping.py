"""Cut quads at a window's border and keep four corners.

DOTA's own split tool (``ImgSplit``; read for its behaviour, written afresh) turns the shortest
edge of five corners into its middle and drops objects with more. Here, until four corners are left,
it is the edge that changes the area least: mostly the same one, but a long object cut along its
side keeps its width. Middles never leave the window.
"""

from __future__ import annotations

import numpy as np

from tcm_d2.structures.quads import signed_areas

# Corners nearer to each other than this are one: a corner on the border is found by two edges.
_SAME_POINT_PX = 1e-6
_NUM_CORNERS = 4


def clip_quads_to_window(quads: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return quads (M, 4, 2) float64 cut at the window's border; those inside stay as they are.

    The first corner is the one that lies nearest to where it was: the cyclic order with the least
    sum of squared distances to the quad's own corners.

    Args:
        quads: (M, 4, 2) simple quads that overlap the window, either direction of rotation.
        window: (4,) x1, y1, x2, y2 in the same pixels.

    Raises:
        ValueError: a quad has no area inside the window.
    """
    clipped = np.asarray(quads, dtype=np.float64).copy()
    low, high = np.asarray(window[:2], np.float64), np.asarray(window[2:], np.float64)
    beyond = ((clipped < low) | (clipped > high)).any(axis=(1, 2))
    for index in np.flatnonzero(beyond).tolist():
        polygon = _clip_polygon(clipped[index], low, high)
        if len(polygon) < 3:
            raise ValueError(
                f"quads: row {index} ({clipped[index].tolist()}) has no area inside the window "
                f"{window.tolist()}; clip only objects that the window keeps"
            )
        clipped[index] = _start_near(_to_four_corners(polygon), clipped[index])
    return clipped


def _clip_polygon(polygon: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the part of a polygon (N, 2) in a rectangle (Sutherland and Hodgman, 1974)."""
    for axis in (0, 1):
        for limit, sign in ((low[axis], 1.0), (high[axis], -1.0)):
            inside = sign * (polygon[:, axis] - limit)
            points = []
            for index, here in enumerate(polygon):
                before = index - 1
                if inside[index] * inside[before] < 0:
                    share = inside[before] / (inside[before] - inside[index])
                    crossing = polygon[before] + share * (here - polygon[before])
                    crossing[axis] = limit
                    points.append(crossing)
                if inside[index] >= 0:
                    points.append(here)
            polygon = np.array(points).reshape(-1, 2)
            if not len(polygon):
                return polygon
    apart = np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1) > _SAME_POINT_PX
    return polygon[apart]


def _to_four_corners(polygon: np.ndarray) -> np.ndarray:
    """Turn edges into their middles, or halve the longest one, until four corners are left."""
    while len(polygon) > _NUM_CORNERS:
        merged = [_merge_edge(polygon, edge) for edge in range(len(polygon))]
        areas = np.abs(signed_areas(np.stack(merged)))
        changes = np.abs(areas - np.abs(signed_areas(polygon)))
        polygon = merged[int(changes.argmin())]
    if len(polygon) < _NUM_CORNERS:
        following = np.roll(polygon, -1, axis=0)
        edge = int(np.linalg.norm(following - polygon, axis=1).argmax())
        polygon = np.insert(polygon, edge + 1, (polygon[edge] + following[edge]) / 2, axis=0)
    return polygon


def _merge_edge(polygon: np.ndarray, edge: int) -> np.ndarray:
    """Return the polygon (N - 1, 2) in which an edge has become its middle."""
    turned = np.roll(polygon, -edge, axis=0)
    return np.concatenate([turned[:2].mean(axis=0, keepdims=True), turned[2:]])


def _start_near(corners: np.ndarray, quad: np.ndarray) -> np.ndarray:
    turns = np.stack([np.roll(corners, turn, axis=0) for turn in range(_NUM_CORNERS)])
    return turns[((turns - quad) ** 2).sum(axis=(1, 2)).argmin()]
