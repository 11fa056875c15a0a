"""Checks of what users hand to the drawing functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.visualize.annotate import auto_line_width

ArrayLike = np.ndarray | Tensor


def checked_image(image: np.ndarray) -> np.ndarray:
    """Return the image, contiguous; TypeError or ValueError unless it is uint8 (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"image: expected a uint8 array, got {got}; scale and convert it first")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: expected shape (H, W, 3), RGB, got {image.shape}")
    return np.ascontiguousarray(image)


def checked_boxes(boxes: ArrayLike, name: str) -> Tensor:
    """Return boxes (M, 5) as a float64 tensor on the CPU; anything empty gives (0, 5)."""
    tensor = torch.as_tensor(to_numpy(boxes))
    if tensor.numel() == 0:
        return torch.zeros((0, 5), dtype=torch.float64)
    if tensor.ndim != 2 or tensor.shape[1] != 5:
        raise ValueError(
            f"{name}: expected shape (M, 5) cx, cy, w, h, angle_deg, got {tuple(tensor.shape)}"
        )
    return tensor.double()


def checked_quads(boxes: ArrayLike, name: str) -> np.ndarray:
    """Return the corners (M, 4, 2) float64 of boxes (M, 5)."""
    return boxes_to_quads(checked_boxes(boxes, name)).numpy()


def checked_vector(
    values: ArrayLike | Sequence[float] | None, length: int, name: str
) -> np.ndarray | None:
    """Return values (length,) as float64, None for None."""
    if values is None:
        return None
    vector = to_numpy(values).astype(np.float64)
    if vector.shape != (length,) and not (length == 0 and vector.size == 0):
        raise ValueError(f"{name}: expected shape ({length},), got {vector.shape}")
    return vector.reshape(length)


def checked_classes(
    values: ArrayLike | Sequence[int] | None,
    length: int,
    class_names: Sequence[str] | None,
    name: str,
) -> np.ndarray:
    """Return class indices (length,) int64, zeros for None; each must have a name."""
    if values is None:
        return np.zeros(length, np.int64)
    vector = checked_vector(values, length, name)
    assert vector is not None
    classes = vector.astype(np.int64)
    limit = None if class_names is None else len(class_names)
    if length and (classes.min() < 0 or (limit is not None and classes.max() >= limit)):
        raise ValueError(
            f"{name}: expected class indices 0..{'' if limit is None else limit - 1}, "
            f"got {int(classes.min())}..{int(classes.max())}"
        )
    return classes


def checked_line_width(width: int | None, image: np.ndarray, quads: np.ndarray) -> int:
    """Return the line width, chosen from the picture where it is None."""
    if width is None:
        return auto_line_width(image.shape[:2], quads)
    if width < 1:
        raise ValueError(f"line_width_px: expected at least 1, got {width}")
    return int(width)


def to_numpy(values: ArrayLike | Sequence[float]) -> np.ndarray:
    """Return an array of a tensor, an array or a sequence."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)
