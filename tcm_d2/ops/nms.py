"""Greedy non-maximum suppression of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops import _library  # noqa: F401  (declares torch.ops.tcm_d2)
from tcm_d2.ops._arguments import (
    check_boxes,
    check_floating,
    check_iou_threshold,
    check_same_device,
    check_vector,
)


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices that greedy NMS keeps, best score first.

    Going down the scores, a box is kept unless its IoU with a box kept before is strictly greater
    than the threshold (on every device). Equal scores go by index, and the result doesn't depend on
    the number of threads.

    Args:
        boxes: (N, 5) cx, cy, w, h, angle_deg, floating point.
        scores: (N,) floating point; a NaN ranks first, as in torch.sort.
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices into boxes. No gradients flow.

    Raises:
        TypeError: boxes or scores are not floating point tensors, the threshold is not a number.
        ValueError: wrong shapes, different devices, threshold outside [0, 1].
    """
    return _nms(boxes, scores, None, iou_threshold)


def batched_nms_rotated(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float
) -> Tensor:
    """Return the indices that greedy NMS keeps when only boxes of one label suppress each other.

    Labels are compared as such. Shifting the boxes of each class by an offset instead, as other
    toolboxes do, costs float32 precision on large images and lets boxes with negative centres
    suppress boxes of another class.

    Args:
        boxes: (N, 5) cx, cy, w, h, angle_deg, floating point.
        scores: (N,) floating point.
        labels: (N,) integers of any value: classes, or image * num_classes + class.
        iou_threshold: in [0, 1].

    Returns:
        (K,) int64 indices into boxes, best score first over all labels. No gradients flow.

    Raises:
        TypeError: boxes or scores are not floating point, labels not integer.
        ValueError: wrong shapes, different devices, threshold outside [0, 1].
    """
    return _nms(boxes, scores, labels, iou_threshold)


def _nms(boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float) -> Tensor:
    boxes = check_boxes("boxes", boxes)
    num_boxes = boxes.shape[0]
    check_vector("scores", scores, num_boxes=num_boxes)
    scores = check_floating("scores", scores)
    iou_threshold = check_iou_threshold(iou_threshold)
    if labels is None:
        check_same_device(boxes=boxes, scores=scores)
    else:
        check_vector("labels", labels, num_boxes=num_boxes)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels: expected an integer tensor, got {labels.dtype}")
        check_same_device(boxes=boxes, scores=scores, labels=labels)
        labels = labels.to(torch.int64)
    keep: Tensor = torch.ops.tcm_d2.nms_rotated(
        boxes.detach(), scores.detach(), labels, iou_threshold
    )
    return keep
