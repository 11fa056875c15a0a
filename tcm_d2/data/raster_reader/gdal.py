"""Files read through rasterio (GDAL), with one driver each and without the network.

GDAL would look at a file with 130 drivers, some of which fetch what the file names. Here a file is
opened by the driver of its kind only, and what GDAL finds beside it is looked at first.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tcm_d2.data.raster_reader.geo_reference import has_position_without_crs, read_position
from tcm_d2.data.raster_reader.kinds import (
    HFA,
    TIFF,
    VRT,
    BadImageError,
    RasterFile,
    inspect_file,
)
from tcm_d2.data.raster_reader.raster import Raster, Window
from tcm_d2.data.raster_reader.tiff_blocks import check_block_table
from tcm_d2.data.raster_reader.virtual_raster import check_virtual_raster

# GDAL's cache holds a row of windows (MB), so that no block is decoded twice.
_MIN_CACHE_MB = 64
_CACHE_SLACK = 1.3
# A block is decoded in one piece.
_MAX_BLOCK_BYTES = 2**30
# Files beside a raster that GDAL opens with whatever driver fits: overviews, masks, statistics.
_SIDECAR_SUFFIXES = (".ovr", ".OVR", ".msk", ".MSK", ".aux", ".AUX", ".rrd", ".RRD", ".ige")
_MAX_SIDECAR_XML_BYTES = 2**24
_OPTIONS = {
    # Nothing of what is opened here may be fetched.
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}",
    "CPL_CURL_ENABLE_VSIMEM": "NO",
    "GDAL_HTTP_MAX_RETRY": "0",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    # GDAL 3.10 shows memory where a PNG's data are complete and too few for its size.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    # Reads of damaged strips fail instead of giving what is there.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
}


@functools.cache
def has_rasterio() -> bool:
    """Say whether rasterio is installed."""
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def _gdal(**options: Any) -> Iterator[Any]:
    """Give rasterio in an environment without network; its errors become `BadImageError` outside.

    Options of GDAL belong to a thread, so that each call enters it anew.
    """
    import rasterio

    with warnings.catch_warnings(), rasterio.Env(**_OPTIONS, **options):
        # Plain pictures are welcome too.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield rasterio


def open_dataset(file: RasterFile, *, with_sidecars: bool) -> Any:
    """Return rasterio's dataset of a file.

    Args:
        file: of a known kind.
        with_sidecars: look for world files, overviews and the like beside it.

    Raises:
        BadImageError: (a ValueError) GDAL cannot open it, or it is refused.
    """
    if file.kind is VRT:
        check_virtual_raster(file.path)
    if file.kind is TIFF:
        check_block_table(file)
    # GDAL takes many things for a path; one that starts at the root is a path. TRUE: sidecars are
    # looked for by name, instead of listing a folder that may hold 100,000 patches.
    path = os.path.abspath(file.path)
    if path.startswith("/vsi"):
        raise BadImageError(f"{file.path}: expected an ordinary path, got one of GDAL's own")
    listing = "EMPTY_DIR"
    if with_sidecars or file.kind is VRT:
        listing = "TRUE"
        _check_sidecars(path)
    with _gdal(GDAL_DISABLE_READDIR_ON_OPEN=listing) as rasterio:
        try:
            dataset = rasterio.open(path, driver=file.kind.driver)
        except Exception as error:  # what GDAL raises for damaged heads has no common type
            raise BadImageError(
                f"{file.path}: expected a {file.kind.name} file that can be opened, got "
                f"{_short(error)}"
            ) from None
        try:
            _check_dataset(file, dataset)
        except BaseException:
            dataset.close()
            raise
    return dataset


def _check_sidecars(path: str) -> None:
    stem = os.path.splitext(path)[0]
    for beside in {base + suffix for base in (path, stem) for suffix in _SIDECAR_SUFFIXES}:
        if not os.path.lexists(beside) or beside == path:
            continue
        if beside.lower().endswith(".ige"):
            continue
        try:
            kind = inspect_file(beside).kind
        except (BadImageError, OSError) as error:
            raise BadImageError(f"{path}: the file beside it is refused: {error}") from None
        if kind not in (TIFF, HFA):
            raise BadImageError(
                f"{path}: expected {beside} to be TIFF or Erdas Imagine, got {kind.name}; delete it"
            )
    xml = f"{path}.aux.xml"
    if os.path.lexists(xml):
        is_fit = os.path.isfile(xml) and os.path.getsize(xml) <= _MAX_SIDECAR_XML_BYTES
        if not is_fit:
            raise BadImageError(
                f"{path}: expected {xml} to be a file of at most {_MAX_SIDECAR_XML_BYTES} bytes; "
                "delete it"
            )


def _check_dataset(file: RasterFile, dataset: Any) -> None:
    if dataset.count == 0:
        subsets = ", ".join(dataset.subdatasets[:3])
        raise BadImageError(
            f"{file.path}: has no bands of its own; save one of its parts as a file: "
            f"{subsets or '-'}"
        )
    if any(np.dtype(kind).kind == "c" for kind in dataset.dtypes):
        raise BadImageError(f"{file.path}: holds complex numbers; save their magnitudes first")
    # GDAL would open it, whatever it is, when a shrunk picture is asked for.
    overviews = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE", "")
    if overviews and not overviews.startswith(":::BASE:::"):
        raise BadImageError(
            f"{file.path}: names {overviews[:80]!r} for its overviews, which is not opened; write "
            "the file again with gdal_translate"
        )
    bytes_per_px = sum(np.dtype(kind).itemsize for kind in dataset.dtypes)
    file.check_size((dataset.height, dataset.width), bytes_per_px=bytes_per_px)
    block_h, block_w = dataset.block_shapes[0]
    # Without tiles GDAL gives the picture's own size for a kind that is decoded row by row.
    if file.kind.has_windows and block_h * block_w * bytes_per_px > _MAX_BLOCK_BYTES:
        raise BadImageError(
            f"{file.path}: its blocks of {block_w} x {block_h} px are too large to be decoded one "
            "by one; write it in tiles: gdal_translate -co TILED=YES"
        )


class GdalRaster(Raster):
    """A raster read through rasterio."""

    def __init__(
        self, file: RasterFile, *, with_position: bool = False, crs: str | None = None
    ) -> None:
        """Open the file.

        Args:
            file: of a known kind.
            with_position: look for the place on the ground, in the file and beside it.
            crs: see `read_position`.

        Raises:
            BadImageError: (a ValueError) it cannot be opened.
        """
        self._file = file
        self._dataset = dataset = open_dataset(file, with_sidecars=with_position)
        self.name, self.kind = file.path, file.kind
        self.size_hw = (int(dataset.height), int(dataset.width))
        self.dtype = np.dtype(np.result_type(*dataset.dtypes))
        self.band_names = tuple(kind.name for kind in dataset.colorinterp)
        self.nodata = None if dataset.nodata is None else float(dataset.nodata)
        self._scale_to_8_bits = 1
        if len(self.band_names) == 1:
            self._set_up_single_band()
        if with_position:
            self.geo = read_position(dataset, crs)
            self.lacks_crs = self.geo is None and has_position_without_crs(dataset)

    def _set_up_single_band(self) -> None:
        dataset = self._dataset
        if self.band_names[0] == "palette" and self.dtype == np.uint8:
            self.palette = _palette(dataset.colormap(1))
            return
        structure = {**dataset.tags(ns="IMAGE_STRUCTURE"), **dataset.tags(1, ns="IMAGE_STRUCTURE")}
        num_bits = int(structure.get("NBITS", 8))
        if self.dtype == np.uint8 and num_bits < 8:
            self._scale_to_8_bits = 255 // (2**num_bits - 1)
        if structure.get("MINISWHITE") == "YES" and self.dtype == np.uint8:
            levels = np.arange(255, -1, -1, dtype=np.uint8)
            self.palette = np.repeat(levels[:, None], 3, axis=1)

    def read(
        self,
        bands: Sequence[int],
        window: Window | None = None,
        *,
        size_hw: tuple[int, int] | None = None,
        smooth: bool = False,
    ) -> np.ndarray:
        """See `Raster.read`."""
        unique = list(dict.fromkeys(bands))
        x1, y1, x2, y2 = window or (0, 0, self.size_hw[1], self.size_hw[0])
        height, width = size_hw or (y2 - y1, x2 - x1)
        with _gdal() as rasterio:
            methods = rasterio.enums.Resampling
            try:
                stored = np.empty((height, width, len(unique)), dtype=self.dtype)
                self._dataset.read(
                    [band + 1 for band in unique],
                    window=rasterio.windows.Window(x1, y1, x2 - x1, y2 - y1),
                    out=stored.transpose(2, 0, 1),
                    resampling=methods.average if smooth else methods.nearest,
                )
            except MemoryError:
                raise BadImageError(
                    f"{self.name}: {width} x {height} px do not fit into memory"
                ) from None
            except Exception as error:  # see `open_dataset`
                raise BadImageError(
                    f"{self.name}: expected a complete {self.kind.name} file, got a damaged one "
                    f"({_short(error)}); fetch the file again"
                ) from None
        if self._scale_to_8_bits != 1:
            stored *= self._scale_to_8_bits
        if len(unique) == len(bands):
            return stored
        repeated: np.ndarray = stored[..., [unique.index(band) for band in bands]]
        return repeated

    def check_whole(self) -> None:
        """See `Raster.check_whole`."""
        bytes_per_px = self.dtype.itemsize * len(self.band_names)
        self._file.check_size(self.size_hw, bytes_per_px=bytes_per_px, whole=True)

    def plan_rows(self, num_rows: int) -> None:
        """Let GDAL's cache hold so many rows, and no more."""
        import rasterio

        dataset = self._dataset
        block_h, block_w = dataset.block_shapes[0]
        bytes_per_px = sum(np.dtype(kind).itemsize for kind in dataset.dtypes)
        width = dataset.width + block_w
        needed_mb = _CACHE_SLACK * (num_rows + 2 * block_h) * width * bytes_per_px / 2**20
        cache_mb = int(max(_MIN_CACHE_MB, needed_mb))
        # In bytes: rasterio takes a number for that, and GDAL a large one too.
        with rasterio.Env():
            rasterio.env.set_gdal_config("GDAL_CACHEMAX", cache_mb * 2**20)

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()


def _palette(colors: dict[int, tuple[int, ...]]) -> np.ndarray:
    table = np.zeros((256, 3), dtype=np.uint8)
    for index, color in colors.items():
        if 0 <= index < len(table):
            table[index] = color[:3]
    return table


def _short(error: Exception) -> str:
    """Return what went wrong in one line; rasterio keeps GDAL's words in the cause."""
    texts = [str(error.__cause__ or ""), str(error)]
    return " ".join(" ".join(texts).split())[:300] or type(error).__name__
