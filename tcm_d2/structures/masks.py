"""Rotated boxes -> one mask per class: the target of the auxiliary loss."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from tcm_d2.structures.conversions import boxes_to_quads


def boxes_to_class_masks(
    boxes: Tensor,
    classes: Tensor,
    *,
    num_classes: int,
    image_size_hw: tuple[int, int],
    stride_px: int,
) -> Tensor:
    """Return, per class, the union of its filled boxes at 1 / stride_px of the image's resolution.

    COCO's polygon rasterisation, as the reference uses it, with K = num_classes and M boxes. Boxes
    may reach beyond the image.

    Args:
        boxes: (M, 5) float boxes in image pixels.
        classes: (M,) integers in [0, K).
        image_size_hw: height and width of the image in pixels.

    Returns:
        (K, H // stride_px, W // stride_px) bool, on the CPU.

    Raises:
        ValueError: when boxes and classes differ in number, or a class is outside [0, K).
    """
    height, width = (side // stride_px for side in image_size_hw)
    masks = np.zeros((num_classes, height, width), dtype=bool)
    labels = classes.detach().cpu().numpy()
    if labels.shape != (len(boxes),):
        raise ValueError(
            f"classes: expected shape ({len(boxes)},) as there are boxes, got {labels.shape}"
        )
    if not len(boxes) or not masks.size:
        return torch.from_numpy(masks)
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"classes: expected integers in [0, {num_classes}), got {labels.min()}..{labels.max()}"
        )
    scaled = boxes.detach().cpu().float().clone()
    scaled[:, :4] /= stride_px
    polygons = boxes_to_quads(scaled).reshape(-1, 8).double().numpy()  # (M, 8)
    present = np.unique(labels)
    unions = []
    for label in present:
        members = polygons[labels == label].tolist()
        unions.append(coco_mask.merge(coco_mask.frPyObjects(members, height, width)))
    # COCO's arrays go down the columns; OpenCV turns them faster than NumPy's strided copy.
    by_column = coco_mask.decode(unions).T  # (present classes, W, H)
    for label, columns in zip(present, by_column):
        masks[label] = cv2.transpose(columns).view(bool)
    return torch.from_numpy(masks)
