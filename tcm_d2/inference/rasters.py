"""Pictures of any size, read window by window as RGB (H, W, 3) uint8.

What a file is and how it is read is the business of `tcm_d2.data.raster_reader`; here its stored
values become colours.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from tcm_d2.data.raster_reader.colors import (
    ColorRule,
    UInt8Array,
    choose_bands,
    read_colors,
    to_colors,
)
from tcm_d2.data.raster_reader.geo_reference import GeoReference
from tcm_d2.data.raster_reader.heads import read_orientation
from tcm_d2.data.raster_reader.kinds import inspect_file
from tcm_d2.data.raster_reader.orientation import (
    UPRIGHT,
    turn_upright,
    upright_size_hw,
    upright_to_stored,
)
from tcm_d2.data.raster_reader.raster import Raster
from tcm_d2.data.raster_reader.reader import open_raster
from tcm_d2.inference.model_images import ChannelOrder, array_to_rgb
from tcm_d2.inference.stretch import check_value_range, measure_stretch

logger = logging.getLogger(__name__)

# Pixels that a stretch of deeper values is measured on.
_SAMPLE_SIDE_PX = 1024


class Scene(ABC):
    """A picture that is read window by window; a context manager.

    Attributes:
        name: for messages: the file's path, or "array".
        size_hw: height and width in pixels.
        geo: where it lies on the ground, if the file says so.
    """

    name: str
    size_hw: tuple[int, int]
    geo: GeoReference | None = None

    @abstractmethod
    def read(self, x1: int, y1: int, x2: int, y2: int) -> UInt8Array | None:
        """Return the window as RGB (y2 - y1, x2 - x1, 3), inside the picture.

        None says that the file has no data there.

        Raises:
            BadImageError: the file is damaged there.
        """

    @abstractmethod
    def read_overview(self, max_side_px: int) -> UInt8Array:
        """Return the whole picture as RGB, shrunk where a side is longer than ``max_side_px``."""

    def plan_windows(self, window_hw: tuple[int, int]) -> None:
        """Prepare for windows of this size, read row by row; by default there is nothing to do."""
        return

    def close(self) -> None:
        """Close the file; by default there is nothing to do."""
        return

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ArrayScene(Scene):
    """A user's picture in memory: ``rgb`` (H, W, 3) uint8."""

    def __init__(self, rgb: UInt8Array) -> None:
        self.name = "array"
        self.size_hw = (int(rgb.shape[0]), int(rgb.shape[1]))
        self.rgb = rgb

    def read(self, x1: int, y1: int, x2: int, y2: int) -> UInt8Array | None:
        """See `Scene.read`."""
        return np.ascontiguousarray(self.rgb[y1:y2, x1:x2])

    def read_overview(self, max_side_px: int) -> UInt8Array:
        """See `Scene.read_overview`."""
        size_hw = overview_size_hw(self.size_hw, max_side_px)
        if size_hw == self.size_hw:
            return self.rgb
        shrunk = cv2.resize(self.rgb, size_hw[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(shrunk, dtype=np.uint8)


class FileScene(Scene):
    """A file's picture, turned upright where that is asked for."""

    def __init__(
        self,
        raster: Raster,
        *,
        bands: Sequence[int] | None,
        value_range: tuple[float, float] | None,
        orientation: int,
    ) -> None:
        """Args:
        raster: opened; closed with the scene.
        bands, value_range: see `open_scene`.
        orientation: to turn by; 1 leaves the picture as it is stored.
        """
        self._raster = raster
        self._orientation = orientation
        self._nodata = raster.nodata
        self.name = raster.name
        self.size_hw = upright_size_hw(raster.size_hw, orientation)
        self.geo = raster.geo
        if self.geo is not None and orientation != UPRIGHT:
            self.geo = self.geo.after_turn(upright_to_stored(raster.size_hw, orientation))
        self._rule = self._color_rule(bands, value_range)

    def read(self, x1: int, y1: int, x2: int, y2: int) -> UInt8Array | None:
        """See `Scene.read`."""
        corners = np.array([[x1, y1, 1], [x2, y2, 1]])
        stored = corners @ upright_to_stored(self._raster.size_hw, self._orientation).T  # (2, 2)
        (left, top), (right, bottom) = stored.min(axis=0), stored.max(axis=0)
        window = (int(left), int(top), int(right), int(bottom))
        values = self._raster.read(self._rule.bands, window)
        if self._nodata is not None and bool(_is_value(values, self._nodata).all()):
            return None
        picture = to_colors(values, self._rule, self._raster)
        return np.ascontiguousarray(turn_upright(picture, self._orientation))

    def read_overview(self, max_side_px: int) -> UInt8Array:
        """See `Scene.read_overview`."""
        size_hw = overview_size_hw(self._raster.size_hw, max_side_px)
        picture = read_colors(self._raster, self._rule, size_hw=size_hw, smooth=True)
        return np.ascontiguousarray(turn_upright(picture, self._orientation))

    def plan_windows(self, window_hw: tuple[int, int]) -> None:
        """Keep a row of windows decoded, and no more."""
        num_rows, _ = upright_size_hw(window_hw, self._orientation)
        if num_rows != window_hw[0]:  # a row of windows is a column of the file
            num_rows = self._raster.size_hw[0]
        self._raster.plan_rows(num_rows)

    def close(self) -> None:
        """Close the file."""
        self._raster.close()

    def _color_rule(
        self, bands: Sequence[int] | None, value_range: tuple[float, float] | None
    ) -> ColorRule:
        raster = self._raster
        chosen = choose_bands(raster, bands)
        if value_range is not None:
            return ColorRule(chosen, (value_range,) * 3)
        if raster.dtype == np.uint8 or raster.palette is not None:
            return ColorRule(chosen)
        sample = raster.read(chosen, size_hw=overview_size_hw(raster.size_hw, _SAMPLE_SIDE_PX))
        stretch = measure_stretch(sample, nodata=raster.nodata)
        if stretch.fill_value is not None:
            logger.warning(
                "%s: %g stands where there is no picture, by its look: left out of the stretch "
                "(declare it as nodata in the file, or fix the range with --value-range)",
                self.name,
                stretch.fill_value,
            )
            if self._nodata is None:
                self._nodata = stretch.fill_value
        logger.info(
            "%s: %s values are stretched to 8 bits from %s; value_range (--value-range) fixes it",
            self.name,
            raster.dtype,
            ", ".join(f"{low:g}..{high:g}" for low, high in stretch.ranges),
        )
        return ColorRule(chosen, stretch.ranges)


def open_scene(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    value_range: Sequence[float] | None = None,
    apply_exif: bool = False,
    crs: str | None = None,
) -> Scene:
    """Open a picture to be read window by window.

    Args:
        path: PNG, JPEG, BMP, WebP, TIFF; with rasterio also JPEG 2000, Erdas Imagine and virtual
            rasters.
        bands: numbers (from 1) of the bands to show as red, green and blue; one for grey. Needed
            where a file has more than three colour bands and does not name them.
        value_range: the stored values that become black and white. None takes 8-bit values as
            they are and stretches deeper ones, each band between two percentiles of the scene.
        apply_exif: turn the picture as its EXIF orientation says. By default it is read as it is
            stored, as data sets are labelled; boxes are in the frame that is read.
        crs: the coordinate system, such as "EPSG:32633", of a file that has a position and no
            system; those that name theirs keep it.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: (a ValueError) it cannot be read.
        ValueError: ``bands``, ``value_range`` or ``crs`` do not fit.
    """
    path = os.fspath(Path(path).expanduser())
    limits = check_value_range(value_range)
    if not Path(path).exists() or Path(path).is_dir():
        kind = "a folder; give it to tcm-d2 predict" if Path(path).is_dir() else "nothing"
        raise FileNotFoundError(f"{path}: expected an image file, found {kind}")
    orientation = read_orientation(inspect_file(path))
    raster = open_raster(path, with_position=True, crs=crs)
    if orientation != UPRIGHT and not apply_exif:
        logger.warning(
            "%s: its EXIF orientation (%d) is not applied, boxes are in the frame of the stored "
            "pixels; apply_exif (--apply-exif) turns the picture",
            path,
            orientation,
        )
        orientation = UPRIGHT
    if raster.lacks_crs:
        logger.warning(
            "%s: has a position, but names no coordinate system, so that results are in pixels; "
            "crs='EPSG:...' (--crs EPSG:...) names it",
            path,
        )
    try:
        return FileScene(raster, bands=bands, value_range=limits, orientation=orientation)
    except BaseException:
        raster.close()
        raise


def array_scene(image: np.ndarray, *, channel_order: ChannelOrder) -> ArrayScene:
    """Return a scene of a user's array; see `array_to_rgb` for what is taken."""
    return ArrayScene(array_to_rgb(image, channel_order=channel_order))


def overview_size_hw(size_hw: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    """Return the size that fits into ``max_side_px``, with the same proportions."""
    factor = min(1.0, max_side_px / max(size_hw))
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))


def _is_value(stored: np.ndarray, value: float) -> np.ndarray:
    if np.isnan(value):
        return np.asarray(np.isnan(stored.astype(np.float32)))
    return np.asarray(stored == value)
