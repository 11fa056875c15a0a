"""Argument checks shared by the public operators.

They run in Python, before dispatch, so that the compiled kernels and the reference implementations
refuse the same inputs with the same words.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_boxes(name: str, boxes: Tensor) -> Tensor:
    """Check a box tensor and return it in a dtype the kernels take.

    Args:
        name: name of the argument, for the message.
        boxes: (N, 5) cx, cy, w, h, angle_deg in any floating dtype.

    Returns:
        The same boxes, float16 and bfloat16 cast up to float32. Gradients flow through the cast.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: the shape is not (N, 5).
    """
    if not isinstance(boxes, Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor, got {type(boxes).__name__}; "
            "use the .tensor of Detectron2 boxes"
        )
    if boxes.dim() != 2 or boxes.shape[1] != 5:
        raise ValueError(
            f"{name}: expected shape (N, 5) of cx, cy, w, h, angle_deg, got {tuple(boxes.shape)}"
        )
    return check_floating(name, boxes)


def check_aligned_boxes(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Check boxes that are compared pair by pair; return them in their common dtype.

    Args:
        boxes1: (N, 5) cx, cy, w, h, angle_deg in any floating dtype.
        boxes2: (N, 5), likewise.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: wrong shape, different lengths, different devices.
    """
    boxes1 = check_boxes("boxes1", boxes1)
    boxes2 = check_boxes("boxes2", boxes2)
    if boxes1.shape[0] != boxes2.shape[0]:
        raise ValueError(
            f"boxes2: expected as many boxes as boxes1, {boxes1.shape[0]}, got {boxes2.shape[0]}; "
            "use box_iou_rotated for all pairs"
        )
    check_same_device(boxes1=boxes1, boxes2=boxes2)
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    return boxes1.to(dtype), boxes2.to(dtype)


def check_points(name: str, points: Tensor) -> Tensor:
    """Check (P, 2) points x, y and return them in a dtype the kernels take.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: another shape.
    """
    if not isinstance(points, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(points).__name__}")
    if points.dim() != 2 or points.shape[1] != 2:
        raise ValueError(f"{name}: expected shape (P, 2) of x, y, got {tuple(points.shape)}")
    return check_floating(name, points)


def check_quads(name: str, quads: Tensor) -> Tensor:
    """Check (N, 4, 2) corners x, y and return them in a dtype the kernels take.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: another shape.
    """
    if not isinstance(quads, Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor, got {type(quads).__name__}; "
            "use torch.from_numpy for an array"
        )
    if quads.dim() != 3 or tuple(quads.shape[1:]) != (4, 2):
        raise ValueError(
            f"{name}: expected shape (N, 4, 2) of corners x, y, got {tuple(quads.shape)}; "
            "use .reshape(-1, 4, 2) for rows of eight numbers"
        )
    return check_floating(name, quads)


def check_floating(name: str, values: Tensor) -> Tensor:
    """Return values as float32 or float64; half precision is cast up to float32.

    Raises:
        TypeError: integer, bool or complex values.
    """
    if not values.is_floating_point():
        raise TypeError(
            f"{name}: expected a floating point tensor, got {values.dtype}; call .float() first"
        )
    if values.dtype not in (torch.float32, torch.float64):
        return values.float()
    return values


def check_vector(name: str, values: Tensor, *, num_boxes: int) -> None:
    """Check that values is a tensor of shape (num_boxes,).

    Raises:
        TypeError: not a tensor.
        ValueError: another shape.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(values).__name__}")
    if values.dim() != 1 or values.shape[0] != num_boxes:
        raise ValueError(
            f"{name}: expected shape ({num_boxes},), one per box, got {tuple(values.shape)}"
        )


def check_same_device(**tensors: Tensor) -> None:
    """Check that all tensors live on one device.

    Raises:
        ValueError: they don't; the message lists each name with its device.
    """
    if len({tensor.device for tensor in tensors.values()}) > 1:
        where = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"expected all tensors on one device, got {where}; move them with .to()")


def check_iou_threshold(iou_threshold: float) -> float:
    """Return the threshold as a float.

    Raises:
        TypeError: not a number.
        ValueError: NaN or outside [0, 1].
    """
    if isinstance(iou_threshold, bool) or not isinstance(iou_threshold, (int, float)):
        raise TypeError(f"iou_threshold: expected a number, got {type(iou_threshold).__name__}")
    if not 0.0 <= iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold: expected a value in [0, 1], got {iou_threshold}")
    return float(iou_threshold)
