"""Rotated RetinaNet head.

Letters: N images, K classes, A anchors per cell, R anchors of one image over all levels, M ground
truths of one image, Q positive anchors of the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from torch import Tensor

from tcm_d2.config.nodes import configurable_with_nodes
from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY
from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.dense.anchor_assigners import MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.dense.delta_coder import PUBLISHED_CODER, DeltaBoxCoder
from tcm_d2.modeling.heads.anchor_based import (
    NUM_DELTAS,
    AnchorHead,
    count_positives,
)
from tcm_d2.modeling.heads.classifiers import LINEAR, ClassWords, classify, make_classifier
from tcm_d2.modeling.heads.contract import ForeignNames
from tcm_d2.modeling.heads.dense_head import common_arguments
from tcm_d2.modeling.heads.towers import (
    flatten_levels,
    make_predictor,
    make_tower,
)
from tcm_d2.modeling.losses.contract import BoxLoss, box_loss_sum


class RetinaNetOutput(NamedTuple):
    """Raw outputs, one tensor per level.

    Attributes:
        class_logits: (N, A * K, H, W), anchor by anchor.
        deltas: (N, A * 5, H, W) of the boxes from their anchors, as in ``DeltaBoxCoder``.
    """

    class_logits: list[Tensor]
    deltas: list[Tensor]


@ROTATED_HEAD_REGISTRY.register()
class RotatedRetinaNetHead(AnchorHead):
    """Predict for every anchor its class and a turned box.

    Unlike in the source (mmrotate's rotated RetinaNet head) the normaliser is the mean over ranks;
    with one process it is the same.
    """

    foreign_names = ForeignNames(
        title="RetinaNet",
        modules={"retina_cls": "class_predictor", "retina_reg": "delta_predictor"},
        layers_per_block=2,
    )

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
        focal_loss_gamma: float,
        focal_loss_alpha: float,
        box_loss: BoxLoss,
        score_threshold: float,
        topk_candidates: int,
        nms_threshold: float,
        max_detections: int,
        coder: DeltaBoxCoder = PUBLISHED_CODER,
        classifier: str = LINEAR,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.anchor_generator = anchor_generator
        self.assigner = assigner
        self.coder = coder
        self.focal_loss_gamma = focal_loss_gamma
        self.focal_loss_alpha = focal_loss_alpha
        self.box_loss = box_loss
        self.score_threshold = score_threshold
        self.topk_candidates = topk_candidates
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections

        num_anchors = anchor_generator.num_anchors
        self.class_tower = make_tower(in_channels, channels, num_convs=num_convs, norm=norm)
        self.box_tower = make_tower(in_channels, channels, num_convs=num_convs, norm=norm)
        self.class_predictor = make_classifier(
            classifier,
            channels,
            num_anchors=num_anchors,
            num_classes=num_classes,
            prior_prob=prior_prob,
        )
        self.delta_predictor = make_predictor(channels, num_anchors * NUM_DELTAS, bias=0.0)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the constructor's arguments; see `RotatedHead`."""
        return {
            **common_arguments(cfg, input_shape, box_loss="L1Loss"),
            "classifier": cfg.MODEL.ROTATED_HEAD.CLASSIFIER,
            "anchor_generator": L(AnchorGenerator)(**AnchorGenerator.from_config(cfg)),
            "assigner": L(MaxIoUAssigner)(**MaxIoUAssigner.from_config(cfg)),
            "coder": L(DeltaBoxCoder)(**DeltaBoxCoder.from_config(cfg)),
        }

    def forward(self, features: list[Tensor], words: ClassWords | None = None) -> RetinaNetOutput:
        """Return the raw outputs of each level.

        Args:
            features: one (N, C, H, W) map per level, in the order of the strides.
            words: of the classes, where the classifier is "text".
        """
        if len(features) != len(self.anchor_generator.strides_px):
            raise ValueError(
                f"features: expected {len(self.anchor_generator.strides_px)} levels, got "
                f"{len(features)}"
            )
        output = RetinaNetOutput([], [])
        for feature in features:
            class_feature = self.class_tower(feature)
            output.class_logits.append(classify(self.class_predictor, class_feature, words))
            output.deltas.append(self.delta_predictor(self.box_tower(feature)))
        return output

    def losses(
        self, output: RetinaNetOutput, gt_boxes: list[Tensor], gt_classes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box`` (scalars).

        Args:
            output: what ``forward`` returned.
            gt_boxes: (M, 5) boxes of each image, image pixels.
            gt_classes: (M,) int64 classes of each image.
        """
        grid = self.make_grid(output)
        assigned = self.assigner.assign(grid, gt_boxes)
        location = assigned.location_index
        anchors = grid.boxes[location % len(grid.boxes)]  # (Q, 5)
        target_boxes = torch.cat(gt_boxes)[assigned.ground_truth_index]
        target_classes = torch.cat(gt_classes)[assigned.ground_truth_index]
        num_positives = count_positives(location, len(gt_boxes), len(grid.boxes))

        deltas = at_least_float32(flatten_levels(output.deltas, NUM_DELTAS)[location])
        box_loss = box_loss_sum(
            self.box_loss,
            boxes=lambda: (self.coder.decode(anchors, deltas), target_boxes),
            deltas=lambda: (deltas, self.coder.encode(anchors, target_boxes)),
        )
        class_loss = self.class_loss(
            output, location, target_classes, ignored_index=assigned.ignored_index
        )
        return {
            "loss_cls": class_loss / num_positives,
            "loss_box": box_loss / num_positives,
        }
