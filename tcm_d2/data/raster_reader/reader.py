"""Open any raster; which decoder reads it depends on what the file is, never on its name or size.

========================  ======================================================================
PNG, TIFF, JPEG 2000,     rasterio (GDAL); small PNG and JPEG 2000 are decoded in one piece
Erdas Imagine, ``.vrt``   (faster), large ones row by row. Without rasterio OpenCV decodes PNG and
                          TIFF whole.
JPEG, WebP, BMP           OpenCV, whole. GDAL's decoder of JPEG gives other colours (up to 16 levels
                          beside edges), and is four times as slow.
========================  ======================================================================
"""

from __future__ import annotations

import os

from tcm_d2.data.raster_reader import gdal
from tcm_d2.data.raster_reader.geo_reference import has_position_without_crs, read_position
from tcm_d2.data.raster_reader.heads import read_head_size_hw
from tcm_d2.data.raster_reader.kinds import (
    BMP,
    PNG,
    RasterFile,
    check_end,
    inspect_file,
    open_regular,
)
from tcm_d2.data.raster_reader.opencv import decode_whole
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
    is_decoded_whole = file.kind.opencv_decodes
    if file.kind is BMP:
        # Lossless: GDAL gives the same pixels, and reads parts of a large one.
        height, width = read_head_size_hw(file)
        is_decoded_whole = height * width < WHOLE_FILE_PX
    if is_decoded_whole or not gdal.has_rasterio():
        return _open_decoded(file, with_position=with_position, crs=crs)
    if file.kind is PNG:
        with open_regular(file.path) as stream:
            check_end(file, stream)
    raster = gdal.GdalRaster(file, with_position=with_position, crs=crs)
    height, width = raster.size_hw
    if whole:
        raster.check_whole()
    elif not file.kind.has_windows and height * width < WHOLE_FILE_PX:
        with raster:
            raster.check_whole()
            return MemoryRaster.of(raster)
    return raster


def _open_decoded(file: RasterFile, *, with_position: bool, crs: str | None) -> Raster:
    decoded = decode_whole(file)
    if with_position and gdal.has_rasterio():
        with gdal.open_dataset(file, with_sidecars=True) as dataset:
            decoded.geo = read_position(dataset, crs)
            decoded.lacks_crs = decoded.geo is None and has_position_without_crs(dataset)
    return decoded
