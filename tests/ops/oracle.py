"""Independent oracle (shapely, GEOS) and the families of box pairs on which the ops are tried."""

from __future__ import annotations

import numpy as np
import shapely
import torch
from torch import Tensor


def corners(boxes: Tensor, origins: Tensor) -> np.ndarray:
    """Return the corners (P, 4, 2) of (P, 5) boxes, moved so that each (P, 2) origin is at 0."""
    cx, cy, w, h, angle_deg = boxes.double().unbind(dim=1)
    cx, cy = cx - origins[:, 0].double(), cy - origins[:, 1].double()
    angle_rad = torch.deg2rad(angle_deg)
    cos, sin = torch.cos(angle_rad), torch.sin(angle_rad)
    points = []
    for sw, sh in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        x = cx + sw * w / 2 * cos + sh * h / 2 * sin
        y = cy - sw * w / 2 * sin + sh * h / 2 * cos
        points.append(torch.stack([x, y], dim=1))
    return torch.stack(points, dim=1).numpy()


def polygons(boxes: Tensor, origins: Tensor) -> np.ndarray:
    """Return shapely polygons of (P, 5) boxes, moved so that each (P, 2) origin is at 0."""
    return np.asarray(shapely.polygons(corners(boxes, origins)))


def exact_overlap(boxes1: Tensor, boxes2: Tensor, *, mode: str = "iou") -> Tensor:
    """Return the overlap of aligned pairs in float64, by polygon overlay."""
    origins = boxes1[:, :2]
    polygons1, polygons2 = polygons(boxes1, origins), polygons(boxes2, origins)
    common = shapely.area(shapely.intersection(polygons1, polygons2))
    areas1 = (boxes1[:, 2].double() * boxes1[:, 3].double()).numpy()
    areas2 = (boxes2[:, 2].double() * boxes2[:, 3].double()).numpy()
    whole = areas1 if mode == "iof" else areas1 + areas2 - common
    positive = (areas1 > 0) & (areas2 > 0)
    return torch.from_numpy(np.where(positive, common / np.where(positive, whole, 1.0), 0.0))


def _random_boxes(num: int, generator: torch.Generator, *, extent: float = 60.0) -> Tensor:
    unit = torch.rand(num, 5, generator=generator, dtype=torch.float64)
    boxes = torch.empty(num, 5, dtype=torch.float64)
    boxes[:, :2] = unit[:, :2] * extent
    boxes[:, 2:4] = 2 + unit[:, 2:4] * extent
    boxes[:, 4] = (unit[:, 4] - 0.5) * 720
    return boxes


def box_pairs(family: str, num: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return num aligned pairs of one family, in the dtype the op shall see."""
    generator = torch.Generator().manual_seed(FAMILIES.index(family))
    boxes1 = _random_boxes(num, generator)
    boxes2 = _random_boxes(num, generator)
    noise = torch.randn(num, 5, generator=generator, dtype=torch.float64)
    if family == "near_identical":
        size = 10 ** (-1 - 6 * torch.rand(num, 1, generator=generator, dtype=torch.float64))
        boxes2 = boxes1 + noise * size
    elif family == "identical":
        boxes2 = boxes1.clone()
    elif family == "other_representation":
        boxes2 = boxes1[:, [0, 1, 3, 2, 4]] + boxes1.new_tensor([0, 0, 0, 0, 90.0])
    elif family == "shared_edge":
        # Side by side or overlapping along the width axis, edges on common lines.
        boxes2 = boxes1.clone()
        shift = boxes1[:, 2] * (noise[:, 0].abs() * 0.7)
        angle_rad = torch.deg2rad(boxes1[:, 4])
        boxes2[:, 0] += shift * torch.cos(angle_rad)
        boxes2[:, 1] -= shift * torch.sin(angle_rad)
    elif family == "touching":
        boxes1[:, 2:4] = boxes1[:, 2:4].round()
        boxes1[:, :2] = boxes1[:, :2].round()
        boxes1[:, 4] = 0
        boxes2 = boxes1.clone()
        boxes2[:, 0] += boxes1[:, 2]
        boxes2[::2, 1] += boxes1[::2, 3]
    elif family == "nested":
        boxes2 = boxes1.clone()
        boxes2[:, 2:4] *= 0.05 + 0.3 * torch.rand(num, 2, generator=generator, dtype=torch.float64)
        boxes2[:, 4] += noise[:, 4] * 30
    elif family == "far":
        offset = 1e5 * (torch.rand(num, 2, generator=generator, dtype=torch.float64) - 0.5) * 2
        boxes1[:, :2] += offset
        boxes2[:, :2] += offset
    elif family == "thin":
        boxes1[:, 2], boxes1[:, 3] = boxes1[:, 2] * 20, boxes1[:, 2] / 50
        boxes2 = boxes1 + noise * boxes1.new_tensor([0.1, 0.1, 1, 0.01, 0.05])
        boxes2[:, 3] = boxes2[:, 3].abs()
    elif family == "sizes":
        boxes1[:, 2:4] = 10 ** (
            torch.rand(num, 2, generator=generator, dtype=torch.float64) * 8 - 3
        )
        scale = torch.exp(0.3 * noise[:, 2:4])
        boxes2 = torch.cat([boxes1[:, :2], boxes1[:, 2:4] * scale, boxes2[:, 4:]], dim=1)
        boxes2[:, :2] += noise[:, :2] * boxes1[:, 2:4].amin(dim=1, keepdim=True) * 0.3
    elif family == "seam":
        boxes1[:, 4] = torch.where(noise[:, 0] > 0, 90.0, -90.0) + noise[:, 1] * 1e-3
        boxes2 = boxes1 + noise * 0.05
        boxes2[:, 4] = -boxes1[:, 4]
    elif family == "zero_area":
        boxes2[:, 2] = torch.where(noise[:, 0] > 0, 0.0, -3.0)
        boxes2[:, :2] = boxes1[:, :2]
    return boxes1.to(dtype), boxes2.to(dtype)


FAMILIES = (
    "random",
    "near_identical",
    "identical",
    "other_representation",
    "shared_edge",
    "touching",
    "nested",
    "far",
    "thin",
    "sizes",
    "seam",
    "zero_area",
)
