"""Test-time augmentation: a detector looks at mirrored, turned and resized views of an image.

Each view's boxes are taken back exactly (mirroring and quarter turns move pixels, they resample
nothing) and merged per class with rotated NMS.

Letters: V views, M detections of all views, K kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.structures import Instances, RotatedBoxes
from torch import Tensor, nn

from tcm_d2.config.run import Views
from tcm_d2.modeling.dense.decode import rescale
from tcm_d2.ops import batched_nms_rotated, box_iou_rotated
from tcm_d2.structures.angles import canonicalize_boxes

TTAMerge = Literal["mean", "max"]
TTA_MERGES: tuple[str, ...] = ("mean", "max")
# Detections that overlap a kept one by more than this are further views of the same object.
_SAME_OBJECT_IOU = 0.5
# Rows of an IoU matrix computed at a time.
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class TTAConfig:
    """Which views are taken, and how they are merged (TEST.TTA).

    Attributes:
        flip: also mirror each view.
        quarter_turns: counter-clockwise turns by 90 degrees, from 0 to 3.
        scales: factors on the image's sides.
        nms_threshold: IoU above which a box is dropped.
        merge: "max" keeps the best view's box and score. "mean" averages boxes over the views
            that agree, and scores over all views, so that a view without the object counts 0.
    """

    flip: bool
    quarter_turns: Sequence[int]
    scales: Sequence[float]
    nms_threshold: float
    merge: TTAMerge

    def __post_init__(self) -> None:
        """Raise ValueError for values that do not fit."""
        turns = list(self.quarter_turns)
        if not turns or any(turn not in (0, 1, 2, 3) for turn in turns):
            raise ValueError(f"TEST.TTA.QUARTER_TURNS: expected numbers of 0, 1, 2, 3, got {turns}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"TEST.TTA.SCALES: expected positive factors, got {list(self.scales)}")
        if self.merge not in TTA_MERGES:
            raise ValueError(f"TEST.TTA.MERGE: expected one of {TTA_MERGES}, got {self.merge!r}")
        if not 0 <= self.nms_threshold <= 1:
            raise ValueError(f"TEST.TTA.NMS_THRESH: expected 0..1, got {self.nms_threshold}")

    @property
    def views(self) -> list[View]:
        """All combinations; the first one is the image itself where the choices have it."""
        return [
            View(bool(flipped), turns, float(scale))
            for scale in sorted(set(self.scales), key=lambda factor: abs(factor - 1))
            for turns in sorted(set(self.quarter_turns))
            for flipped in range(1 + self.flip)
        ]


class View(NamedTuple):
    """First mirrored (left to right), then turned counter-clockwise, then resized."""

    is_mirrored: bool
    quarter_turns: int
    scale: float


def view_image(image: Tensor, view: View) -> Tensor:
    """Return a view of an image (C, H, W); values are resampled by the scale only."""
    if view.is_mirrored:
        image = image.flip(-1)
    image = torch.rot90(image, view.quarter_turns, dims=(-2, -1))
    if view.scale == 1:
        return image
    size_hw = [max(1, round(side * view.scale)) for side in image.shape[-2:]]
    resized = F.interpolate(
        image[None].float(), size=size_hw, mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0]


def boxes_from_view(boxes: Tensor, view: View, image_size_hw: tuple[int, int]) -> Tensor:
    """Return boxes (M, 5) of a view, apart from its scale, in the frame of the image.

    Args:
        boxes: cx, cy, w, h, angle_deg in pixels of the view before it was resized.
        view: how the view was made.
        image_size_hw: of the image.

    Returns:
        (M, 5) canonical boxes.
    """
    height, width = image_size_hw
    x, y, w, h, angle_deg = boxes.unbind(dim=1)
    # Undo the turns: a quarter counter-clockwise had moved (x, y) to (y, width - x).
    if view.quarter_turns == 1:
        x, y = width - y, x
    elif view.quarter_turns == 2:
        x, y = width - x, height - y
    elif view.quarter_turns == 3:
        x, y = y, height - x
    angle_deg = angle_deg - 90 * view.quarter_turns
    if view.is_mirrored:
        x, angle_deg = width - x, -angle_deg
    return canonicalize_boxes(torch.stack([x, y, w, h, angle_deg], dim=1))


def read_views(views: Views) -> TTAConfig:
    """Return the views of a configuration, enabled or not.

    Raises:
        ValueError: values that do not fit.
    """
    values = dataclasses.asdict(views)
    del values["enabled"]
    return TTAConfig(**values)


class RotatedTTA(nn.Module):
    """A detector that answers with the merged detections of several views; evaluation only."""

    def __init__(self, model: nn.Module, config: TTAConfig) -> None:
        """Args:
        model: batch of dicts -> list of ``{"instances": Instances}``, as
            `RotatedOneStageDetector` in evaluation.
        config: the views.
        """
        super().__init__()
        self.model = model
        self.config = config

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Return the merged detections of each image, see the model's own ``forward``.

        Raises:
            ValueError: the model is in training mode.
        """
        if self.training or self.model.training:
            raise ValueError("test-time augmentation: the model is in training mode; call eval()")
        found: list[list[Instances]] = [[] for _ in batched_inputs]
        for view in self.config.views:
            views = [view_input(inputs, view) for inputs in batched_inputs]
            for index, output in enumerate(self.model(views)):
                found[index].append(from_view(output["instances"], view, batched_inputs[index]))
        return [
            {"instances": rescale(merge_views(parts, self.config), inputs)}
            for parts, inputs in zip(found, batched_inputs, strict=True)
        ]


def merge_views(parts: Sequence[Instances], config: TTAConfig) -> Instances:
    """Return the detections of all views of one image as one set, by descending score.

    Args:
        parts: one per view, all in the frame of the image.
        config: see `TTAConfig`.
    """
    boxes = torch.cat([part.pred_boxes.tensor for part in parts])
    scores = torch.cat([part.scores for part in parts])
    classes = torch.cat([part.pred_classes for part in parts])
    keep = batched_nms_rotated(boxes, scores, classes, config.nms_threshold)
    kept_boxes, kept_scores, kept_classes = boxes[keep], scores[keep], classes[keep]
    if config.merge == "mean" and len(keep):
        view_index = torch.cat(
            [part.pred_classes.new_full((len(part),), i) for i, part in enumerate(parts)]
        )
        kept_boxes, kept_scores = _average(
            boxes, scores, classes, view_index, keep, num_views=len(parts)
        )
        order = kept_scores.sort(descending=True, stable=True).indices
        kept_boxes, kept_scores = kept_boxes[order], kept_scores[order]
        kept_classes = kept_classes[order]
    merged = Instances(parts[0].image_size)
    merged.pred_boxes = RotatedBoxes(kept_boxes)
    merged.scores, merged.pred_classes = kept_scores, kept_classes
    return merged


def _average(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    view_index: Tensor,
    keep: Tensor,
    *,
    num_views: int,
) -> tuple[Tensor, Tensor]:
    """Return boxes (K, 5) and scores (K,) averaged over the views that found the same object."""
    owner = torch.full_like(classes, -1)  # (M,) row of ``keep``
    for start in range(0, len(boxes), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        iou = box_iou_rotated(boxes[rows], boxes[keep])  # (m, K)
        iou[classes[rows, None] != classes[keep][None, :]] = 0.0
        best, index = iou.max(dim=1)
        owner[rows] = torch.where(best > _SAME_OBJECT_IOU, index, -1)
    owner[keep] = torch.arange(len(keep), device=keep.device)
    members = (owner >= 0).nonzero(as_tuple=True)[0]
    owner = owner[members]
    # One vote per view: its best score for the object.
    votes = scores.new_zeros(len(keep), num_views)
    slot = owner * num_views + view_index[members]
    votes.view(-1).scatter_reduce_(0, slot, scores[members], "amax")
    lead, other = boxes[keep][owner], boxes[members]
    shift = _difference(other, lead)
    weight = scores[members, None]
    total = torch.zeros_like(boxes[keep]).index_add_(0, owner, weight * shift)
    weights = torch.zeros_like(scores[keep]).index_add_(0, owner, weight[:, 0])
    averaged = boxes[keep] + total / weights[:, None]
    return canonicalize_boxes(averaged), votes.mean(dim=1)


def _difference(boxes: Tensor, leads: Tensor) -> Tensor:
    """Return boxes - leads (M, 5), each box written with the angle nearest to its lead's."""
    turn = boxes[:, 4] - leads[:, 4]
    num_quarters = torch.round(turn / 90)
    is_swapped = num_quarters.remainder(2) == 1
    w = torch.where(is_swapped, boxes[:, 3], boxes[:, 2])
    h = torch.where(is_swapped, boxes[:, 2], boxes[:, 3])
    return torch.stack(
        [
            boxes[:, 0] - leads[:, 0],
            boxes[:, 1] - leads[:, 1],
            w - leads[:, 2],
            h - leads[:, 3],
            turn - 90 * num_quarters,
        ],
        dim=1,
    )


def view_input(inputs: dict[str, Any], view: View) -> dict[str, Any]:
    """Return the model's input for a view, which asks for boxes in the view before resizing."""
    height, width = inputs["image"].shape[-2:]
    if view.quarter_turns % 2:
        height, width = width, height
    return {"image": view_image(inputs["image"], view), "height": height, "width": width}


def from_view(instances: Instances, view: View, inputs: dict[str, Any]) -> Instances:
    """Return what the model found in a view, in the frame of the image."""
    height, width = inputs["image"].shape[-2:]
    boxes = boxes_from_view(instances.pred_boxes.tensor, view, (height, width))
    moved = Instances((height, width))
    moved.pred_boxes = RotatedBoxes(boxes)
    moved.scores, moved.pred_classes = instances.scores, instances.pred_classes
    return moved
