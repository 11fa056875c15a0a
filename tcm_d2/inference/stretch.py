"""Turn what a file or an array holds into the 8-bit colours that detectors were trained on.

Letters: H x W pixels, C bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcm_d2.data.augmentation import resize

ChannelOrder = Literal["RGB", "BGR"]
UInt8Array = NDArray[np.uint8]
# Shares of the darkest and the brightest pixels that a stretch of deeper values clips.
STRETCH_PERCENTILES = (0.5, 99.5)
_EIGHT_BIT_RANGE = (0.0, 255.0)


@dataclass(frozen=True)
class ColorRule:
    """How stored bands become RGB.

    Attributes:
        bands: indices (from 0) of the bands shown as red, green and blue.
        ranges: for each of the three the values that become 0 and 255; None for 8-bit values,
            which are taken as they are.
        palette: (256, 3) colours of the one stored band; None without a palette.
    """

    bands: tuple[int, int, int]
    ranges: tuple[tuple[float, float], ...] | None
    palette: UInt8Array | None = None


def choose_bands(
    num_bands: int,
    *,
    bands: Sequence[int] | None,
    rgb_bands: tuple[int, int, int] | None,
    has_alpha: bool,
    source: str,
) -> tuple[int, int, int]:
    """Return the indices (from 0) of the bands to show as red, green and blue.

    Args:
        num_bands: stored bands, an alpha channel included.
        bands: the user's choice, counted from 1 as GDAL and QGIS do; one stands for all three.
        rgb_bands: the bands (from 0) that the file itself calls red, green and blue.
        has_alpha: whether the last band is transparency.
        source: the file's name, for messages.

    Raises:
        ValueError: the choice is not possible, or one is needed.
    """
    if bands is not None:
        if len(bands) not in (1, 3) or not all(1 <= band <= num_bands for band in bands):
            raise ValueError(
                f"bands: expected 1 or 3 numbers from 1 to {num_bands} (the bands of {source}), "
                f"got {list(bands)}"
            )
        red, green, blue = [band - 1 for band in (bands if len(bands) == 3 else list(bands) * 3)]
        return red, green, blue
    if rgb_bands is not None:
        return rgb_bands
    num_colors = num_bands - has_alpha
    if num_colors == 1:
        return 0, 0, 0
    if num_colors == 3:
        return 0, 1, 2
    raise ValueError(
        f"{source}: has {num_colors} bands, and which of them are red, green and blue is not "
        "written in it; choose three (counted from 1) with bands=(4, 3, 2), on the command line "
        "--bands 4 3 2"
    )


def stretch_ranges(sample: np.ndarray, *, nodata: float | None) -> tuple[tuple[float, float], ...]:
    """Return for each band the values that become 0 and 255: two percentiles of a sample.

    Args:
        sample: (h, w, 3) pixels from all over the scene, any dtype.
        nodata: value of pixels without data, left out as NaN is.
    """
    ranges = []
    for band in range(sample.shape[2]):
        values = sample[..., band].astype(np.float64).ravel()
        is_valid = np.isfinite(values)
        if nodata is not None:
            is_valid &= values != nodata
        values = values[is_valid]
        if not len(values):
            ranges.append(_EIGHT_BIT_RANGE)
            continue
        low, high = np.percentile(values, STRETCH_PERCENTILES)
        ranges.append((float(low), float(max(high, low + 1e-6 * max(1.0, abs(low))))))
    return tuple(ranges)


def to_rgb(stored: np.ndarray, rule: ColorRule) -> UInt8Array:
    """Return RGB (H, W, 3) uint8 of stored values (H, W) or (H, W, C), without changing them."""
    if stored.ndim == 2:
        stored = stored[..., None]
    if rule.palette is not None:
        looked_up: UInt8Array = rule.palette[stored[..., 0]]
        return looked_up
    chosen = stored[..., list(rule.bands)]
    if rule.ranges is None:
        return np.ascontiguousarray(chosen, dtype=np.uint8)
    low = np.array([pair[0] for pair in rule.ranges], dtype=np.float32)
    high = np.array([pair[1] for pair in rule.ranges], dtype=np.float32)
    unit = (chosen.astype(np.float32) - low) / (high - low)
    scaled = np.rint(255.0 * np.clip(np.nan_to_num(unit, nan=0.0), 0.0, 1.0))
    return np.ascontiguousarray(scaled.astype(np.uint8))


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


def array_to_rgb(image: np.ndarray, *, channel_order: ChannelOrder) -> UInt8Array:
    """Return an array given by a user as RGB (H, W, 3) uint8.

    Args:
        image: uint8 (H, W) or (H, W, 1) grey, (H, W, 3) colour or (H, W, 4) colour and alpha,
            which is dropped.
        channel_order: of the three colours.

    Raises:
        TypeError: not an array, or not of uint8.
        ValueError: another shape or channel order.
    """
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order: expected 'RGB' or 'BGR', got {channel_order!r}")
    if not isinstance(image, np.ndarray):
        raise TypeError(
            "image: expected a path, a uint8 array (H, W, 3) or a list of these, got "
            f"{type(image).__name__}"
        )
    if image.dtype != np.uint8:
        raise TypeError(
            f"image: expected uint8, got {image.dtype}; scale the values to 0..255 first (how "
            "depends on the sensor), or save them to a file and give its path with value_range"
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        hint = "; channels come last" if image.ndim == 3 and image.shape[0] in (1, 3, 4) else ""
        raise ValueError(
            f"image: expected shape (H, W), (H, W, 3) or (H, W, 4), got {image.shape}{hint}"
        )
    if image.shape[2] == 1:
        return np.ascontiguousarray(np.repeat(image, 3, axis=2))
    colors = image[..., :3]
    return np.ascontiguousarray(colors if channel_order == "RGB" else colors[..., ::-1])


def to_model_image(rgb: UInt8Array, *, image_format: str, resize_factor: float) -> Tensor:
    """Return an image (3, h, w) uint8 as the data mapper gives it in evaluation.

    Args:
        rgb: (H, W, 3).
        image_format: order of the channels that the model expects, "RGB" or "BGR".
        resize_factor: of both sides.
    """
    shown: np.ndarray = rgb[..., ::-1] if image_format == "BGR" else rgb
    if resize_factor != 1:
        shown = resize(shown, np.empty((0, 2)), factor=resize_factor).image
    return torch.from_numpy(np.ascontiguousarray(shown)).permute(2, 0, 1)
