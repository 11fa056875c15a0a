"""The size and the orientation in a file's head, without decoding a pixel."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from tcm_d2.data.raster_reader import gdal
from tcm_d2.data.raster_reader.geo_reference import NEEDS_GEO
from tcm_d2.data.raster_reader.kinds import (
    BMP,
    JPEG,
    PNG,
    TIFF,
    WEBP,
    BadImageError,
    FileKind,
    RasterFile,
    inspect_file,
)
from tcm_d2.data.raster_reader.orientation import UPRIGHT

_EXIF_ORIENTATION = 0x0112
# Called directly: Image.open guards against decompression bombs, by the number of pixels alone and
# also where nothing is decoded. `RasterFile.check_size` holds it against the size of the file.
_PILLOW_READERS: dict[FileKind, Callable[[str], ImageFile]] = {
    JPEG: JpegImageFile,
    PNG: PngImageFile,
    BMP: BmpImageFile,
    WEBP: WebPImageFile,
    TIFF: TiffImageFile,
}


class ImageHead(NamedTuple):
    """What the head of a file says.

    Attributes:
        size_hw: height and width of the stored pixels.
        orientation: EXIF's, 1 (as stored) to 8.
    """

    size_hw: tuple[int, int]
    orientation: int


def read_head(path: str | os.PathLike[str]) -> ImageHead:
    """Return size and orientation of a file.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: (a ValueError) it is no image, or claims a size that it cannot hold.
    """
    file = inspect_file(path)
    return ImageHead(read_head_size_hw(file), read_orientation(file))


def read_head_size_hw(file: RasterFile) -> tuple[int, int]:
    """Return height and width; see `read_head`."""
    # Pillow knows few kinds of TIFF, and nothing of what has no reader here.
    if file.kind in _PILLOW_READERS and not (file.kind is TIFF and gdal.has_rasterio()):
        with open_with_pillow(file) as image:
            width, height = image.size
        file.check_size((height, width), bytes_per_px=1)
        return height, width
    if not gdal.has_rasterio():
        raise BadImageError(
            f"{file.path}: rasterio is needed to read {file.kind.name}; {NEEDS_GEO}"
        )
    with gdal.open_dataset(file, with_sidecars=False) as dataset:
        return int(dataset.height), int(dataset.width)


def read_orientation(file: RasterFile) -> int:
    """Return EXIF's orientation (1 to 8); 1 where there is none or it cannot be read."""
    if file.kind not in _PILLOW_READERS:
        return UPRIGHT
    try:
        with open_with_pillow(file) as image:
            if file.kind is PNG:
                # Pillow's getexif would decode the whole picture.
                exif = Image.Exif()
                exif.load(image.info.get("exif", b""))
            else:
                exif = image.getexif()
            value = exif.get(_EXIF_ORIENTATION, UPRIGHT)
    except Exception:  # damaged EXIF data raise anything, and mean nothing
        return UPRIGHT
    return int(value) if value in range(1, 9) else UPRIGHT


def open_with_pillow(file: RasterFile) -> ImageFile:
    """Open a file with Pillow's reader of its kind, which decodes pixels only when asked for them.

    Raises:
        BadImageError: (a ValueError) its head is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _PILLOW_READERS[file.kind](file.path)
    except Exception as error:  # damaged heads raise anything
        raise BadImageError(
            f"{file.path}: expected an image file, got a damaged head of {file.kind.name}: "
            f"{error or type(error).__name__}; fetch the file again"
        ) from None
