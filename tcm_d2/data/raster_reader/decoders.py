"""Files decoded whole: JPEG, BMP and WebP by OpenCV, PNG by us, the rest where GDAL is missing."""

from __future__ import annotations

import cv2
import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from tcm_d2.data.png import decode_rgb
from tcm_d2.data.raster_reader.geo_reference import NEEDS_GEO
from tcm_d2.data.raster_reader.heads import open_with_pillow, read_head_size_hw
from tcm_d2.data.raster_reader.kinds import (
    BMP,
    JPEG,
    PNG,
    TIFF,
    WEBP,
    BadImageError,
    RasterFile,
    check_end,
    find_jpeg_end,
    open_regular,
)
from tcm_d2.data.raster_reader.raster import MemoryRaster

# OpenCV's own limit; a larger file is not decoded whole.
MAX_WHOLE_PX = 2**30
_DECODED_KINDS = (JPEG, PNG, BMP, WEBP, TIFF)
_TIFF_BITS_PER_SAMPLE, _TIFF_EXTRA_SAMPLES = 258, 338
# The value of the latter for alpha that the colours are not multiplied with.
_TIFF_PLAIN_ALPHA = (2,)
# What libjpeg gives for blocks that are not in the file: all coefficients 0.
_MISSING_LEVEL = 128
_CORNER_PX = 4
# Any file's last blocks, decoded from zeros instead of from nothing.
_ZEROS = b"\0" * 4096


def decode_whole(file: RasterFile) -> MemoryRaster:
    """Return the picture of a file.

    Raises:
        BadImageError: (a ValueError) a damaged or truncated file, or a kind that needs rasterio.
    """
    if file.kind not in _DECODED_KINDS:
        raise BadImageError(
            f"{file.path}: rasterio is needed to read {file.kind.name}; {NEEDS_GEO}"
        )
    size_hw, content = _read_content(file)
    stored = _decode_tiff_with_alpha(file) if file.kind is TIFF else None
    if stored is None:
        stored = _imdecode(file, content)
    if stored.shape[:2] != size_hw:
        raise BadImageError(
            f"{file.path}: expected {size_hw[1]} x {size_hw[0]} px as its head says, got "
            f"{stored.shape[1]} x {stored.shape[0]}; write the file again"
        )
    if file.kind is JPEG and _ends_early(content, stored):
        raise BadImageError(
            f"{file.path}: expected a complete image file, got a JPEG whose data end before the "
            "picture does (its lower part would be grey); fetch the file again"
        )
    return MemoryRaster(stored, name=file.path, kind=file.kind, is_bgr=True)


def decode_simple_png(file: RasterFile) -> MemoryRaster | None:
    """Return the picture of an 8-bit RGB file with simple row filters; None for any other PNG.

    Raises:
        BadImageError: (a ValueError) truncated, or not to be decoded whole.
    """
    _, content = _read_content(file)
    rgb = decode_rgb(content.data)
    return None if rgb is None else MemoryRaster(rgb, name=file.path, kind=PNG, is_bgr=False)


def _read_content(file: RasterFile) -> tuple[tuple[int, int], np.ndarray]:
    """Return the size that a file's head claims, where it may be decoded whole, and its bytes."""
    size_hw = read_head_size_hw(file)
    if size_hw[0] * size_hw[1] > MAX_WHOLE_PX:
        raise BadImageError(
            f"{file.path}: {size_hw[1]} x {size_hw[0]} px are too many to be decoded whole; save "
            "the picture as TIFF, and install what reads it in parts: " + NEEDS_GEO
        )
    # At least; a PNG can have more bytes a pixel.
    file.check_size(size_hw, bytes_per_px=3, whole=True)
    with open_regular(file.path) as stream:
        check_end(file, stream)
        stream.seek(0)
        return size_hw, np.frombuffer(stream.read(), dtype=np.uint8)


def _imdecode(file: RasterFile, content: np.ndarray) -> np.ndarray:
    # The orientation is applied, or not, by whoever asks for the picture: here it is as stored.
    try:
        image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise BadImageError(
            f"{file.path}: expected an image file, OpenCV says: {' '.join(str(error).split())}"
        ) from None
    if image is None or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > 4):
        hint = f"; rasterio reads more kinds of TIFF: {NEEDS_GEO}" if file.kind is TIFF else ""
        raise BadImageError(
            f"{file.path}: expected a complete image file, got {file.num_bytes} bytes of "
            f"{file.kind.name} that cannot be decoded; fetch the file again{hint}"
        )
    return image


def _decode_tiff_with_alpha(file: RasterFile) -> np.ndarray | None:
    """Return the stored colours of an 8-bit TIFF with alpha; None for any other file.

    OpenCV would multiply the colours with the alpha, unlike for PNG.
    """
    try:
        with open_with_pillow(file) as image:
            tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
            if tags.get(_TIFF_EXTRA_SAMPLES) != _TIFF_PLAIN_ALPHA:
                return None
            if set(tags.get(_TIFF_BITS_PER_SAMPLE, ())) != {8}:
                return None
            if image.mode == "LA":
                return np.asarray(image.getchannel("L"))
            if image.mode == "RGBA":
                return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGBA2BGRA)
    except BadImageError:
        return None  # no head that Pillow knows
    except Exception as error:  # decoders raise anything for damaged data
        raise BadImageError(
            f"{file.path}: expected a complete TIFF, got a damaged one: {error}; fetch the file "
            "again"
        ) from None
    return None


def _ends_early(content: np.ndarray, image: np.ndarray) -> bool:
    """Say whether the data of a JPEG with an end mark end before the picture.

    Such a picture ends in blocks of one grey level. So may a whole one: then zeros put in front of
    the end mark change nothing, while a decoder that lacks data takes them for blocks.
    """
    corner = image[-_CORNER_PX:, -_CORNER_PX:]
    if not (corner == _MISSING_LEVEL).all():
        return False
    end = find_jpeg_end(content.tobytes())
    if end is None:
        return True
    padded = np.concatenate([content[:end], np.frombuffer(_ZEROS, np.uint8), content[end:]])
    again = cv2.imdecode(padded, cv2.IMREAD_UNCHANGED)
    return again is None or not np.array_equal(again, image)
