"""A raster's stored values: its bands in any window, as they are in the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType

import cv2
import numpy as np

from tcm_d2.data.raster_reader.geo_reference import GeoReference
from tcm_d2.data.raster_reader.kinds import FileKind

# x1, y1, x2, y2 in pixels.
Window = tuple[int, int, int, int]
_BAND_NAMES = {
    1: ("gray",),
    2: ("gray", "alpha"),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "alpha"),
}


class Raster(ABC):
    """Stored values, H x W pixels of C bands; a context manager.

    Attributes:
        name: the file's path, for messages.
        kind: of the file.
        size_hw: height and width in stored pixels.
        band_names: C names by GDAL's words: "red", "gray", "alpha", "palette", "undefined", ...
        dtype: of the values.
        palette: (256, 3) colours RGB of the values of the one band; None without.
        nodata: the value that means "no data"; None without.
        geo: where the picture lies, if that was asked for and is known.
        lacks_crs: it has a position in a coordinate system that is not named.
    """

    name: str
    kind: FileKind
    size_hw: tuple[int, int]
    band_names: tuple[str, ...]
    dtype: np.dtype
    palette: np.ndarray | None = None
    nodata: float | None = None
    geo: GeoReference | None = None
    lacks_crs: bool = False

    @abstractmethod
    def read(
        self,
        bands: Sequence[int],
        window: Window | None = None,
        *,
        size_hw: tuple[int, int] | None = None,
        smooth: bool = False,
    ) -> np.ndarray:
        """Return values (h, w, len(bands)) of bands (from 0), of the whole or of a window in it.

        Args:
            bands: may name a band twice.
            window: None for the whole picture.
            size_hw: shrink to this size.
            smooth: by means instead of by leaving out pixels.

        Raises:
            BadImageError: (a ValueError) the file is damaged there.
        """

    def check_whole(self) -> None:
        """Raise BadImageError where reading it whole would take memory out of all proportion."""
        return

    def plan_rows(self, num_rows: int) -> None:
        """Prepare for reading so many rows at a time, from top to bottom."""
        return

    def close(self) -> None:
        """Close the file; by default there is nothing to do."""
        return

    def __enter__(self) -> Raster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class MemoryRaster(Raster):
    """A raster in memory."""

    def __init__(self, stored: np.ndarray, *, name: str, kind: FileKind, is_bgr: bool) -> None:
        """Args:
        stored: (H, W), (H, W, 3) or (H, W, 4), any dtype; not copied.
        name: the file's path.
        kind: of the file.
        is_bgr: colours are in OpenCV's order; bands are counted from red all the same.
        """
        self._stored = stored if stored.ndim == 3 else stored[..., None]
        self._is_bgr = is_bgr and self._stored.shape[2] >= 3
        self.name, self.kind, self.dtype = name, kind, stored.dtype
        self.size_hw = (int(stored.shape[0]), int(stored.shape[1]))
        num_bands = int(self._stored.shape[2])
        self.band_names = _BAND_NAMES.get(num_bands, ("undefined",) * num_bands)

    @classmethod
    def of(cls, raster: Raster) -> MemoryRaster:
        """Return another raster's values in memory, with all that is known of it."""
        stored = raster.read(range(len(raster.band_names)))
        copy = cls(stored, name=raster.name, kind=raster.kind, is_bgr=False)
        copy.band_names, copy.palette = raster.band_names, raster.palette
        copy.nodata, copy.geo, copy.lacks_crs = raster.nodata, raster.geo, raster.lacks_crs
        return copy

    def read(
        self,
        bands: Sequence[int],
        window: Window | None = None,
        *,
        size_hw: tuple[int, int] | None = None,
        smooth: bool = False,
    ) -> np.ndarray:
        """See `Raster.read`."""
        values = self._stored
        if window is not None:
            x1, y1, x2, y2 = window
            values = values[y1:y2, x1:x2]
        if size_hw is not None and size_hw != values.shape[:2]:
            values = _shrink(values, size_hw, smooth)
        return _choose(values, [2 - b if self._is_bgr and b < 3 else b for b in bands])


def _choose(values: np.ndarray, channels: list[int]) -> np.ndarray:
    """Return some channels of (h, w, C) values; OpenCV does the common choices fastest."""
    num = values.shape[2]
    if channels == list(range(num)):
        return values
    if values.dtype in (np.uint8, np.uint16) and values.size:
        codes: dict[tuple[int, tuple[int, ...]], int] = {
            (3, (2, 1, 0)): cv2.COLOR_BGR2RGB,
            (4, (2, 1, 0)): cv2.COLOR_BGRA2RGB,
            (4, (0, 1, 2)): cv2.COLOR_BGRA2BGR,
            (1, (0, 0, 0)): cv2.COLOR_GRAY2RGB,
        }
        code = codes.get((num, tuple(channels)))
        if code is not None:
            return cv2.cvtColor(values, code)
    chosen: np.ndarray = values[..., channels]
    return chosen


def _shrink(values: np.ndarray, size_hw: tuple[int, int], smooth: bool) -> np.ndarray:
    if smooth:
        if values.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
            values = values.astype(np.float64)
        small = cv2.resize(values, size_hw[::-1], interpolation=cv2.INTER_AREA)
        return small.reshape(*size_hw, values.shape[2])
    # As GDAL does it: the pixel below the middle of each new one.
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(size_hw, values.shape[:2])
    )
    left_out: np.ndarray = values[rows[:, None], columns]
    return left_out
