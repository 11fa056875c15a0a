"""What other libraries do for the rotated operators: shapely, OpenCV and torchvision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def make_polygons(boxes: Tensor) -> np.ndarray:
    """Return shapely polygons (N,) of boxes (N, 5)."""
    import shapely

    cx, cy, w, h, angle_deg = boxes.double().unbind(dim=1)
    angle_rad = torch.deg2rad(angle_deg)
    cos, sin = angle_rad.cos(), angle_rad.sin()
    corners = [
        torch.stack(
            [
                cx + sign_w * w / 2 * cos + sign_h * h / 2 * sin,
                cy - sign_w * w / 2 * sin + sign_h * h / 2 * cos,
            ],
            dim=1,
        )
        for sign_w, sign_h in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
    return shapely.polygons(torch.stack(corners, dim=1).numpy())


def _polygon_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    import shapely

    common = shapely.area(shapely.intersection(first, second))
    return common / (shapely.area(first) + shapely.area(second) - common)


def shapely_pairwise(boxes1: Tensor, boxes2: Tensor) -> np.ndarray:
    """Pairwise IoU (N, M): an STRtree finds the pairs whose bounds meet."""
    import shapely

    first, second = make_polygons(boxes1), make_polygons(boxes2)
    row, column = shapely.STRtree(second).query(first)
    iou = np.zeros((len(first), len(second)), dtype=np.float32)
    iou[row, column] = _polygon_iou(first[row], second[column])
    return iou


def shapely_paired(boxes1: Tensor, boxes2: Tensor) -> np.ndarray:
    """IoU (P,) of aligned pairs."""
    return _polygon_iou(make_polygons(boxes1), make_polygons(boxes2))


def opencv_paired(boxes1: Tensor, boxes2: Tensor) -> np.ndarray:
    """IoU (P,) of aligned pairs, a Python call each."""
    import cv2

    iou = np.zeros(len(boxes1), dtype=np.float32)
    for i, (one, two) in enumerate(zip(boxes1.tolist(), boxes2.tolist())):
        first = ((one[0], one[1]), (one[2], one[3]), -one[4])
        second = ((two[0], two[1]), (two[2], two[3]), -two[4])
        _, points = cv2.rotatedRectangleIntersection(first, second)
        if points is not None:
            common = cv2.contourArea(cv2.convexHull(points))
            iou[i] = common / (one[2] * one[3] + two[2] * two[3] - common)
    return iou


def torchvision_pairwise() -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return torchvision's pairwise IoU, None where this version has none."""
    import torchvision  # noqa: F401  registers its operators

    if not hasattr(torch.ops.torchvision, "box_iou_rotated"):
        return None
    function: Callable[[Tensor, Tensor], Tensor] = torch.ops.torchvision.box_iou_rotated
    return function
