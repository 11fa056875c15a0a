"""The orientation that EXIF gives a picture: read it, and turn the picture upright by it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tcm_d2.data.images import open_head

_EXIF_ORIENTATION = 0x0112


def read_orientation(path: str) -> int:
    """Return EXIF's orientation (1 to 8); 1 where there is none or the head is unreadable."""
    try:
        with open_head(path) as image:
            if image.format == "PNG":
                # Pillow's getexif would decode the whole picture.
                exif = Image.Exif()
                exif.load(image.info.get("exif", b""))
            else:
                exif = image.getexif()
            value = exif.get(_EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError):
        return 1
    return value if value in range(1, 9) else 1


def turn_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Return the picture upright: EXIF 2 to 4 mirror or turn by 180, 5 to 8 swap the sides too."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return stored
