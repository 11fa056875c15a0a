"""Images of data sets: their folders and their 8-bit colours; `raster_reader` reads the files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from tcm_d2.data.raster_reader.colors import check_eight_bit_colors
from tcm_d2.data.raster_reader.heads import ImageHead, read_head
from tcm_d2.data.raster_reader.kinds import IMAGE_SUFFIXES, BadImageError
from tcm_d2.data.raster_reader.reader import open_raster

__all__ = [
    "IMAGE_SUFFIXES",
    "BadImageError",
    "ImageHead",
    "list_images",
    "read_head",
    "read_image",
    "read_image_size_hw",
]


def read_image(path: str | os.PathLike[str], *, channel_order: Literal["RGB", "BGR"]) -> np.ndarray:
    """Return the picture in a file as (H, W, 3) uint8.

    Grey pictures are repeated over the channels, an alpha channel is dropped, and an EXIF
    orientation is not applied: annotations of aerial images refer to the stored pixels.

    Raises:
        FileNotFoundError: when there is no such file.
        BadImageError: (a ValueError) for what is no image or a damaged one, more than 8 bits a
            channel, or two or more than four channels without names.
    """
    with open_raster(path, whole=True) as raster:
        bands = check_eight_bit_colors(raster)
        if raster.palette is None:
            chosen = bands if channel_order == "RGB" else bands[::-1]
            return np.ascontiguousarray(raster.read(chosen))
        palette = raster.palette if channel_order == "RGB" else raster.palette[:, ::-1]
        return np.ascontiguousarray(palette[raster.read((0,))[..., 0]])


def read_image_size_hw(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width) of the stored pixels from the file's head, without decoding them.

    Raises:
        FileNotFoundError: when there is no such file.
        BadImageError: (a ValueError) when the head is not that of an image.
    """
    return read_head(path).size_hw


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
