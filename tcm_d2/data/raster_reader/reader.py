"""Open any raster; which decoder reads it depends on what the file is, never on its name or size.

========================  ======================================================================
PNG, TIFF, JPEG 2000,     rasterio (GDAL); small PNG and JPEG 2000 are decoded in one piece
Erdas Imagine, ``.vrt``   (faster; simple PNG by `tcm_d2.data.png`), large ones row by row. Without
                          rasterio OpenCV decodes PNG and TIFF whole.
JPEG, WebP, BMP           OpenCV, whole (large BMP: rasterio, the same pixels). GDAL's decoder of
                          JPEG gives other colours, by up to 16 levels, in four times the time.
========================  ======================================================================
"""

from __future__ import annotations

import os

from tcm_d2.data.raster_reader import gdal
from tcm_d2.data.raster_reader.decoders import decode_simple_png, decode_whole
from tcm_d2.data.raster_reader.geo_reference import has_position_without_crs, read_position
from tcm_d2.data.raster_reader.heads import read_head_size_hw
from tcm_d2.data.raster_reader.kinds import (
    BMP,
    PNG,
    RasterFile,
    inspect_file,
)
from tcm_d2.data.raster_reader.raster import MemoryRaster, Raster

# Below, one decoding is faster than one for each row of windows; above, it takes too much memory.
WHOLE_FILE_PX = 40_000_000


def open_raster(
    path: str | os.PathLike[str],
    *,
    whole: bool = False,
    with_position: bool = False,
    crs: str | None = None,
) -> Raster:
    """Open a raster file.

    Args:
        path: of the file.
        whole: it will be read once and whole.
        with_position: say where it lies on the ground, by the file or a file beside it (world
            file, ``.aux.xml``); needs rasterio.
        crs: the coordinate system ("EPSG:32633") of a position without one.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: (a ValueError) it is no raster, damaged, or claims what cannot be.
        ValueError: ``crs`` names no system.
    """
    file = inspect_file(path)
    kind, is_small = file.kind, True
    if kind in (PNG, BMP):
        height, width = read_head_size_hw(file)
        is_small = height * width < WHOLE_FILE_PX
    has_gdal = gdal.has_rasterio()
    if kind is PNG and (whole or is_small or not has_gdal):
        simple = decode_simple_png(file)
        if simple is not None:
            return _locate(simple, file, with_position, crs)
    if not has_gdal or (kind.opencv_decodes and (is_small or kind is not BMP)):
        return _locate(decode_whole(file), file, with_position, crs)
    raster = gdal.GdalRaster(file, with_position=with_position, crs=crs)
    height, width = raster.size_hw
    if whole:
        raster.check_whole()
    elif not kind.has_windows and height * width < WHOLE_FILE_PX:
        with raster:
            raster.check_whole()
            return MemoryRaster.of(raster)
    return raster


def _locate(
    raster: MemoryRaster, file: RasterFile, with_position: bool, crs: str | None
) -> MemoryRaster:
    """Set where a decoded picture lies, by what GDAL finds in the file and beside it."""
    if with_position and gdal.has_rasterio():
        with gdal.open_dataset(file, with_sidecars=True) as dataset:
            raster.geo = read_position(dataset, crs)
            raster.lacks_crs = raster.geo is None and has_position_without_crs(dataset)
    return raster
