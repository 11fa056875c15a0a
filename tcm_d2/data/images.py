"""Read image files: 8-bit colour arrays, or one sentence that names the file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from tcm_d2.data.png import decode_rgb

IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

# A complete file ends (up to some padding) with these bytes; OpenCV 4 returns a half-grey picture
# for a JPEG that lacks them.
_END_MARKS = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG", b"IEND"))
_TAIL_BYTES = 1 << 16
# Pillow's readers of IMAGE_SUFFIXES.
_PILLOW_READERS = (PngImageFile, JpegImageFile, TiffImageFile, BmpImageFile)
# TIFF, and TIFF with 64-bit offsets, in both byte orders.
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF_BITS_PER_SAMPLE, _TIFF_EXTRA_SAMPLES = 258, 338
# The value of the latter for alpha that the colours are not multiplied with.
_TIFF_PLAIN_ALPHA = (2,)


class BadImageError(ValueError):
    """An image file that cannot be used; the message names it and says why."""


def read_image(path: str | os.PathLike[str], *, channel_order: Literal["RGB", "BGR"]) -> np.ndarray:
    """Return the picture in a file as (H, W, 3) uint8.

    Grey pictures are repeated over the channels, an alpha channel is dropped, and an EXIF
    orientation is ignored: annotations of aerial images refer to the stored pixels.

    Raises:
        FileNotFoundError: when there is no such file.
        BadImageError: (a ValueError) for an empty, truncated or unreadable file, more than 8 bits
            a channel, or two or more than four channels.
    """
    path = os.fspath(path)
    content = _read_content(path)
    rgb = decode_rgb(content.data)
    if rgb is not None:
        return rgb if channel_order == "RGB" else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _to_three_channels(path, _decode_stored(path, content), channel_order)


def read_stored_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the picture in a file as it is stored: any depth, channels in OpenCV's order.

    Returns:
        (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGRA; a palette is looked up.

    Raises:
        FileNotFoundError: when there is no such file.
        BadImageError: (a ValueError) for an empty, truncated or unreadable file.
    """
    path = os.fspath(path)
    return _decode_stored(path, _read_content(path))


def _read_content(path: str) -> np.ndarray:
    try:
        return np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: image file not found") from None


def _decode_stored(path: str, content: np.ndarray) -> np.ndarray:
    _check_complete(path, content)
    if content[:4].tobytes() in _TIFF_STARTS:
        image = _decode_tiff_with_alpha(path)
        if image is not None:
            return image
    try:
        image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise BadImageError(f"{path}: expected an image file, OpenCV says: {error}") from None
    if image is None:
        raise BadImageError(
            f"{path}: expected a complete image file ({', '.join(IMAGE_SUFFIXES)}), got "
            f"{len(content)} bytes that cannot be decoded; fetch the file again"
        )
    return image


def _decode_tiff_with_alpha(path: str) -> np.ndarray | None:
    """Return the stored colours of an 8-bit TIFF with alpha; None for any other file.

    OpenCV would multiply the colours with the alpha, unlike for PNG.
    """
    try:
        with open_head(path) as image:
            tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
            if tags.get(_TIFF_EXTRA_SAMPLES) != _TIFF_PLAIN_ALPHA:
                return None
            if set(tags.get(_TIFF_BITS_PER_SAMPLE, ())) != {8}:
                return None
            if image.mode == "LA":
                return np.asarray(image.getchannel("L"))
            if image.mode == "RGBA":
                return cv2.cvtColor(np.asarray(image), cv2.COLOR_RGBA2BGRA)
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError) as error:
        raise BadImageError(
            f"{path}: expected a complete TIFF, got a damaged one: {error}; fetch the file again"
        ) from None
    return None


def open_head(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture of any size with Pillow, which decodes pixels only when asked for them.

    Pillow's guard against decompression bombs does not apply to heads, and aerial scenes are large.

    Raises:
        OSError, SyntaxError: not a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except Image.DecompressionBombError as error:
        # The guard sits in Image.open, not in the readers that it calls.
        for reader in _PILLOW_READERS:
            try:
                return reader(os.fspath(path))
            except SyntaxError:
                continue
        raise UnidentifiedImageError(str(error)) from None


def read_image_size_hw(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) from the file's head, without decoding the pixels.

    Raises:
        FileNotFoundError: when there is no such file.
        BadImageError: (a ValueError) when the head is not that of an image.
    """
    path = os.fspath(path)
    try:
        with open_head(path) as image:
            width, height = image.size
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: image file not found") from None
    except (OSError, SyntaxError) as error:
        raise BadImageError(
            f"{path}: expected an image file ({', '.join(IMAGE_SUFFIXES)}), got something else: "
            f"{error}; fetch the file again"
        ) from None
    return height, width


def list_images(image_dir: str | os.PathLike[str]) -> dict[str, Path]:
    """Return {image id: file} of a folder, sorted by image id.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when two files share an image id (``P1.png`` and ``P1.jpg``).
    """
    folder = Path(image_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder}: expected a folder with images, found none")
    found: dict[str, Path] = {}
    for path in sorted(_images_only(folder.iterdir())):
        if path.stem in found:
            raise ValueError(
                f"{folder}: expected one image per id, got {found[path.stem].name} and "
                f"{path.name}; remove one of them"
            )
        found[path.stem] = path
    return found


def _images_only(paths: Iterable[Path]) -> list[Path]:
    return [
        path
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]


def _check_complete(path: str, content: np.ndarray) -> None:
    if content.size == 0:
        raise BadImageError(f"{path}: expected an image file, got 0 bytes; fetch the file again")
    head = content[:8].tobytes()
    for start, end in _END_MARKS:
        if head.startswith(start) and end not in content[-_TAIL_BYTES:].tobytes():
            raise BadImageError(
                f"{path}: expected a complete image file, got a truncated one of {content.size} "
                "bytes (the end mark is missing); fetch the file again"
            )


def _to_three_channels(
    path: str, image: np.ndarray, channel_order: Literal["RGB", "BGR"]
) -> np.ndarray:
    if image.dtype != np.uint8:
        raise BadImageError(
            f"{path}: expected 8 bits per channel, got {image.dtype}; stretch the values to 8 bits "
            "first (how to stretch depends on the sensor, so it is not guessed here)"
        )
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] not in (3, 4):
        raise BadImageError(
            f"{path}: expected 1, 3 or 4 channels, got {image.shape[2]}; choose three bands first"
        )
    if channel_order == "BGR":
        return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    code = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGB
    return cv2.cvtColor(image, code)
