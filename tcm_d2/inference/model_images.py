"""Pictures as detectors take them: a user's arrays, and the tensors of the model.

Letters: H x W pixels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tcm_d2.data.augmentation import resize
from tcm_d2.data.raster_reader.colors import UInt8Array

ChannelOrder = Literal["RGB", "BGR"]


def array_to_rgb(image: np.ndarray, *, channel_order: ChannelOrder) -> UInt8Array:
    """Return an array given by a user as RGB (H, W, 3) uint8.

    Args:
        image: uint8 (H, W) or (H, W, 1) grey, (H, W, 3) colour or (H, W, 4) colour and alpha,
            which is dropped.
        channel_order: of the three colours.

    Raises:
        TypeError: not of uint8.
        ValueError: another shape or channel order.
    """
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order: expected 'RGB' or 'BGR', got {channel_order!r}")
    if image.dtype != np.uint8:
        raise TypeError(
            f"image: expected uint8, got {image.dtype}; scale the values to 0..255 first (how "
            "depends on the sensor), or save them to a file and give its path with value_range"
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        hint = "; channels come last" if image.ndim == 3 and image.shape[0] in (1, 3, 4) else ""
        raise ValueError(
            f"image: expected shape (H, W), (H, W, 3) or (H, W, 4), got {image.shape}{hint}"
        )
    if image.shape[2] == 1:
        return np.ascontiguousarray(np.repeat(image, 3, axis=2))
    colors = image[..., :3]
    return np.ascontiguousarray(colors if channel_order == "RGB" else colors[..., ::-1])


def to_model_image(rgb: UInt8Array, *, image_format: str, resize_factor: float) -> Tensor:
    """Return an image (3, h, w) uint8 as the data mapper gives it in evaluation.

    Args:
        rgb: (H, W, 3).
        image_format: order of the channels that the model expects, "RGB" or "BGR".
        resize_factor: of both sides.
    """
    shown: np.ndarray = rgb[..., ::-1] if image_format == "BGR" else rgb
    if resize_factor != 1:
        shown = resize(shown, np.empty((0, 2)), factor=resize_factor).image
    # torch warns of arrays that cannot be written: those are copied.
    return torch.from_numpy(np.require(shown, requirements=("C", "W"))).permute(2, 0, 1)
