"""S2A-Net's head: a first stage makes one box per cell, features are aligned to it, then refined.

Letters: N images, K classes, C channels, R anchors (one per cell) of one image over all levels, M
ground truths of one image, Q positive anchors of the batch, P points of a kernel.
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
from torchvision.ops import deform_conv2d

from tcm_d2.config.nodes import configurable_with_nodes
from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY
from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.dense.anchor_assigners import AnchorAssignment, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator, AnchorGrid
from tcm_d2.modeling.dense.delta_coder import DeltaBoxCoder
from tcm_d2.modeling.heads.anchor_based import NUM_DELTAS, AnchorHead, count_positives
from tcm_d2.modeling.heads.classifiers import LINEAR, classify, make_classifier
from tcm_d2.modeling.heads.contract import ForeignNames
from tcm_d2.modeling.heads.dense_head import common_arguments
from tcm_d2.modeling.heads.retinanet import RetinaNetOutput
from tcm_d2.modeling.heads.towers import (
    flatten_levels,
    init_normal,
    make_predictor,
    make_tower,
    rows,
)
from tcm_d2.modeling.losses.contract import BoxLoss, box_loss_sum

# Of a rotating filter: turns by 45 degrees of a 3x3 kernel.
NUM_TURNS = 8
# The kernel's outer cells, clockwise from the upper left: row, column.
_RING = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]


class S2ANetOutput(NamedTuple):
    """Raw outputs; the first two, of the second stage, one tensor per level.

    Attributes:
        class_logits: (N, K, H, W).
        deltas: (N, 5, H, W) of the boxes from ``anchors``, as in ``DeltaBoxCoder``.
        first: class logits and deltas of the first stage, from the generator's anchors.
        anchors: (N, R, 5) boxes of the first stage, without gradients, sides as they were named.
    """

    class_logits: list[Tensor]
    deltas: list[Tensor]
    first: RetinaNetOutput
    anchors: Tensor


class FirstStage(nn.Module):
    """RetinaNet with one anchor per cell and short towers."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_convs: int,
        make_class_predictor: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.class_tower = make_tower(in_channels, channels, num_convs=num_convs, norm="")
        self.box_tower = make_tower(in_channels, channels, num_convs=num_convs, norm="")
        self.class_predictor = make_class_predictor()
        self.delta_predictor = make_predictor(channels, NUM_DELTAS, bias=0.0)

    def forward(self, features: list[Tensor], text_NKC: Tensor | None) -> RetinaNetOutput:
        """Return the raw outputs of each level."""
        return RetinaNetOutput(
            [classify(self.class_predictor, self.class_tower(x), text_NKC) for x in features],
            [self.delta_predictor(self.box_tower(x)) for x in features],
        )


class AlignConv(nn.Module):
    """A 3x3 convolution that takes its nine points from the grid of thirds of each cell's box."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deform_conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        init_normal(self.deform_conv, bias=0.0)

    def forward(self, feature: Tensor, offsets: Tensor) -> Tensor:
        """Return the aligned map (N, C, H, W).

        Args:
            feature: (N, C, H, W) of one level.
            offsets: see `kernel_offsets`.
        """
        weight = self.deform_conv.weight.to(feature.dtype)
        return deform_conv2d(feature, offsets.to(feature.dtype), weight, padding=1).relu()


def kernel_offsets(
    anchors: Tensor, clockwise_rad: Tensor, size_hw: tuple[int, int], stride_px: int
) -> Tensor:
    """Return how far each point of a 3x3 kernel moves, (N, 2 * P, H, W): y and x of each, in cells.

    Args:
        anchors: (N, H * W, 5) boxes of the cells, row-major, image pixels.
        clockwise_rad: (N, H * W) their angles; a half turn more turns the kernel around.
        size_hw: H and W.
        stride_px: of the level.
    """
    height, width = size_hw
    steps = torch.arange(-1, 2, dtype=anchors.dtype, device=anchors.device)
    kernel_y, kernel_x = (k.flatten() for k in torch.meshgrid(steps, steps, indexing="ij"))  # (P,)
    ys = torch.arange(height, dtype=anchors.dtype, device=anchors.device)
    xs = torch.arange(width, dtype=anchors.dtype, device=anchors.device)
    cell_y, cell_x = (c.flatten()[:, None] for c in torch.meshgrid(ys, xs, indexing="ij"))
    center_x, center_y, side_w, side_h = (anchors[..., :4] / stride_px).split(1, dim=-1)
    cos, sin = clockwise_rad[..., None].cos(), clockwise_rad[..., None].sin()
    along_w, along_h = side_w / 3 * kernel_x, side_h / 3 * kernel_y  # (N, HW, P)
    x = center_x + cos * along_w - sin * along_h - (cell_x + kernel_x)
    y = center_y + sin * along_w + cos * along_h - (cell_y + kernel_y)
    offsets = torch.stack([y, x], dim=-1).flatten(2)  # (N, HW, 2 P)
    return offsets.transpose(1, 2).unflatten(2, (height, width))


class RotatingConv(nn.Module):
    """A 3x3 convolution with each filter in eight turns, as adjacent output channels.

    ``indices`` (1, 3, 3, 8) say where each value of a kernel goes in each turn, counted from 1, as
    published weights hold them.
    """

    indices: Tensor

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        num_filters = channels // NUM_TURNS
        self.weight = nn.Parameter(torch.empty(num_filters, in_channels, 1, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.normal_(self.weight, std=(2 / (9 * in_channels)) ** 0.5)
        indices = torch.full((1, 3, 3, NUM_TURNS), 5, dtype=torch.int32)
        for turn in range(NUM_TURNS):
            for start, (row, column) in enumerate(_RING):
                to_row, to_column = _RING[(start + turn) % NUM_TURNS]
                indices[0, row, column, turn] = 3 * to_row + to_column + 1
        self.register_buffer("indices", indices)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, filters * 8, H, W)."""
        num_filters, in_channels = self.weight.shape[:2]
        flat = self.weight.flatten(2)[:, None].expand(-1, NUM_TURNS, -1, -1)  # (F, 8, C, 9)
        places = self.indices.reshape(9, NUM_TURNS).t().long() - 1  # (8, 9)
        places = places[None, :, None].expand(num_filters, -1, in_channels, -1)
        turned = torch.zeros_like(flat).scatter(3, places, flat)
        kernel = turned.reshape(num_filters * NUM_TURNS, in_channels, 3, 3)
        return nn.functional.conv2d(x, kernel, self.bias, padding=1)


@ROTATED_HEAD_REGISTRY.register()
class RotatedS2ANetHead(AnchorHead):
    """Predict a box per cell, then class and box again from features aligned to that box.

    Source: S2A-Net (arXiv 2008.09397), mmrotate's S2AHead and S2ARefineHead.
    """

    foreign_names = ForeignNames(
        title="S2A-Net",
        modules={
            "retina_cls": "class_predictor",
            "retina_reg": "delta_predictor",
            "or_conv": "rotating",
            "feat_refine_module": "align",
            "deform_conv": "align.deform_conv",
        },
        layers_per_block=2,
        # Of 1.x, and of 0.x.
        stages={
            "bbox_head_init.": "first.",
            "bbox_head_refine.0.": "",
            "fam_head.": "first.",
            "odm_head.": "",
            "align_conv.": "",
        },
    )

    @configurable_with_nodes
    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        num_convs: int,
        norm: str,
        prior_prob: float,
        anchor_generator: AnchorGenerator,
        assigner: MaxIoUAssigner,
        coder: DeltaBoxCoder,
        num_classes: int,
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
        if anchor_generator.num_anchors != 1:
            raise ValueError(
                f"anchor_generator: expected 1 anchor per cell, got {anchor_generator.num_anchors}"
            )
        if norm or channels % NUM_TURNS or num_convs < 1:
            raise ValueError(
                f"norm, channels and num_convs: expected '', a multiple of {NUM_TURNS} and at "
                f"least 1, got {norm!r}, {channels} and {num_convs}"
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

        make_class_predictor = partial(
            make_classifier,
            classifier,
            channels,
            num_anchors=1,
            num_classes=num_classes,
            prior_prob=prior_prob,
        )
        self.first = FirstStage(in_channels, channels, num_convs, make_class_predictor)
        self.align = AlignConv(in_channels)
        self.rotating = RotatingConv(in_channels, channels)
        num_filters = channels // NUM_TURNS
        self.class_tower = make_tower(num_filters, channels, num_convs=num_convs, norm="")
        self.box_tower = make_tower(channels, channels, num_convs=num_convs, norm="")
        self.class_predictor = make_class_predictor()
        self.delta_predictor = make_predictor(channels, NUM_DELTAS, bias=0.0)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        """Return the constructor's arguments; see `RotatedHead`."""
        return {
            **common_arguments(cfg, input_shape, box_loss="SmoothL1Loss"),
            "classifier": cfg.MODEL.ROTATED_HEAD.CLASSIFIER,
            "anchor_generator": L(AnchorGenerator)(**AnchorGenerator.from_config(cfg)),
            "assigner": L(MaxIoUAssigner)(**MaxIoUAssigner.from_config(cfg)),
            "coder": L(DeltaBoxCoder)(**DeltaBoxCoder.from_config(cfg)),
        }

    def forward(self, features: list[Tensor], text_NKC: Tensor | None = None) -> S2ANetOutput:
        """Return the raw outputs of both stages.

        Args:
            features: one (N, C, H, W) map per level, in the order of the strides.
            text_NKC: class embeddings, where the classifier is "text".
        """
        first = self.first(features, text_NKC)
        grid = self.make_grid(first)
        anchors = self._decode(grid.boxes, first.deltas).detach()
        class_logits, deltas = [], []
        levels = zip(
            features, anchors.split(grid.level_num_anchors, 1), self.strides_px, strict=True
        )
        for feature, boxes, stride_px in levels:
            turns = self.coder.clockwise_rad(boxes)
            offsets = kernel_offsets(boxes, turns, feature.shape[-2:], stride_px)
            turned = self.rotating(self.align(feature, offsets))
            # The same whichever way an object points.
            upright = turned.unflatten(1, (-1, NUM_TURNS)).amax(dim=2)
            class_logits.append(classify(self.class_predictor, self.class_tower(upright), text_NKC))
            deltas.append(self.delta_predictor(self.box_tower(turned)))
        return S2ANetOutput(class_logits, deltas, first, anchors)

    def _decode(self, anchors: Tensor, deltas: list[Tensor]) -> Tensor:
        """Return the boxes (N, R, 5) of all places, sides named as the coder does."""
        flat = at_least_float32(torch.cat([rows(level, NUM_DELTAS) for level in deltas], dim=1))
        anchors = anchors.expand(flat.shape[0], -1, -1)
        boxes = self.coder.decode(
            anchors.flatten(0, 1), flat.flatten(0, 1), is_canonical=self.coder.swap_sides
        )
        return boxes.unflatten(0, flat.shape[:2])

    def decode_at(
        self,
        output: S2ANetOutput,
        grid: AnchorGrid,
        image: int,
        level: int,
        index: Tensor,
        image_size_hw: tuple[int, int],
    ) -> Tensor:
        """Return the boxes (Q, 5) of one image at some cells of a level, centres in the image."""
        anchors = output.anchors[image].split(grid.level_num_anchors)[level][index]
        deltas = rows(output.deltas[level][image, None], NUM_DELTAS)[0, index]
        return self.coder.decode(anchors, at_least_float32(deltas), image_size_hw=image_size_hw)

    def decode_all(self, output: S2ANetOutput, grid: AnchorGrid) -> Tensor:
        """Return the boxes (N, R, 5) of all cells, centres where they are predicted."""
        return self._decode(output.anchors, output.deltas)

    def losses(
        self, output: S2ANetOutput, gt_boxes: list[Tensor], gt_classes: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return ``loss_cls`` and ``loss_box`` of both stages (scalars), ``_first`` of the first.

        Args:
            output: what ``forward`` returned.
            gt_boxes: (M, 5) boxes of each image, image pixels.
            gt_classes: (M,) int64 classes of each image.
        """
        grid = self.make_grid(output)
        first = self.assigner.assign(grid, gt_boxes)
        second = self.assigner.assign_boxes(output.anchors, gt_boxes)
        upright = grid.boxes.expand(len(gt_boxes), -1, -1)
        losses = self._stage_losses(output.first, upright, first, gt_boxes, gt_classes)
        refined = self._stage_losses(output, output.anchors, second, gt_boxes, gt_classes)
        return {**{f"{name}_first": value for name, value in losses.items()}, **refined}

    def _stage_losses(
        self,
        output: S2ANetOutput | RetinaNetOutput,
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
