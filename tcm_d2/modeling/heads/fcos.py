"""Rotated FCOS head.

Letters: N images, K classes, L levels, P locations of one image over all levels, M ground truths
of one image, Q positive locations of the batch.
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
from tcm_d2.modeling.dense.anchors import PointGrid, make_point_grid
from tcm_d2.modeling.dense.delta_coder import MAX_SIDE_RATIO, DeltaBoxCoder
from tcm_d2.modeling.dense.normalizers import mean_over_ranks
from tcm_d2.modeling.dense.point_assigner import FCOSAssigner
from tcm_d2.modeling.dense.point_coder import DistanceAnglePointCoder
from tcm_d2.modeling.heads.classifiers import LINEAR, ClassWords, classify, make_classifier
from tcm_d2.modeling.heads.contract import ForeignNames
from tcm_d2.modeling.heads.dense_head import DenseHead, common_arguments
from tcm_d2.modeling.heads.towers import (
    Scale,
    flatten_levels,
    make_predictor,
    make_tower,
    rows,
)
from tcm_d2.modeling.losses.centerness import binary_cross_entropy_sum, centerness_targets
from tcm_d2.modeling.losses.contract import BoxLoss, box_loss_sum


class FCOSOutput(NamedTuple):
    """Raw outputs, one tensor per level.

    Attributes:
        class_logits: (N, K, H, W).
        distances: (N, 4, H, W) left, top, right, bottom in strides, not negative.
        angle_rad: (N, 1, H, W) clockwise radians, unbounded.
        centerness_logits: (N, 1, H, W).
    """

    class_logits: list[Tensor]
    distances: list[Tensor]
    angle_rad: list[Tensor]
    centerness_logits: list[Tensor]


class _Locations(NamedTuple):
    """The locations whose boxes are looked at: the positive ones, or all.

    Picking the positive ones means waiting for their number. On CUDA that stops the queue of
    kernels, and all locations cost less; on the CPU the number is there anyway.

    Attributes:
        index: (Q,) int64 image * P + location.
        owners: (Q,) int64 ground truth of each, any for the background.
        is_positive: (Q,) bool.
    """

    index: Tensor
    owners: Tensor
    is_positive: Tensor

    @classmethod
    def of(cls, owners: Tensor, num_ground_truths: int) -> _Locations:
        """Return the locations for what `FCOSAssigner.owners` returned."""
        is_positive = owners >= 0
        if num_ground_truths == 0:
            return cls(*(values[:0] for values in (owners, owners, is_positive)))
        if waits_for_counts(owners):
            index = is_positive.nonzero(as_tuple=True)[0]
            return cls(index, owners[index], is_positive[index])
        every = torch.arange(len(owners), device=owners.device)
        return cls(every, owners.clamp(min=0), is_positive)

    def fill_background(self, boxes: Tensor) -> Tensor:
        """Return ``boxes`` (Q, 5) with the unit box at the origin where there is no object."""
        return torch.where(self.is_positive[:, None], boxes, _unit_box(boxes))


def waits_for_counts(values: Tensor) -> bool:
    """Return whether the number of some ``values`` is known at once: not where it is on a GPU."""
    return values.device.type != "cuda"


@ROTATED_HEAD_REGISTRY.register()
class RotatedFCOSHead(DenseHead):
    """Predict at every cell the class, the turned box around it and its centre-ness.

    Differences from the source (mmrotate's rotated FCOS head), none of which changes a published
    number beyond rounding: distances stay in strides also in eval mode, and the IoU loss is taken
    in a frame centred on each location (the reference decodes stride units around pixel
    coordinates, which costs digits in float32).
    """

    anchors_per_cell = None
    factor_names = ("centerness",)
    clamps_centers = False
    foreign_names = ForeignNames(
        title="FCOS",
        modules={
            "conv_cls": "class_predictor",
            "conv_reg": "distance_predictor",
            "conv_angle": "angle_predictor",
            "conv_centerness": "centerness_predictor",
            "scale_angle": "angle_scale",
            "scales": "distance_scales",
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
        strides_px: list[int],
        prior_prob: float,
        distance_bias_init: float,
        assigner: FCOSAssigner,
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
        self.num_classes = num_classes
        self.strides_px = list(strides_px)
        self.assigner = assigner
        self.coder = DistanceAnglePointCoder()
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
        self.distance_predictor = make_predictor(channels, 4, bias=distance_bias_init)
        self.angle_predictor = make_predictor(channels, 1, bias=0.0)
        self.centerness_predictor = make_predictor(channels, 1, bias=0.0)
        self.distance_scales = nn.ModuleList(Scale() for _ in self.strides_px)
        self.angle_scale = Scale()

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add the head's own keys."""
        # Initial side distance in strides. 0 as published: half of the distances then start below
        # zero, where they get no gradient; a positive value learns sooner from random weights.
        cfg.MODEL.ROTATED_HEAD.DISTANCE_BIAS_INIT = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the constructor's arguments; see `RotatedHead`."""
        head = cfg.MODEL.ROTATED_HEAD
        return {
            **common_arguments(cfg, input_shape, box_loss="RotatedIoULoss"),
            "classifier": head.CLASSIFIER,
            "strides_px": head.STRIDES_PX,
            "distance_bias_init": head.DISTANCE_BIAS_INIT,
            "assigner": L(FCOSAssigner)(**FCOSAssigner.from_config(cfg)),
        }

    def forward(self, features: list[Tensor], words: ClassWords | None = None) -> FCOSOutput:
        """Return the raw outputs of each level.

        Args:
            features: one (N, C, H, W) map per level, in the order of the strides.
            words: of the classes, where the classifier is "text".
        """
        output = FCOSOutput([], [], [], [])
        for feature, scale in zip(features, self.distance_scales, strict=True):
            class_feature = self.class_tower(feature)
            box_feature = self.box_tower(feature)
            output.class_logits.append(classify(self.class_predictor, class_feature, words))
            distances = at_least_float32(scale(self.distance_predictor(box_feature)))
            output.distances.append(distances.clamp(min=0))
            angle_rad = self.angle_scale(self.angle_predictor(box_feature))
            output.angle_rad.append(at_least_float32(angle_rad))
            output.centerness_logits.append(self.centerness_predictor(box_feature))
        return output

    def losses(
        self, output: FCOSOutput, gt_boxes: list[Tensor], gt_classes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_box`` and ``loss_centerness`` (scalars).

        Args:
            output: what ``forward`` returned.
            gt_boxes: (M, 5) boxes of each image, image pixels.
            gt_classes: (M,) int64 classes of each image.
        """
        grid = self.make_grid(output)
        locations = _Locations.of(self.assigner.owners(grid, gt_boxes), len(torch.cat(gt_boxes)))
        points_index = locations.index % len(grid.points_xy)
        strides = grid.strides_px[points_index, None]  # (Q, 1)
        target_boxes = torch.cat(gt_boxes)[locations.owners]
        target_classes = torch.cat(gt_classes)[locations.owners]

        # The frame of each location: origin there, one stride as the unit.
        offsets = (target_boxes[:, :2] - grid.points_xy[points_index]) / strides
        target_boxes = torch.cat([offsets, target_boxes[:, 2:4] / strides, target_boxes[:, 4:]], 1)
        target_boxes = locations.fill_background(target_boxes)
        origin = torch.zeros_like(offsets)
        target_distances, _ = self.coder.encode(origin, target_boxes)
        weight = locations.is_positive.to(target_distances.dtype)
        target_centerness = centerness_targets(target_distances) * weight

        num_positives = mean_over_ranks(weight.sum(), minimum=1)
        centerness_sum = mean_over_ranks(target_centerness.sum(), minimum=1e-6)

        def at_locations(levels: list[Tensor]) -> Tensor:
            return at_least_float32(flatten_levels(levels, levels[0].shape[1])[locations.index])

        pred_distances = at_locations(output.distances)
        pred_angle_rad = at_locations(output.angle_rad).squeeze(1)
        pred_boxes = self.coder.decode(origin, pred_distances, pred_angle_rad)
        box_loss = box_loss_sum(
            self.box_loss,
            boxes=lambda: (pred_boxes, target_boxes),
            deltas=lambda: _deltas_of_locations(pred_boxes, pred_angle_rad, target_boxes),
            pair_weights=target_centerness,
        )
        class_loss = self.class_loss(
            output, locations.index, target_classes, is_positive=locations.is_positive
        )
        centerness_logits = at_locations(output.centerness_logits).squeeze(1)
        centerness_loss = binary_cross_entropy_sum(
            centerness_logits, target_centerness, weight=weight
        )
        return {
            "loss_cls": class_loss / num_positives,
            "loss_box": box_loss / centerness_sum,
            "loss_centerness": centerness_loss / num_positives,
        }

    def make_grid(self, output: FCOSOutput) -> PointGrid:
        """Return the locations of one image of this output."""
        sizes_hw = [(level.shape[2], level.shape[3]) for level in output.class_logits]
        return make_point_grid(sizes_hw, self.strides_px, output.class_logits[0].device)

    def decode_at(
        self,
        output: FCOSOutput,
        grid: PointGrid,
        image: int,
        level: int,
        index: Tensor,
        image_size_hw: tuple[int, int],
    ) -> Tensor:
        """Return the boxes (Q, 5) of one image at some locations of a level."""
        points_xy = grid.points_xy.split(grid.level_num_points)[level][index]
        distances = output.distances[level][image].flatten(1)[:, index].t()
        angle_rad = output.angle_rad[level][image].flatten()[index]
        return self.coder.decode(points_xy, distances * self.strides_px[level], angle_rad)

    def decode_all(self, output: FCOSOutput, grid: PointGrid) -> Tensor:
        """Return the boxes (N, R, 5) of all locations."""
        distances = torch.cat([rows(level, 4) for level in output.distances], dim=1)
        num_images = distances.shape[0]  # not len, which an export takes for a constant
        distances = distances * grid.strides_px[:, None]
        angle_rad = torch.cat([rows(level, 1) for level in output.angle_rad], dim=1)
        points_xy = grid.points_xy.expand(num_images, -1, -1)
        flat = self.coder.decode(
            points_xy.flatten(0, 1), distances.flatten(0, 1), angle_rad.flatten()
        )
        return flat.unflatten(0, (num_images, -1))


def _unit_box(like: Tensor) -> Tensor:
    """Return the upright square (5,) of side 1 at the origin, made on the device of ``like``."""
    return torch.cat([like.new_zeros(2), like.new_ones(2), like.new_zeros(1)])


def _deltas_of_locations(
    pred_boxes: Tensor, pred_angle_rad: Tensor, target_boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the deltas (Q, 5) of predicted boxes, and of their targets, from their locations.

    As those of an anchor, the square of one stride there. All boxes are in the frame of their
    location, where that is the unit square.
    """
    log_sides = pred_boxes[:, 2:4].clamp(min=1 / MAX_SIDE_RATIO).log()
    pred_deltas = torch.cat([pred_boxes[:, :2], log_sides, pred_angle_rad[:, None]], dim=1)
    squares = _unit_box(target_boxes).expand_as(target_boxes)
    return pred_deltas, DeltaBoxCoder().encode(squares, target_boxes)
