"""Contact sheets and image files. Images are RGB uint8 (H, W, 3)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from tcm_d2.visualize.checks import checked_image

_JPEG_QUALITY = 92


def make_contact_sheet(
    images: Sequence[np.ndarray],
    *,
    columns: int,
    captions: Sequence[str] | None = None,
    tile_width_px: int = 480,
    gap_px: int = 6,
) -> np.ndarray:
    """Return one picture with the images in rows, each fitted into a square tile.

    Args:
        images: uint8 (h, w, 3) each, of any sizes; at least one.
        columns: tiles per row.
        captions: one per image, written below it.
        tile_width_px: side of a tile.
        gap_px: space between tiles.

    Raises:
        ValueError: no image, columns or tile width below 1, wrong number of captions.
        TypeError: an image that is not a uint8 array.
    """
    if not images:
        raise ValueError("images: expected at least one image, got none")
    for name, value in (("columns", columns), ("tile_width_px", tile_width_px)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions: expected {len(images)} (one per image), got {len(captions)}")
    columns = min(columns, len(images))
    caption_px = 0 if captions is None else max(18, tile_width_px // 20)
    step_x, step_y = tile_width_px + gap_px, tile_width_px + caption_px + gap_px
    rows = -(-len(images) // columns)
    sheet = np.full((rows * step_y + gap_px, columns * step_x + gap_px, 3), 30, np.uint8)
    for index, image in enumerate(images):
        image = checked_image(image)
        factor = tile_width_px / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        tile = cv2.resize(image, size, interpolation=method)
        x = gap_px + (index % columns) * step_x + (tile_width_px - size[0]) // 2
        y = gap_px + (index // columns) * step_y + (tile_width_px - size[1]) // 2
        sheet[y : y + size[1], x : x + size[0]] = tile
        if captions is not None:
            left = gap_px + (index % columns) * step_x
            top = gap_px + (index // columns) * step_y + tile_width_px
            _write_caption(
                sheet[top : top + caption_px, left : left + tile_width_px], captions[index]
            )
    return sheet


def save_image(path: str | os.PathLike[str], image_rgb: np.ndarray) -> None:
    """Write a PNG or JPEG file in one step: readers see the old file or the whole new one.

    Args:
        path: ends in .png, .jpg or .jpeg; its folder is made where missing.
        image_rgb: uint8 (H, W, 3).

    Raises:
        ValueError: another file name ending.
        OSError: the file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"path: expected an ending .png, .jpg or .jpeg, got {target.name!r}")
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    done, packed = cv2.imencode(suffix, checked_image(image_rgb)[..., ::-1], options)
    if not done:
        raise OSError(f"{target}: could not encode the image")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(packed.tobytes())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write_caption(strip: np.ndarray, text: str) -> None:
    """Write one line of text into a strip of the sheet, cut to its width."""
    scale = 0.03 * strip.shape[0]
    while text and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > strip.shape[1]:
        text = text[:-1]
    line = np.ascontiguousarray(strip)
    base = (2, int(0.75 * strip.shape[0]))
    cv2.putText(line, text, base, cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1, cv2.LINE_AA)
    strip[:] = line
