"""The pixels of a source image, row by row, and the files of its patches.

Windows are cut from the top of the image to the bottom, so that a large image is read once and only
the rows in use are in memory. Overlapping PNG patches share the work: rows are compressed in bands
between the windows' borders, and a patch is its bands joined.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np

from tcm_d2.data.images import read_image
from tcm_d2.data.png import PngRows, compress_rows, encode_rgb, join_rows
from tcm_d2.data.raster_reader.colors import ColorRule, check_eight_bit_colors, read_colors
from tcm_d2.data.raster_reader.raster import Raster
from tcm_d2.data.raster_reader.reader import WHOLE_FILE_PX, open_raster


class PatchPlan(NamedTuple):
    """One window to cut: x1, y1, x2, y2 in image pixels, and the side of its patch."""

    window: tuple[int, int, int, int]
    side_px: int


class ImageRows:
    """A whole image in memory; also the interface of `RasterRows`. A context manager.

    Attributes:
        size_hw: height and width in pixels.
    """

    size_hw: tuple[int, int]

    def __init__(self, rgb: np.ndarray) -> None:
        self.size_hw = (int(rgb.shape[0]), int(rgb.shape[1]))
        self._rgb = rgb

    def advance(self, top: int, bottom: int) -> None:
        """Have the rows from top to bottom at hand; rows above ``top`` are not needed any more."""

    def rows(self, y1: int, y2: int) -> np.ndarray:
        """Return rows (y2 - y1, W, 3) uint8 RGB; fewer where the image ends."""
        return self._rgb[y1:y2]

    def __enter__(self) -> ImageRows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""


class RasterRows(ImageRows):
    """A large file: no more than the rows between two calls is in memory."""

    def __init__(self, raster: Raster) -> None:
        """Args:
        raster: opened; closed with this.

        Raises:
            BadImageError: (a ValueError) not 8 bits in 1, 3 or 4 bands.
        """
        self._raster = raster
        self._rule = ColorRule(check_eight_bit_colors(raster))
        self.size_hw = raster.size_hw
        self._top, self._rows = 0, np.empty((0, self.size_hw[1], 3), dtype=np.uint8)
        raster.plan_rows(1)

    def advance(self, top: int, bottom: int) -> None:
        """See `ImageRows.advance`; calls go down the image."""
        bottom = min(bottom, self.size_hw[0])
        have = self._top + len(self._rows)
        kept = self._rows[max(0, top - self._top) :]
        parts = [kept] if len(kept) else []
        if bottom > have:
            parts.append(self._read(max(top, have), bottom))
        if parts:
            self._rows = np.concatenate(parts) if len(parts) > 1 else parts[0].copy()
            self._top = max(self._top, top) if len(kept) else max(top, have)

    def rows(self, y1: int, y2: int) -> np.ndarray:
        """See `ImageRows.rows`."""
        assert y1 >= self._top
        return self._rows[y1 - self._top : y2 - self._top]

    def close(self) -> None:
        """See `ImageRows.close`."""
        self._raster.close()

    def _read(self, y1: int, y2: int) -> np.ndarray:
        return read_colors(self._raster, self._rule, (0, y1, self.size_hw[1], y2))


def open_rows(path: Path, size_hw: tuple[int, int]) -> ImageRows:
    """Return the rows of an image file.

    Raises:
        FileNotFoundError, BadImageError: see `read_image`.
    """
    if size_hw[0] * size_hw[1] < WHOLE_FILE_PX:
        return ImageRows(read_image(path, channel_order="RGB"))
    raster = open_raster(path)
    try:
        return RasterRows(raster)
    except BaseException:
        raster.close()
        raise


def encode_patches(
    source: ImageRows, plans: Sequence[PatchPlan], *, pad_rgb: Sequence[int], suffix: str
) -> Iterator[tuple[int, bytes]]:
    """Yield (index into the plans, content of the patch's file), from top to bottom."""
    order = sorted(range(len(plans)), key=lambda index: plans[index].window[3])
    tops = [plans[index].window[1] for index in order]
    bands = _SharedBands(source, plans)
    for position, index in enumerate(order):
        plan = plans[index]
        x1, y1, x2, y2 = plan.window
        source.advance(min(tops[position:]), y2)
        is_plain = plan.side_px == x2 - x1 and y2 <= source.size_hw[0] and x2 <= source.size_hw[1]
        if is_plain and suffix == ".png":
            yield index, join_rows(bands.take(plan, min(tops[position:])), x2 - x1, y2 - y1)
        else:
            yield index, _encode(_cut(source, plan, pad_rgb), suffix)


class _SharedBands:
    """Compressed bands of rows, kept as long as a window below may use them."""

    def __init__(self, source: ImageRows, plans: Sequence[PatchPlan]) -> None:
        self._source = source
        self._bands: dict[tuple[int, int, int, int], PngRows] = {}
        borders: dict[tuple[int, int], set[int]] = {}
        for plan in plans:
            x1, y1, x2, y2 = plan.window
            borders.setdefault((x1, x2), set()).update((y1, y2))
        self._borders = {column: sorted(values) for column, values in borders.items()}

    def take(self, plan: PatchPlan, top: int) -> list[PngRows]:
        """Return a window's bands from top to bottom; bands above ``top`` are forgotten."""
        self._bands = {key: band for key, band in self._bands.items() if key[3] > top}
        x1, y1, x2, y2 = plan.window
        inside = [y for y in self._borders[x1, x2] if y1 <= y <= y2]
        taken = []
        for above, below in itertools.pairwise(inside):
            key = (x1, x2, above, below)
            if key not in self._bands:
                self._bands[key] = compress_rows(self._source.rows(above, below)[:, x1:x2])
            taken.append(self._bands[key])
        return taken


def _cut(source: ImageRows, plan: PatchPlan, pad_rgb: Sequence[int]) -> np.ndarray:
    """Return a patch (side, side, 3) RGB, padded at the right and the bottom, and resized."""
    x1, y1, x2, y2 = plan.window
    patch = source.rows(y1, y2)[:, x1:x2]
    if patch.shape[:2] != (y2 - y1, x2 - x1):
        padded = np.empty((y2 - y1, x2 - x1, 3), dtype=np.uint8)
        padded[:] = pad_rgb
        padded[: patch.shape[0], : patch.shape[1]] = patch
        patch = padded
    if plan.side_px != x2 - x1:
        method = cv2.INTER_AREA if plan.side_px < x2 - x1 else cv2.INTER_LINEAR
        patch = cv2.resize(patch, (plan.side_px, plan.side_px), interpolation=method)
    return patch


def _encode(rgb: np.ndarray, suffix: str) -> bytes:
    if suffix == ".png":
        return encode_rgb(rgb)
    done, content = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a patch as {suffix}")
    return bytes(content)
