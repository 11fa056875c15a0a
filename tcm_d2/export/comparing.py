"""How far the outputs of an exported file are from those of the model it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Difference(NamedTuple):
    """The largest differences over all rows.

    Attributes:
        corners_px: between corresponding corners of boxes.
        scores: between scores of any kind.
    """

    corners_px: float
    scores: float


def compare_outputs(
    names: Sequence[str], ours: Sequence[Array], theirs: Sequence[Array]
) -> Difference:
    """Return the largest differences between two runs' outputs.

    Candidates are compared where both runs put the same class: equal scores may change places.

    Args:
        names: of the outputs, "boxes" first.
        ours, theirs: outputs in this order, on equal inputs.

    Raises:
        ValueError: shapes differ.
    """
    for name, one, two in zip(names, ours, theirs, strict=True):
        if one.shape != two.shape:
            raise ValueError(f"output {name!r}: expected shape {one.shape}, got {two.shape}")
    one, two = dict(zip(names, ours)), dict(zip(names, theirs))
    corners = corner_distances(one["boxes"].reshape(-1, 5), two["boxes"].reshape(-1, 5))
    if "classes" in one:
        found = (one["scores"] > 0) & (one["classes"] == two["classes"])
        corners = corners[found.reshape(-1)]
    scores = [
        np.abs(one[name].astype(np.float64) - two[name]).max(initial=0)
        for name in names
        if name not in ("boxes", "classes")
    ]
    return Difference(float(corners.max(initial=0)), float(max(scores)))


def corner_distances(boxes1: Array, boxes2: Array) -> Array:
    """Return the largest distance (M,) between corners of two lists of boxes (M, 5).

    The names of the sides do not count: of the four ways to go round the corners the nearest is
    taken, so that a square turned by 90 degrees is the same square.
    """
    corners1, corners2 = _corners(boxes1), _corners(boxes2)
    turned = [
        np.linalg.norm(corners1 - np.roll(corners2, shift, axis=1), axis=2).max(axis=1)
        for shift in range(4)
    ]
    return np.asarray(np.min(turned, axis=0))


def _corners(boxes: Array) -> Array:
    """Return the corners (M, 4, 2) of boxes (M, 5)."""
    x, y, w, h, angle_deg = np.asarray(boxes, np.float64).T
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    along = np.stack([w * cos, -w * sin], 1)[:, None] / 2
    across = np.stack([h * sin, h * cos], 1)[:, None] / 2
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])[None, :, :, None]
    return np.stack([x, y], 1)[:, None] + signs[:, :, 0] * along + signs[:, :, 1] * across
