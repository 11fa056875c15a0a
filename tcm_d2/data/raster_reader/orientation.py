"""EXIF's orientation: a number that says how a viewer should turn the stored pixels.

The policy of the whole package: pixels and coordinates are those of the stored picture, as data
sets of aerial images are labelled. Annotations of tools that show pictures upright are turned into
the stored frame when they are converted; `tcm-d2 predict --apply-exif` turns a picture on request.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tcm_d2.messages import some_names

UPRIGHT = 1
# Sides are swapped from this one on.
_FIRST_SWAPPED = 5


def upright_size_hw(size_hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return height and width of the upright picture."""
    return (size_hw[1], size_hw[0]) if orientation >= _FIRST_SWAPPED else size_hw


def turn_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Return the picture upright: EXIF 2 to 4 mirror or turn by 180, 5 to 8 swap the sides too."""
    if orientation >= _FIRST_SWAPPED:
        stored = stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return stored


def upright_to_stored(size_hw: tuple[int, int], orientation: int) -> np.ndarray:
    """Return the affine map (2, 3) of points of the upright picture to the stored one.

    Points are continuous: (0, 0) is the corner of the picture in either frame.

    Args:
        size_hw: of the stored picture.
        orientation: 1 to 8.
    """
    height, width = upright_size_hw(size_hw, orientation)
    x, y = np.array([1.0, 0, 0]), np.array([0.0, 1, 0])
    if orientation in (2, 3, 6, 7):
        x = np.array([-1.0, 0, width])
    if orientation in (3, 4, 7, 8):
        y = np.array([0.0, -1, height])
    return np.stack([y, x] if orientation >= _FIRST_SWAPPED else [x, y])


def points_to_stored(
    points: np.ndarray, *, size_hw: tuple[int, int], orientation: int
) -> np.ndarray:
    """Return points (..., 2) of the upright picture in the frame of the stored pixels.

    Args:
        points: x before y, in pixels.
        size_hw: height and width of the stored picture.
        orientation: 1 (nothing to do) to 8.
    """
    matrix = upright_to_stored(size_hw, orientation)
    moved: np.ndarray = np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return moved


def describe_orientations(names: Sequence[str]) -> str:
    """Return the sentence about pictures whose pixels are taken as stored; "" for no pictures."""
    if not names:
        return ""
    return (
        f"{len(names)} images have an EXIF orientation, which is not applied "
        f"({some_names(names)}): pixels and labels are taken in the frame of the stored pixels; "
        "labels made where pictures are shown upright belong turned "
        "(tcm-d2 convert-annotations does so, with the images)"
    )
