"""Pictures of a report: downscaled and packed into the page within a budget of bytes."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from tcm_d2.data.images import list_images, read_image

logger = logging.getLogger(__name__)

ImageFormat = Literal["webp", "jpeg"]
IMAGE_FORMATS: tuple[str, ...] = ("webp", "jpeg")
# Longest side and quality, tried in turn until the pictures fit.
_SETTINGS = ((1600, 82), (1280, 80), (1024, 78), (800, 75), (640, 70), (512, 65), (384, 60))
# Score maps need no finer grid: the model's own has a cell of 32 px.
_MAX_MAP_SIDE = 96


class Picture(NamedTuple):
    """A picture of the gallery.

    Attributes:
        image_index: which image of the analysis.
        size_hw: of the file, in which boxes are given.
        uri: "data:image/..." of the downscaled picture.
        score_maps: uint8 (K, h, w), 255 for a score of 1; None without.
    """

    image_index: int
    size_hw: tuple[int, int]
    uri: str
    score_maps: np.ndarray | None


def find_image_files(image_dir: Path, image_ids: Sequence[str]) -> dict[str, Path]:
    """Return the image file of each id that has one in the folder.

    Raises:
        FileNotFoundError: no such folder, or none of the ids has an image there.
    """
    if not image_dir.is_dir():
        raise FileNotFoundError(f"images: expected a folder, got {image_dir}")
    wanted = set(image_ids)
    files = {stem: path for stem, path in list_images(image_dir).items() if stem in wanted}
    if not files:
        raise FileNotFoundError(
            f"{image_dir}: no image is named after a label file (such as {image_ids[0]}.png); give "
            "the folder of the whole images"
        )
    return files


def pack_pictures(
    files: Sequence[tuple[int, Path]],
    *,
    max_bytes: int,
    image_format: ImageFormat = "webp",
    score_maps: dict[int, np.ndarray] | None = None,
) -> list[Picture]:
    """Read and encode pictures, as large as fits; the last ones are dropped if nothing does.

    Args:
        files: (image index, path), the most wanted first.
        max_bytes: of all pictures as they stand in the page (base64).
        image_format: "webp" or "jpeg".
        score_maps: float (K, h, w) in [0, 1] by image index.

    Raises:
        ValueError: unknown format, or not even one picture fits.
        FileNotFoundError, BadImageError: a file that cannot be read.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format: expected one of {IMAGE_FORMATS}, got {image_format!r}")
    # Decoded once, at the largest size that is ever written: whole aerial images do not all fit
    # into memory.
    shrunk = []
    for index, path in files:
        image = read_image(path, channel_order="BGR")
        shrunk.append((index, image.shape[:2], _shrink(image, _SETTINGS[0][0])))
    uris: list[str] = []
    for side, quality in _SETTINGS:
        uris = [_encode(_shrink(image, side), image_format, quality) for *_, image in shrunk]
        if sum(map(len, uris)) <= max_bytes:
            break
    while uris and sum(map(len, uris)) > max_bytes:
        uris.pop()
    if files and not uris:
        raise ValueError(f"max_bytes: {max_bytes} has no room for a single picture; allow more")
    if len(uris) < len(files):
        logger.warning(
            "the gallery holds %d of %d pictures: more do not fit the budget of %.1f MB",
            len(uris),
            len(files),
            max_bytes / 1e6,
        )
    maps = score_maps or {}
    return [
        Picture(index, (size_hw[0], size_hw[1]), uri, _quantize(maps.get(index)))
        for (index, size_hw, _), uri in zip(shrunk, uris)
    ]


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    size_wh = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    smaller: np.ndarray = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    return smaller


def _encode(image: np.ndarray, image_format: ImageFormat, quality: int) -> str:
    flag = cv2.IMWRITE_WEBP_QUALITY if image_format == "webp" else cv2.IMWRITE_JPEG_QUALITY
    suffix = ".webp" if image_format == "webp" else ".jpg"
    done, packed = cv2.imencode(suffix, image, [flag, quality])
    if not done:
        raise ValueError(f"image_format: OpenCV cannot write {image_format!r} here; try another")
    return f"data:image/{image_format};base64,{base64.b64encode(packed.tobytes()).decode('ascii')}"


def _quantize(score_maps: np.ndarray | None) -> np.ndarray | None:
    """Return uint8 maps on a grid of at most _MAX_MAP_SIDE."""
    if score_maps is None:
        return None
    if score_maps.ndim != 3:
        raise ValueError(f"score_maps: expected shape (K, h, w), got {score_maps.shape}")
    factor = min(1.0, _MAX_MAP_SIDE / max(score_maps.shape[1:]))
    size_wh = tuple(max(1, round(n * factor)) for n in score_maps.shape[:0:-1])
    small = [
        cv2.resize(m.astype(np.float32), size_wh, interpolation=cv2.INTER_AREA) for m in score_maps
    ]
    packed: np.ndarray = np.rint(255 * np.clip(np.stack(small), 0, 1)).astype(np.uint8)
    return packed
