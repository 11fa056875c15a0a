"""Stretch deeper values to 8 bits: what becomes black and white, by a sample of the scene.

Letters: h x w pixels of the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Shares of the darkest and the brightest pixels that a stretch of deeper values clips.
STRETCH_PERCENTILES = (0.5, 99.5)
_EIGHT_BIT_RANGE = (0.0, 255.0)
# Values that programs write where there is no picture, beside the least and greatest of a type.
_FILL_VALUES = (-9999.0, -99999.0, -32768.0, -32767.0, -1e20, 1e20, 65535.0, 0.0)
# An undeclared fill value stands alone: further from all other values than these from each other.
_MIN_GAP = 1.0
# So many pixels of the sample have it, else the percentiles clip it anyway.
_MIN_FILL_SHARE = 0.002


class Stretch(NamedTuple):
    """How values become 8 bits.

    Attributes:
        ranges: for each band the values that become 0 and 255.
        fill_value: a value of pixels without data that the file does not declare; None without.
    """

    ranges: tuple[tuple[float, float], ...]
    fill_value: float | None


def measure_stretch(sample: np.ndarray, *, nodata: float | None) -> Stretch:
    """Return the stretch of a sample: for each band two percentiles of the pixels with data.

    Args:
        sample: (h, w, 3) pixels from all over the scene, any dtype.
        nodata: value of pixels without data, left out as NaN is.
    """
    pixels = sample.reshape(-1, sample.shape[2]).astype(np.float64)
    fill = find_fill_value(sample, nodata=nodata)
    has_data = np.ones(len(pixels), dtype=bool)
    if fill is not None:
        has_data = (pixels != fill).any(axis=1)
    ranges = []
    for values in pixels.T:
        is_valid = has_data & np.isfinite(values)
        if nodata is not None:
            is_valid &= values != nodata
        values = values[is_valid]
        if not len(values):
            ranges.append(_EIGHT_BIT_RANGE)
            continue
        low, high = np.percentile(values, STRETCH_PERCENTILES)
        ranges.append((float(low), float(max(high, low + 1e-6 * max(1.0, abs(low))))))
    return Stretch(tuple(ranges), fill)


def find_fill_value(sample: np.ndarray, *, nodata: float | None) -> float | None:
    """Return the value of pixels without data where the file does not say it; None without.

    That is a usual fill value which all bands of some pixels have at once, and which lies apart
    from all others: saturated pixels have neighbours in value, a 65535 in 12-bit data has none.

    Args:
        sample: (h, w, 3) pixels.
        nodata: the declared value.
    """
    kind = sample.dtype
    if kind == np.uint8:
        return None
    candidates = list(_FILL_VALUES)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    candidates += [float(limits.min), float(limits.max)]
    if kind.kind == "f":
        single = np.finfo(np.float32)
        candidates += [float(single.min), float(single.max)]
    pixels = sample.reshape(-1, sample.shape[2]).astype(np.float64)
    for value in dict.fromkeys(candidates):
        if value == nodata:
            continue
        is_fill = (pixels == value).all(axis=1)
        if is_fill.mean() < _MIN_FILL_SHARE:
            continue
        others = pixels[~is_fill]
        others = others[np.isfinite(others)]
        if nodata is not None:
            others = others[others != nodata]
        if not len(others):
            continue
        low, high = np.percentile(others, STRETCH_PERCENTILES)
        gap = np.abs(others - value).min()
        if gap > _MIN_GAP * max(high - low, 1.0):
            return value
    return None


def check_value_range(value_range: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the range as two floats; ValueError unless it is None or low < high."""
    if value_range is None:
        return None
    if len(value_range) != 2 or not float(value_range[0]) < float(value_range[1]):
        raise ValueError(
            f"value_range: expected two numbers, low < high, got {list(value_range)}; they are "
            "the stored values that become black and white"
        )
    return float(value_range[0]), float(value_range[1])
