"""From stored bands to the three 8-bit colours that detectors are trained on.

Letters: H x W pixels, C bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tcm_d2.data.raster_reader.kinds import BadImageError
from tcm_d2.data.raster_reader.raster import Raster, Window

UInt8Array = NDArray[np.uint8]
Bands = tuple[int, int, int]
_COLORS = ("red", "green", "blue")


@dataclass(frozen=True)
class ColorRule:
    """How stored bands become RGB.

    Attributes:
        bands: indices (from 0) of the bands shown as red, green and blue.
        ranges: for each of the three the values that become 0 and 255; None for 8-bit values,
            which are taken as they are.
    """

    bands: Bands
    ranges: tuple[tuple[float, float], ...] | None = None


def choose_bands(raster: Raster, bands: Sequence[int] | None = None) -> Bands:
    """Return the indices (from 0) of the bands to show as red, green and blue.

    Args:
        raster: its band names count: red, green and blue where it has them, else the one or the
            three bands that are not transparency.
        bands: the user's choice, counted from 1 as GDAL and QGIS do; one stands for all three.

    Raises:
        ValueError: the choice is not possible, or one is needed.
    """
    names, count = raster.band_names, len(raster.band_names)
    if bands is not None:
        if len(bands) not in (1, 3) or not all(1 <= band <= count for band in bands):
            raise ValueError(
                f"bands: expected 1 or 3 numbers from 1 to {count} (the bands of {raster.name}), "
                f"got {list(bands)}"
            )
        red, green, blue = [band - 1 for band in (bands if len(bands) == 3 else list(bands) * 3)]
        return red, green, blue
    if all(color in names for color in _COLORS):
        red, green, blue = map(names.index, _COLORS)
        return red, green, blue
    num_colors = count - (names[-1] == "alpha")
    if num_colors == 1:
        return 0, 0, 0
    if num_colors == 3:
        return 0, 1, 2
    raise ValueError(
        f"{raster.name}: has {num_colors} bands, and which of them are red, green and blue is not "
        "written in it; choose three (counted from 1) with bands=(4, 3, 2), on the command line "
        "--bands 4 3 2"
    )


def check_eight_bit_colors(raster: Raster) -> Bands:
    """Return the bands of a raster that is fit for training as it is.

    Raises:
        BadImageError: (a ValueError) more than 8 bits, or no three bands to choose.
    """
    if raster.dtype != np.uint8:
        raise BadImageError(
            f"{raster.name}: expected 8 bits per channel, got {raster.dtype}; stretch the values "
            "to 8 bits first (how to stretch depends on the sensor, so it is not guessed here)"
        )
    try:
        return choose_bands(raster)
    except ValueError:
        raise BadImageError(
            f"{raster.name}: expected 1, 3 or 4 channels with names, got "
            f"{len(raster.band_names)} ({', '.join(raster.band_names)}); choose three bands first"
        ) from None


def read_colors(
    raster: Raster,
    rule: ColorRule,
    window: Window | None = None,
    *,
    size_hw: tuple[int, int] | None = None,
    smooth: bool = False,
) -> UInt8Array:
    """Return RGB (h, w, 3) uint8 of the whole raster or a window; see `Raster.read`."""
    bands, smooth = rule.bands, smooth and raster.palette is None
    return to_colors(raster.read(bands, window, size_hw=size_hw, smooth=smooth), rule, raster)


def to_colors(chosen: np.ndarray, rule: ColorRule, raster: Raster) -> UInt8Array:
    """Return RGB (h, w, 3) uint8 of what `Raster.read` gave for the rule's bands."""
    if raster.palette is not None:
        looked_up: UInt8Array = raster.palette[chosen[..., 0]]
        return looked_up
    if rule.ranges is None:
        return np.ascontiguousarray(chosen, dtype=np.uint8)
    low = np.array([pair[0] for pair in rule.ranges], dtype=np.float32)
    high = np.array([pair[1] for pair in rule.ranges], dtype=np.float32)
    unit = (chosen.astype(np.float32) - low) / (high - low)
    scaled = np.rint(255.0 * np.clip(np.nan_to_num(unit, nan=0.0), 0.0, 1.0))
    return np.ascontiguousarray(scaled.astype(np.uint8))
