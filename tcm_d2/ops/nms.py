"""Greedy non-maximum suppression of rotated boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tcm_d2.ops._arguments import (
    check_boxes,
    check_floating,
    check_iou_threshold,
    check_same_device,
    check_vector,
)
from tcm_d2.ops.registration import Operator, register
from tcm_d2.ops.rotated_geometry import (
    Rects,
    intersection_area,
    may_overlap,
    overlap,
    prepare_rects,
)


def nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Tensor:
    """Return the indices that greedy NMS keeps, best score first.

    Going down the scores, a box is kept unless its IoU with a box kept before is strictly greater
    than the threshold (on every device). Equal scores go by index, and the result doesn't depend on
    the number of threads.

    Args:
        boxes: (N, 5) cx, cy, w, h, angle_deg, floating point.
        scores: (N,) floating point; a NaN ranks first, as in torch.sort.
        iou_threshold: in [0, 1].
        score_threshold: only boxes with a strictly greater score (in the dtype of the scores) take
            part; a NaN doesn't. None: all boxes.
        max_detections: how many boxes are kept at most, the best ones; the rest is not even
            computed. None: no limit.

    Returns:
        (K,) int64 indices into boxes. No gradients flow.

    Raises:
        TypeError: boxes or scores are not floating point tensors, a threshold is not a number,
            max_detections not an integer.
        ValueError: wrong shapes, different devices, iou_threshold outside [0, 1], score_threshold
            NaN, max_detections negative.
    """
    return _nms(boxes, scores, None, None, iou_threshold, score_threshold, max_detections)


def batched_nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    *,
    image_ids: Tensor | None = None,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Tensor:
    """Return the indices that greedy NMS keeps when only boxes of one label suppress each other.

    Labels are compared as such. Shifting the boxes of each class by an offset instead, as other
    toolboxes do, costs float32 precision on large images and lets boxes with negative centres
    suppress boxes of another class.

    Args:
        boxes: (N, 5) cx, cy, w, h, angle_deg, floating point.
        scores: (N,) floating point.
        labels: (N,) integers of any value.
        iou_threshold: in [0, 1].
        image_ids: (N,) integers of any value, for the boxes of several images in one call: only
            boxes of one image suppress each other, and max_detections holds for each image. None:
            all boxes are of one image.
        score_threshold: as in nms_rotated.
        max_detections: how many boxes are kept at most, over all labels. None: no limit.

    Returns:
        (K,) int64 indices into boxes, best score first over all labels and images. No gradients
        flow.

    Raises:
        TypeError: boxes or scores are not floating point, labels or image_ids not integer, a
            threshold is not a number, max_detections not an integer.
        ValueError: as in nms_rotated.
    """
    if labels is None:
        raise TypeError("labels: expected a torch.Tensor, got NoneType; use nms_rotated without")
    return _nms(boxes, scores, labels, image_ids, iou_threshold, score_threshold, max_detections)


def _nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    image_ids: Tensor | None,
    iou_threshold: float,
    score_threshold: float | None,
    max_detections: int | None,
) -> Tensor:
    boxes = check_boxes("boxes", boxes)
    num_boxes = boxes.shape[0]
    check_vector("scores", scores, num_boxes=num_boxes)
    scores = check_floating("scores", scores)
    iou_threshold = check_iou_threshold(iou_threshold)
    _check_limits(score_threshold, max_detections)
    tensors = {"boxes": boxes, "scores": scores}
    groups = {"labels": labels, "image_ids": image_ids}
    for name, group in groups.items():
        if group is None:
            continue
        check_vector(name, group, num_boxes=num_boxes)
        if group.is_floating_point() or group.is_complex() or group.dtype == torch.bool:
            raise TypeError(f"{name}: expected an integer tensor, got {group.dtype}")
        tensors[name] = group
        groups[name] = group.to(torch.int64)
    check_same_device(**tensors)
    keep: Tensor = torch.ops.tcm_d2.nms_rotated(
        boxes.detach(),
        scores.detach(),
        groups["labels"],
        iou_threshold,
        groups["image_ids"],
        score_threshold,
        max_detections,
    )
    return keep


def _check_limits(score_threshold: float | None, max_detections: int | None) -> None:
    if score_threshold is not None:
        if isinstance(score_threshold, bool) or not isinstance(score_threshold, (int, float)):
            kind = type(score_threshold).__name__
            raise TypeError(f"score_threshold: expected a number or None, got {kind}")
        if math.isnan(score_threshold):
            raise ValueError("score_threshold: expected a number, got NaN; None keeps all scores")
    if max_detections is not None:
        if isinstance(max_detections, bool) or not isinstance(max_detections, int):
            kind = type(max_detections).__name__
            raise TypeError(f"max_detections: expected an integer or None, got {kind}")
        if max_detections < 0:
            raise ValueError(
                f"max_detections: expected at least 0, got {max_detections}; None sets no limit"
            )


def _reference(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    image_ids: Tensor | None = None,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Tensor:
    """Return the (K,) int64 kept indices, best score first, in plain torch."""
    order = torch.argsort(scores, descending=True, stable=True)
    if score_threshold is not None:
        order = order[scores[order] > score_threshold]
    rects = prepare_rects(boxes).take(order)
    groups = [values[order] for values in (labels, image_ids) if values is not None]
    alive = torch.ones_like(order, dtype=torch.bool)
    for i in range(order.numel()):
        if not alive[i]:
            continue
        best = Rects(*(field[i : i + 1] for field in rects))
        rivals = alive & may_overlap(best, rects)
        rivals[: i + 1] = False
        for group in groups:
            rivals &= group == group[i]
        index = torch.nonzero(rivals).squeeze(1)
        others = rects.take(index)
        best = Rects(*(field.expand(index.numel()) for field in best))
        iou = overlap(best, others, intersection_area(best, others), iof=False)
        alive[index[iou > iou_threshold]] = False
    keep = order[alive]
    if max_detections is None:
        return keep
    if image_ids is None:
        return keep[:max_detections]
    # Side by side for each image, in order; the rank is the distance to the image's first.
    images, index = torch.sort(image_ids[keep], stable=True)
    rank = torch.arange(len(keep), device=keep.device) - torch.searchsorted(images, images)
    is_first = torch.empty_like(rank, dtype=torch.bool)
    is_first[index] = rank < max_detections
    return keep[is_first]


def _fake(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    image_ids: Tensor | None = None,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Tensor:
    num_kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((num_kept,), dtype=torch.int64)


register(
    Operator(
        name="nms_rotated",
        schema=(
            "(Tensor boxes, Tensor scores, Tensor? labels, float iou_threshold,"
            " Tensor? image_ids=None, float? score_threshold=None, int? max_detections=None)"
            " -> Tensor"
        ),
        kernels="boxes/nms",
        reference=_reference,
        fake=_fake,
    )
)
