"""Rotated ATSS head.

Letters: N images, K classes, R anchors of one image over all levels, M ground truths of one image,
Q positive anchors of the batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from tcm_d2.config.nodes import configurable_with_nodes
from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY
from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.dense.anchor_assigners import ATSSAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.dense.delta_coder import PUBLISHED_CODER, DeltaBoxCoder
from tcm_d2.modeling.dense.normalizers import mean_over_ranks
from tcm_d2.modeling.heads.anchor_based import (
    NUM_DELTAS,
    AnchorHead,
    count_positives,
)
from tcm_d2.modeling.heads.classifiers import LINEAR, ClassWords, classify, make_classifier
from tcm_d2.modeling.heads.contract import ForeignNames
from tcm_d2.modeling.heads.dense_head import common_arguments
from tcm_d2.modeling.heads.towers import (
    Scale,
    flatten_levels,
    make_predictor,
    make_tower,
)
from tcm_d2.modeling.losses.centerness import binary_cross_entropy_sum, centerness_targets
from tcm_d2.modeling.losses.contract import BoxLoss, box_loss_sum
from tcm_d2.structures.conversions import boxes_to_hboxes


class ATSSOutput(NamedTuple):
    """Raw outputs, one tensor per level.

    Attributes:
        class_logits: (N, K, H, W).
        deltas: (N, 5, H, W) of the box from the cell's anchor, as in ``DeltaBoxCoder``.
        centerness_logits: (N, 1, H, W).
    """

    class_logits: list[Tensor]
    deltas: list[Tensor]
    centerness_logits: list[Tensor]


@ROTATED_HEAD_REGISTRY.register()
class RotatedATSSHead(AnchorHead):
    """Predict for the one anchor of every cell its class, a turned box and its centre-ness.

    A quirk of the source (mmrotate's rotated ATSS head), besides those of `AnchorHead`: the
    centre-ness target is taken in the upright hull of the turned box, not along the box's own axes
    as in FCOS.
    """

    factor_names = ("centerness",)
    foreign_names = ForeignNames(
        title="ATSS",
        modules={
            "atss_cls": "class_predictor",
            "atss_reg": "delta_predictor",
            "atss_centerness": "centerness_predictor",
            "scales": "delta_scales",
        },
        layers_per_block=3,
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
        assigner: ATSSAssigner,
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
        if anchor_generator.num_anchors != 1:
            raise ValueError(
                f"anchor_generator: expected 1 anchor per cell, got {anchor_generator.num_anchors};"
                " set one scale per octave and one ratio"
            )
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

        self.class_tower = make_tower(in_channels, channels, num_convs=num_convs, norm=norm)
        self.box_tower = make_tower(in_channels, channels, num_convs=num_convs, norm=norm)
        self.class_predictor = make_classifier(
            classifier, channels, num_anchors=1, num_classes=num_classes, prior_prob=prior_prob
        )
        self.delta_predictor = make_predictor(channels, NUM_DELTAS, bias=0.0)
        self.centerness_predictor = make_predictor(channels, 1, bias=0.0)
        self.delta_scales = nn.ModuleList(Scale() for _ in anchor_generator.strides_px)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the constructor's arguments; see `RotatedHead`."""
        return {
            **common_arguments(cfg, input_shape, box_loss="RotatedIoULoss"),
            "classifier": cfg.MODEL.ROTATED_HEAD.CLASSIFIER,
            "anchor_generator": L(AnchorGenerator)(**AnchorGenerator.from_config(cfg)),
            "assigner": L(ATSSAssigner)(**ATSSAssigner.from_config(cfg)),
            "coder": L(DeltaBoxCoder)(**DeltaBoxCoder.from_config(cfg)),
        }

    def forward(self, features: list[Tensor], words: ClassWords | None = None) -> ATSSOutput:
        """Return the raw outputs of each level.

        Args:
            features: one (N, C, H, W) map per level, in the order of the strides.
            words: of the classes, where the classifier is "text".
        """
        output = ATSSOutput([], [], [])
        for feature, scale in zip(features, self.delta_scales, strict=True):
            box_feature = self.box_tower(feature)
            class_feature = self.class_tower(feature)
            output.class_logits.append(classify(self.class_predictor, class_feature, words))
            output.deltas.append(at_least_float32(scale(self.delta_predictor(box_feature))))
            output.centerness_logits.append(self.centerness_predictor(box_feature))
        return output

    def losses(
        self, output: ATSSOutput, gt_boxes: list[Tensor], gt_classes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_box`` and ``loss_centerness`` (scalars).

        Args:
            output: what ``forward`` returned.
            gt_boxes: (M, 5) boxes of each image, image pixels.
            gt_classes: (M,) int64 classes of each image.
        """
        grid = self.make_grid(output)
        positives = self.assigner.assign(grid, gt_boxes)
        location = positives.location_index
        anchors = grid.boxes[location % len(grid.boxes)]  # (Q, 5)
        target_boxes = torch.cat(gt_boxes)[positives.ground_truth_index]
        target_classes = torch.cat(gt_classes)[positives.ground_truth_index]
        target_centerness = centerness_targets(_upright_distances(anchors[:, :2], target_boxes))
        num_positives = count_positives(location, len(gt_boxes), len(grid.boxes))
        centerness_sum = mean_over_ranks(target_centerness.sum(), minimum=1)

        deltas = flatten_levels(output.deltas, NUM_DELTAS)[location]
        box_loss = box_loss_sum(
            self.box_loss,
            boxes=lambda: (self.coder.decode(anchors, deltas), target_boxes),
            deltas=lambda: (deltas, self.coder.encode(anchors, target_boxes)),
            pair_weights=target_centerness,
        )
        class_loss = self.class_loss(output, location, target_classes)
        centerness_logits = flatten_levels(output.centerness_logits, 1)[location, 0]
        centerness_loss = binary_cross_entropy_sum(
            at_least_float32(centerness_logits), target_centerness.to(deltas.dtype)
        )
        return {
            "loss_cls": class_loss / num_positives,
            "loss_box": box_loss / centerness_sum,
            "loss_centerness": centerness_loss / num_positives,
        }


def _upright_distances(points_xy: Tensor, boxes: Tensor) -> Tensor:
    """Return the distances (Q, 4) left, top, right, bottom to the sides of the upright hulls."""
    hulls = boxes_to_hboxes(boxes)
    return torch.cat([points_xy - hulls[:, :2], hulls[:, 2:] - points_xy], dim=1)
