"""What heads of two stages share: a first stage makes one box per cell, a second refines it.

Letters: N images, K classes, A anchors per cell of the first stage, R cells of one image over all
levels, M ground truths of one image, Q some of the cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from tcm_d2.config.nodes import configurable_with_nodes
from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.dense.anchor_assigners import AnchorAssignment, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator, AnchorGrid
from tcm_d2.modeling.dense.delta_coder import DeltaBoxCoder
from tcm_d2.modeling.heads.anchor_based import NUM_DELTAS, AnchorHead, count_positives
from tcm_d2.modeling.heads.classifiers import LINEAR, ClassWords, classify, make_classifier
from tcm_d2.modeling.heads.dense_head import common_arguments
from tcm_d2.modeling.heads.retinanet import RetinaNetOutput
from tcm_d2.modeling.heads.towers import flatten_levels, make_predictor, make_tower, rows
from tcm_d2.modeling.losses.contract import BoxLoss, box_loss_sum


class RefinedOutput(NamedTuple):
    """Raw outputs; the first two, of the second stage, one tensor per level.

    Attributes:
        class_logits: (N, K, H, W).
        deltas: (N, 5, H, W) of the boxes from ``anchors``, as in ``DeltaBoxCoder``.
        first: class logits and deltas of the first stage, from the generator's anchors.
        anchors: (N, H * W, 5) of each level: boxes of the first stage, without gradients, sides as
            they were named.
    """

    class_logits: list[Tensor]
    deltas: list[Tensor]
    first: RetinaNetOutput
    anchors: list[Tensor]


class FirstStage(nn.Module):
    """RetinaNet without norms in its towers."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        num_anchors: int,
        num_convs: int,
        make_class_predictor: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        self.class_tower = make_tower(in_channels, channels, num_convs=num_convs, norm="")
        self.box_tower = make_tower(in_channels, channels, num_convs=num_convs, norm="")
        self.class_predictor = make_class_predictor(num_anchors=num_anchors)
        self.delta_predictor = make_predictor(channels, num_anchors * NUM_DELTAS, bias=0.0)

    def forward(self, features: list[Tensor], words: ClassWords | None) -> RetinaNetOutput:
        """Return the raw outputs of each level."""
        return RetinaNetOutput(
            [classify(self.class_predictor, self.class_tower(x), words) for x in features],
            [self.delta_predictor(self.box_tower(x)) for x in features],
        )


class RefinedHead(AnchorHead):
    """A head whose second stage refines, at every cell, the best box of a first one.

    Subclasses say in ``align`` what the towers of the second stage see, and make these, and what
    else they need, in ``make_second_stage``.
    """

    class_tower: nn.Module
    box_tower: nn.Module

    @configurable_with_nodes
    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        num_classes: int,
        num_convs: int,
        norm: str,
        prior_prob: float,
        anchor_generator: AnchorGenerator,
        assigner: MaxIoUAssigner,
        second_assigner: MaxIoUAssigner,
        coder: DeltaBoxCoder,
        focal_loss_gamma: float,
        focal_loss_alpha: float,
        box_loss: BoxLoss,
        score_threshold: float,
        topk_candidates: int,
        nms_threshold: float,
        max_detections: int,
        classifier: str = LINEAR,
    ) -> None:
        super().__init__()
        if norm or num_convs < 1:
            raise ValueError(
                f"norm and num_convs: expected '' and at least 1, got {norm!r} and {num_convs}"
            )
        self.num_classes = num_classes
        self.anchor_generator = anchor_generator
        self.assigner = assigner
        self.second_assigner = second_assigner
        self.coder = coder
        self.focal_loss_gamma = focal_loss_gamma
        self.focal_loss_alpha = focal_loss_alpha
        self.box_loss = box_loss
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        make_class_predictor = partial(
            make_classifier, classifier, channels, num_classes=num_classes, prior_prob=prior_prob
        )
        self.first = FirstStage(
            in_channels,
            channels,
            num_anchors=anchor_generator.num_anchors,
            num_convs=num_convs,
            make_class_predictor=make_class_predictor,
        )
        self.class_predictor = make_class_predictor(num_anchors=1)
        self.delta_predictor = make_predictor(channels, NUM_DELTAS, bias=0.0)
        self.make_second_stage(in_channels, channels, num_convs)

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the keys of the second stage."""
        # Of the boxes of the first stage, as POSITIVE_IOU_THRESH and NEGATIVE_IOU_THRESH.
        cfg.MODEL.ROTATED_HEAD.SECOND_POSITIVE_IOU_THRESH = 0.5
        cfg.MODEL.ROTATED_HEAD.SECOND_NEGATIVE_IOU_THRESH = 0.4

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the constructor's arguments; see `RotatedHead`."""
        head, assigner = cfg.MODEL.ROTATED_HEAD, MaxIoUAssigner.from_config(cfg)
        second = {
            **assigner,
            "positive_iou": head.SECOND_POSITIVE_IOU_THRESH,
            "negative_iou": head.SECOND_NEGATIVE_IOU_THRESH,
        }
        return {
            **common_arguments(cfg, input_shape, box_loss="SmoothL1Loss"),
            "classifier": head.CLASSIFIER,
            "anchor_generator": L(AnchorGenerator)(**AnchorGenerator.from_config(cfg)),
            "assigner": L(MaxIoUAssigner)(**assigner),
            "second_assigner": L(MaxIoUAssigner)(**second),
            "coder": L(DeltaBoxCoder)(**DeltaBoxCoder.from_config(cfg)),
        }

    def make_second_stage(self, in_channels: int, channels: int, num_convs: int) -> None:
        """Make ``class_tower``, ``box_tower`` and what ``align`` needs.

        Args:
            in_channels: of the pyramid.
            channels: of the towers.
            num_convs: of each tower.
        """
        raise NotImplementedError

    @property
    def anchors_per_cell(self) -> int:
        """One: the box of the first stage."""
        return 1

    def align(self, feature: Tensor, boxes: Tensor, stride_px: int) -> tuple[Tensor, Tensor]:
        """Return what the class tower and the box tower see of one level.

        Args:
            feature: (N, C, H, W).
            boxes: (N, H * W, 5) of the first stage, image pixels.
            stride_px: of the level.
        """
        raise NotImplementedError

    def forward(self, features: list[Tensor], words: ClassWords | None = None) -> RefinedOutput:
        """Return the raw outputs of both stages.

        Args:
            features: one (N, C, H, W) map per level, in the order of the strides.
            words: of the classes, where the classifier is "text".
        """
        first = self.first(features, words)
        grid = self.make_grid(first)
        levels = zip(
            features,
            grid.boxes.split(grid.level_num_anchors),
            *first,
            self.strides_px,
            strict=True,
        )
        output = RefinedOutput([], [], first, [])
        for feature, anchors, logits, deltas, stride_px in levels:
            boxes = self._best_boxes(anchors, logits, deltas).detach()
            for_classes, for_boxes = self.align(feature, boxes, stride_px)
            for_classes = self.class_tower(for_classes)
            output.class_logits.append(classify(self.class_predictor, for_classes, words))
            output.deltas.append(self.delta_predictor(self.box_tower(for_boxes)))
            output.anchors.append(boxes)
        return output

    def _best_boxes(self, anchors: Tensor, logits: Tensor, deltas: Tensor) -> Tensor:
        """Return the box (N, H * W, 5) of each cell of a level with the highest class score.

        Args:
            anchors: (H * W * A, 5) of the level.
            logits: (N, A * K, H, W) of the first stage.
            deltas: (N, A * 5, H, W).
        """
        num_anchors = self.anchor_generator.num_anchors
        chosen = rows(deltas, NUM_DELTAS)  # (N, H * W * A, 5)
        anchors = anchors.expand(chosen.shape[0], -1, -1)
        if num_anchors > 1:
            scores = rows(logits, self.num_classes).amax(dim=2).unflatten(1, (-1, num_anchors))
            index = scores.argmax(dim=2)[..., None, None].expand(-1, -1, 1, NUM_DELTAS)
            of_cells = (x.unflatten(1, (-1, num_anchors)) for x in (chosen, anchors))
            chosen, anchors = (x.gather(2, index).squeeze(2) for x in of_cells)
        return self._decode(anchors, chosen)

    def _decode(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """Return the boxes (N, R, 5), sides named as the coder does."""
        boxes = self.coder.decode(
            anchors.flatten(0, 1),
            at_least_float32(deltas).flatten(0, 1),
            is_canonical=self.coder.swap_sides,
        )
        return boxes.unflatten(0, deltas.shape[:2])

    def decode_at(
        self,
        output: RefinedOutput,
        grid: AnchorGrid,
        image: int,
        level: int,
        index: Tensor,
        image_size_hw: tuple[int, int],
    ) -> Tensor:
        """Return the boxes (Q, 5) of one image at some cells of a level, centres in the image."""
        deltas = rows(output.deltas[level][image, None], NUM_DELTAS)[0, index]
        return self.coder.decode(
            output.anchors[level][image, index],
            at_least_float32(deltas),
            image_size_hw=image_size_hw,
        )

    def decode_all(self, output: RefinedOutput, grid: AnchorGrid) -> Tensor:
        """Return the boxes (N, R, 5) of all cells, centres where they are predicted."""
        deltas = torch.cat([rows(level, NUM_DELTAS) for level in output.deltas], dim=1)
        return self._decode(torch.cat(output.anchors, dim=1), deltas)

    def losses(
        self, output: RefinedOutput, gt_boxes: list[Tensor], gt_classes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box`` of both stages (scalars), ``_first`` of the first.

        Args:
            output: what ``forward`` returned.
            gt_boxes: (M, 5) boxes of each image, image pixels.
            gt_classes: (M,) int64 classes of each image.
        """
        grid = self.make_grid(output.first)
        first = self.assigner.assign(grid, gt_boxes)
        anchors = torch.cat(output.anchors, dim=1)
        second = self.second_assigner.assign_boxes(anchors, gt_boxes)
        upright = grid.boxes.expand(len(gt_boxes), -1, -1)
        losses = self._stage_losses(output.first, upright, first, gt_boxes, gt_classes)
        refined = self._stage_losses(output, anchors, second, gt_boxes, gt_classes)
        return {**{f"{name}_first": value for name, value in losses.items()}, **refined}

    def _stage_losses(
        self,
        output: RefinedOutput | RetinaNetOutput,
        anchors: Tensor,
        assigned: AnchorAssignment,
        gt_boxes: list[Tensor],
        gt_classes: list[Tensor],
    ) -> dict[str, Tensor]:
        location = assigned.location_index
        positives = anchors.flatten(0, 1)[location]  # (Q, 5)
        targets = torch.cat(gt_boxes)[assigned.ground_truth_index]
        classes = torch.cat(gt_classes)[assigned.ground_truth_index]
        deltas = at_least_float32(flatten_levels(output.deltas, NUM_DELTAS)[location])
        box_loss = box_loss_sum(
            self.box_loss,
            boxes=lambda: (self.coder.decode(positives, deltas), targets),
            deltas=lambda: (deltas, self.coder.encode(positives, targets)),
        )
        class_loss = self.class_loss(
            output, location, classes, ignored_index=assigned.ignored_index
        )
        num_positives = count_positives(location, len(gt_boxes), anchors.shape[1])
        return {"loss_cls": class_loss / num_positives, "loss_box": box_loss / num_positives}
