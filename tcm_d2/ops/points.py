"""Points in rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops import _library  # noqa: F401  (declares torch.ops.tcm_d2)
from tcm_d2.ops._arguments import check_boxes, check_points, check_same_device


def points_in_rotated_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Return which points lie in which boxes; the border belongs to a box.

    Computed in float64 whatever the input dtype, so that a point on the border of a box turned by a
    multiple of 90 degrees is inside to the bit. Nothing but the result grows with P x M.

    Args:
        points: (P, 2) x, y in the frame of the boxes; float32 or float64. float16 and bfloat16 are
            cast up to float32.
        boxes: (M, 5) cx, cy, w, h, angle_deg, likewise.

    Returns:
        (P, M) bool. Boxes without a positive area, and boxes and points with a non-finite number,
        give False.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, tensors on different devices.
    """
    points = check_points("points", points)
    boxes = check_boxes("boxes", boxes)
    check_same_device(points=points, boxes=boxes)
    dtype = torch.promote_types(points.dtype, boxes.dtype)
    inside: Tensor = torch.ops.tcm_d2.points_in_rotated_boxes(
        points.detach().to(dtype), boxes.detach().to(dtype)
    )
    return inside
