"""What a user may call pictures: files, folders, patterns, arrays, tensors and PIL's images."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from tcm_d2.data.images import IMAGE_SUFFIXES
from tcm_d2.data.raster_reader.kinds import VRT_SUFFIX
from tcm_d2.messages import some_names

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
ImageLike = PathLike | np.ndarray | Tensor | Image.Image

_GLOB_CHARACTERS = "*?["
# Of PIL's modes, those with 8 bits a channel, which can be shown without a choice.
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def is_pattern(path: PathLike) -> bool:
    """Return whether a path stands for the files that match it, and not for one of this name."""
    text = os.fspath(path)
    return any(c in text for c in _GLOB_CHARACTERS) and not Path(text).expanduser().exists()


def expand_inputs(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files that paths, folders and patterns stand for, each once, in their order.

    Args:
        inputs: files; folders, whose images are taken (not those of folders in them, nor virtual
            rasters, which are named one by one); patterns such as ``scenes/*.tif``, with ``**`` for
            folders in folders.

    Raises:
        FileNotFoundError: nothing is there, or a folder or pattern gives no image.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        text = os.fspath(given)
        path = Path(text).expanduser()
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if _is_image(p))
            _report_virtual_rasters(path)
            if not files:
                raise FileNotFoundError(
                    f"input '{text}': a folder without images ({', '.join(IMAGE_SUFFIXES)})"
                )
        elif path.exists():
            files = [path]
        elif is_pattern(text):
            matches = map(Path, sorted(glob.glob(os.fspath(path), recursive=True)))
            is_named = text.lower().endswith(VRT_SUFFIX)
            files = [p for p in matches if is_named or _is_image(p)]
            if not files:
                raise FileNotFoundError(f"input '{text}': the pattern matches no image")
        else:
            raise FileNotFoundError(f"input '{text}': no such file or folder")
        found.update(dict.fromkeys(files))
    return list(found)


def to_array(image: object) -> np.ndarray:
    """Return a picture in memory as an array, channels last.

    Args:
        image: an array; a tensor (3, H, W), (1, H, W), (4, H, W) or (H, W) on any device; or an
            image of PIL's with 8 bits a channel, which is turned into RGB (an EXIF orientation is
            not applied, as for files).

    Raises:
        TypeError: something else, or an image of PIL's with more than 8 bits.
        ValueError: a tensor with another number of channels.
    """
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        if image.mode not in _EIGHT_BIT_MODES:
            raise TypeError(
                f"image: expected 8 bits a channel, got an image of PIL's mode {image.mode!r}; "
                "give the path of its file, with value_range where the range is known"
            )
        return np.asarray(image.convert("RGB"))
    if isinstance(image, Tensor):
        array: np.ndarray = image.detach().cpu().numpy()
        if array.ndim == 3:
            if array.shape[0] not in (1, 3, 4):
                raise ValueError(
                    f"image: expected a tensor (3, H, W), (1, H, W) or (4, H, W), got "
                    f"{tuple(array.shape)}; channels come first in tensors, last in arrays"
                )
            array = array.transpose(1, 2, 0)
        return array
    raise TypeError(
        "image: expected a path, a uint8 array (H, W, 3), a tensor (3, H, W), an image of PIL's, "
        f"or several of these, got {type(image).__name__}"
    )


def image_id_of(image: Any) -> str:
    """Return a name for the results of a picture in memory: of the file that PIL knows."""
    name = getattr(image, "filename", "") if isinstance(image, Image.Image) else ""
    return Path(os.fspath(name)).stem if isinstance(name, (str, os.PathLike)) and name else "array"


def _is_image(path: Path) -> bool:
    is_hidden = path.name.startswith(".")
    # What is no regular file is refused with its name, when it is opened.
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden and not path.is_dir()


def _report_virtual_rasters(folder: Path) -> None:
    names = [p.name for p in sorted(folder.iterdir()) if p.suffix.lower() == VRT_SUFFIX]
    if names:
        logger.warning(
            "%s: virtual rasters name other files and are only opened by their own name: left out "
            "%s",
            folder,
            some_names(names),
        )
