"""From dense outputs to detections: candidates, rotated NMS, Instances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from detectron2.structures import Instances, RotatedBoxes
from torch import Tensor

from tcm_d2.layers.precision import at_least_float32
from tcm_d2.ops import batched_nms_rotated


class Candidates(NamedTuple):
    """The best (location, class) pairs of one level of one image, by descending score.

    Attributes:
        scores: (Q,) class scores in (0, 1).
        location_index: (Q,) int64 location within the level.
        classes: (Q,) int64 class.
    """

    scores: Tensor
    location_index: Tensor
    classes: Tensor


def select_candidates(logits: Tensor, *, score_threshold: float, topk: int) -> Candidates:
    """Return at most ``topk`` (location, class) pairs with a score above ``score_threshold``.

    The threshold is applied to the logits, so that only candidates pay for the sigmoid.

    Args:
        logits: (P, K) class logits of one level of one image.
        score_threshold: in [0, 1).
        topk: upper limit.
    """
    flat = at_least_float32(logits).flatten()
    if score_threshold > 0:
        kept = (flat > math.log(score_threshold / (1 - score_threshold))).nonzero(as_tuple=True)[0]
    else:
        kept = torch.arange(len(flat), device=flat.device)
    values, order = flat[kept].sort(descending=True, stable=True)
    index = kept[order[:topk]]
    num_classes = logits.shape[1]
    return Candidates(values[:topk].sigmoid(), index // num_classes, index % num_classes)


def make_instances(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    image_size_hw: tuple[int, int],
    nms_threshold: float,
    max_detections: int,
) -> Instances:
    """Return the boxes that survive rotated NMS per class, by descending score.

    Nothing is clipped at the image border.

    Args:
        boxes: (R, 5) candidates, image pixels.
        scores: (R,) final scores.
        classes: (R,) int64 classes.
        image_size_hw: size of the image the boxes live in.
        nms_threshold: a box is dropped when its IoU with a better box of its class is greater.
        max_detections: upper limit, applied after NMS.

    Returns:
        Instances with ``pred_boxes`` (RotatedBoxes), ``scores`` and ``pred_classes``.
    """
    keep = batched_nms_rotated(boxes, scores, classes, nms_threshold)[:max_detections]
    instances = Instances(image_size_hw)
    instances.pred_boxes = RotatedBoxes(boxes[keep])
    instances.scores = scores[keep]
    instances.pred_classes = classes[keep]
    return instances


def detect(
    candidates: Callable[[int], tuple[Tensor, Tensor, Tensor]],
    image_sizes_hw: list[tuple[int, int]],
    *,
    nms_threshold: float,
    max_detections: int,
) -> list[Instances]:
    """Return the detections of each image of a batch.

    Args:
        candidates: image index -> boxes (R, 5), scores (R,) and classes (R,) before NMS.
        image_sizes_hw: size of each image; the frame of its boxes.
        nms_threshold: see ``make_instances``.
        max_detections: per image.
    """
    return [
        make_instances(
            *candidates(image),
            image_size_hw=size_hw,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
        )
        for image, size_hw in enumerate(image_sizes_hw)
    ]


def rescale(instances: Instances, inputs: dict[str, Any]) -> Instances:
    """Return ``instances`` in the frame of the original image, without clipping.

    Args:
        instances: detections in the network's input frame.
        inputs: the input dict; ``height`` and ``width`` default to the network's input size.
    """
    height, width = instances.image_size
    target_hw = (int(inputs.get("height", height)), int(inputs.get("width", width)))
    if target_hw == (height, width):
        return instances
    scaled = Instances(target_hw, **instances.get_fields())
    scaled.pred_boxes = instances.pred_boxes.clone()
    scaled.pred_boxes.scale(target_hw[1] / width, target_hw[0] / height)
    return scaled
