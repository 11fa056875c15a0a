"""Pictures of any size, read window by window as RGB (H, W, 3) uint8.

GeoTIFFs, and large files of other kinds, are read through rasterio (GDAL) where it is installed:
then no more than a row of windows is in memory. Otherwise OpenCV decodes the whole file.
"""

from __future__ import annotations

import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from tcm_d2.data.images import BadImageError, read_stored_image
from tcm_d2.inference.exif import read_orientation, turn_upright
from tcm_d2.inference.geo import NEEDS_GEO, GeoReference
from tcm_d2.inference.stretch import (
    ChannelOrder,
    ColorRule,
    UInt8Array,
    array_to_rgb,
    check_value_range,
    choose_bands,
    stretch_ranges,
    to_rgb,
)

logger = logging.getLogger(__name__)

TIFF_SUFFIXES = (".tif", ".tiff")
# Other files from this size on go through rasterio; below, one decoding is faster.
LARGE_FILE_PX = 40_000_000
# Pixels that a stretch of deeper values is measured on.
_SAMPLE_SIDE_PX = 1024
# GDAL's cache holds a row of windows (MB), so that no block is decoded twice.
_MIN_CACHE_MB = 64
_CACHE_SLACK = 1.3


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
    """A picture in memory: ``stored``, (H, W) or (H, W, C)."""

    def __init__(self, stored: np.ndarray, rule: ColorRule, *, name: str) -> None:
        """Args:
        stored: (H, W) or (H, W, C), any dtype; not copied.
        rule: how it becomes RGB.
        name: for messages.
        """
        self.name = name
        self.size_hw = (int(stored.shape[0]), int(stored.shape[1]))
        self.stored = stored
        self._rule = rule

    def read(self, x1: int, y1: int, x2: int, y2: int) -> UInt8Array | None:
        """See `Scene.read`."""
        return to_rgb(self.stored[y1:y2, x1:x2], self._rule)

    def read_overview(self, max_side_px: int) -> UInt8Array:
        """See `Scene.read_overview`."""
        size_hw = overview_size_hw(self.size_hw, max_side_px)
        if size_hw == self.size_hw:
            return to_rgb(self.stored, self._rule)
        # Shrunk in strips: the colours of a whole large scene would take as much memory again.
        height = self.size_hw[0]
        picture = np.empty((*size_hw, 3), dtype=np.uint8)
        bounds = np.linspace(0, size_hw[0], max(2, size_hw[0] // 256 + 1)).astype(int)
        for top, bottom in zip(bounds[:-1].tolist(), bounds[1:].tolist()):
            rows = slice(top * height // size_hw[0], bottom * height // size_hw[0])
            strip = to_rgb(self.stored[rows], self._rule)
            cv2.resize(
                strip,
                (size_hw[1], bottom - top),
                dst=picture[top:bottom],
                interpolation=cv2.INTER_AREA,
            )
        return picture


class RasterScene(Scene):
    """A file read through rasterio."""

    def __init__(
        self,
        path: str,
        *,
        bands: Sequence[int] | None,
        value_range: tuple[float, float] | None,
    ) -> None:
        """Open the file; see `open_scene`."""
        import rasterio

        self.name = path
        self._rasterio = rasterio
        try:
            with warnings.catch_warnings():
                # Plain pictures are welcome too.
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self._file = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise BadImageError(f"{path}: cannot be opened: {error}") from None
        file = self._file
        self.size_hw = (int(file.height), int(file.width))
        if file.count == 0:
            subsets = ", ".join(file.subdatasets[:3])
            raise BadImageError(f"{path}: has no bands of its own; name one of: {subsets or '-'}")
        if any(np.dtype(kind).kind == "c" for kind in file.dtypes):
            raise BadImageError(f"{path}: holds complex numbers; save their magnitudes first")
        self.geo = _geo_reference(file)
        self._nodata = None if file.nodata is None else float(file.nodata)
        self._rule = self._color_rule(bands, value_range)

    def read(self, x1: int, y1: int, x2: int, y2: int) -> UInt8Array | None:
        """See `Scene.read`."""
        stored = self._read(self._rasterio.windows.Window(x1, y1, x2 - x1, y2 - y1), None)
        if self._nodata is not None and bool(self._is_nodata(stored).all()):
            return None
        return to_rgb(stored, self._local_rule())

    def read_overview(self, max_side_px: int) -> UInt8Array:
        """See `Scene.read_overview`."""
        size_hw = overview_size_hw(self.size_hw, max_side_px)
        return to_rgb(self._read(None, size_hw, smooth=True), self._local_rule())

    def plan_windows(self, window_hw: tuple[int, int]) -> None:
        """Let GDAL's cache hold a row of windows, and no more."""
        file = self._file
        block_h, block_w = file.block_shapes[0]
        rows = window_hw[0] + 2 * block_h
        bytes_per_px = sum(np.dtype(kind).itemsize for kind in file.dtypes)
        needed_mb = _CACHE_SLACK * rows * (file.width + block_w) * bytes_per_px / 2**20
        cache_mb = int(max(_MIN_CACHE_MB, needed_mb))
        # In bytes: rasterio takes a number for that, and GDAL a large one too.
        self._rasterio.env.set_gdal_config("GDAL_CACHEMAX", cache_mb * 2**20)

    def close(self) -> None:
        """See `Scene.close`."""
        self._file.close()

    def _color_rule(
        self, bands: Sequence[int] | None, value_range: tuple[float, float] | None
    ) -> ColorRule:
        file, names = self._file, [kind.name for kind in self._file.colorinterp]
        if file.count == 1 and names[0] == "palette":
            return ColorRule((0, 0, 0), None, _palette(file.colormap(1)))
        rgb = [names.index(name) if name in names else -1 for name in ("red", "green", "blue")]
        chosen = choose_bands(
            file.count,
            bands=bands,
            rgb_bands=(rgb[0], rgb[1], rgb[2]) if min(rgb) >= 0 else None,
            has_alpha=names[-1] == "alpha",
            source=self.name,
        )
        # Until the ranges are known, `_read` needs the bands.
        self._rule = ColorRule(chosen, None)
        if value_range is not None:
            return ColorRule(chosen, (value_range,) * 3)
        if all(file.dtypes[band] == "uint8" for band in chosen):
            return self._rule
        sample = self._read(None, overview_size_hw(self.size_hw, _SAMPLE_SIDE_PX))
        return _stretched(chosen, sample[..., [0, 1, 2]], self._nodata, self.name)

    def _local_rule(self) -> ColorRule:
        """Return the rule for what `_read` returns: the three chosen bands only."""
        return ColorRule((0, 1, 2), self._rule.ranges, self._rule.palette)

    def _read(
        self, window: Any, size_hw: tuple[int, int] | None, *, smooth: bool = False
    ) -> np.ndarray:
        """Return the chosen bands (h, w, 3) of a window or of the whole, shrunk to a size."""
        unique = list(dict.fromkeys(self._rule.bands))
        methods = self._rasterio.enums.Resampling
        try:
            values = self._file.read(
                [band + 1 for band in unique],
                window=window,
                out_shape=None if size_hw is None else (len(unique), *size_hw),
                resampling=methods.average
                if smooth and self._rule.palette is None
                else methods.nearest,
            )
        except self._rasterio.errors.RasterioError as error:
            raise BadImageError(f"{self.name}: damaged, cannot be read: {error}") from None
        order = [unique.index(band) for band in self._rule.bands]
        stored: np.ndarray = values.transpose(1, 2, 0)[..., order]
        return stored

    def _is_nodata(self, stored: np.ndarray) -> np.ndarray:
        nodata = self._nodata
        if nodata is not None and np.isnan(nodata):
            return np.asarray(np.isnan(stored.astype(np.float32)))
        return np.asarray(stored == nodata)


def open_scene(
    path: str | os.PathLike[str],
    *,
    bands: Sequence[int] | None = None,
    value_range: Sequence[float] | None = None,
    apply_exif: bool = False,
) -> Scene:
    """Open a picture to be read window by window.

    Args:
        path: PNG, JPEG, BMP, TIFF; with rasterio whatever GDAL reads.
        bands: numbers (from 1) of the bands to show as red, green and blue; one for grey. Needed
            where a file has more than three colour bands and does not name them.
        value_range: the stored values that become black and white. None takes 8-bit values as
            they are and stretches deeper ones, each band between two percentiles of the scene.
        apply_exif: turn the picture as its EXIF orientation says. By default it is read as it is
            stored, as data sets are labelled; boxes are in the frame that is read.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: (a ValueError) it cannot be read.
        ValueError: ``bands`` or ``value_range`` do not fit.
    """
    path = os.fspath(Path(path).expanduser())
    limits = check_value_range(value_range)
    if not Path(path).is_file():
        kind = "a folder; give it to tools/demo.py" if Path(path).is_dir() else "nothing"
        raise FileNotFoundError(f"{path}: expected an image file, found {kind}")
    is_tiff = Path(path).suffix.lower() in TIFF_SUFFIXES
    orientation = read_orientation(path)
    turns = apply_exif and orientation != 1
    if not turns and _has_rasterio() and (is_tiff or _is_large(path)):
        return RasterScene(path, bands=bands, value_range=limits)
    try:
        stored = read_stored_image(path)
    except BadImageError as error:
        if is_tiff and not _has_rasterio():
            raise BadImageError(
                f"{error}; rasterio reads more kinds of TIFF: {NEEDS_GEO}"
            ) from None
        raise
    if orientation != 1 and not apply_exif:
        logger.warning(
            "%s: its EXIF orientation (%d) is not applied, boxes are in the frame of the stored "
            "pixels; apply_exif (--apply-exif) turns the picture",
            path,
            orientation,
        )
    if turns:
        stored = np.ascontiguousarray(turn_upright(stored, orientation))
    return ArrayScene(stored, _opencv_rule(stored, bands, limits, path), name=path)


def array_scene(image: np.ndarray, *, channel_order: ChannelOrder) -> ArrayScene:
    """Return a scene of a user's array; see `array_to_rgb` for what is taken."""
    rgb = array_to_rgb(image, channel_order=channel_order)
    return ArrayScene(rgb, ColorRule((0, 1, 2), None), name="array")


def overview_size_hw(size_hw: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    """Return the size that fits into ``max_side_px``, with the same proportions."""
    factor = min(1.0, max_side_px / max(size_hw))
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))


def _has_rasterio() -> bool:
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


def _is_large(path: str) -> bool:
    """Say whether a file is large; needs rasterio. Pillow refuses to open very large ones."""
    import rasterio

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return int(file.width) * int(file.height) >= LARGE_FILE_PX
    except rasterio.errors.RasterioError:
        return False


def _opencv_rule(
    stored: np.ndarray,
    bands: Sequence[int] | None,
    value_range: tuple[float, float] | None,
    path: str,
) -> ColorRule:
    """Return the rule for what OpenCV has read: grey, BGR or BGRA."""
    num_bands = 1 if stored.ndim == 2 else stored.shape[2]
    red, green, blue = choose_bands(
        num_bands, bands=bands, rgb_bands=None, has_alpha=num_bands in (2, 4), source=path
    )
    if num_bands >= 3:
        # The file's order is RGB, and OpenCV's BGR.
        swapped = {0: 2, 2: 0}
        red, green, blue = (swapped.get(band, band) for band in (red, green, blue))
    chosen = (red, green, blue)
    if value_range is not None:
        return ColorRule(chosen, (value_range,) * 3)
    if stored.dtype == np.uint8:
        return ColorRule(chosen, None)
    step = max(1, max(stored.shape[:2]) // _SAMPLE_SIDE_PX)
    sample = stored[::step, ::step].reshape(*stored[::step, ::step].shape[:2], num_bands)
    return _stretched(chosen, sample[..., list(chosen)], None, path)


def _stretched(
    chosen: tuple[int, int, int], sample: np.ndarray, nodata: float | None, name: str
) -> ColorRule:
    ranges = stretch_ranges(sample, nodata=nodata)
    logger.info(
        "%s: %s values are stretched to 8 bits from %s; value_range (--value-range) fixes it",
        name,
        sample.dtype,
        ", ".join(f"{low:g}..{high:g}" for low, high in ranges),
    )
    return ColorRule(chosen, ranges)


def _palette(colors: dict[int, tuple[int, ...]]) -> UInt8Array:
    table = np.zeros((256, 3), dtype=np.uint8)
    for index, color in colors.items():
        if 0 <= index < len(table):
            table[index] = color[:3]
    return table


def _geo_reference(file: Any) -> GeoReference | None:
    """Return where a rasterio file lies; None without a coordinate reference system."""
    if not file.crs or file.transform.is_identity:
        return None
    authority = file.crs.to_authority()
    name = ":".join(authority) if authority else ""
    transform = tuple(float(value) for value in tuple(file.transform)[:6])
    a, b, c, d, e, f = transform
    return GeoReference(name, file.crs.to_wkt(), (a, b, c, d, e, f))
