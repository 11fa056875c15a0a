"""What the heads share: settings, detections and dense outputs from their raw outputs.

Letters: N images, K classes, A places of a cell (its anchors, or 1), R places of one image over all
levels, Q candidates.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor, nn

from tcm_d2.config.nodes import part_node
from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.dense.decode import detect, select_candidates
from tcm_d2.modeling.heads.contract import DenseOutput
from tcm_d2.modeling.heads.towers import flatten_levels, rows
from tcm_d2.modeling.losses.focal import focal_loss_sum


class DenseHead(nn.Module):
    """A head that says for every place of its grid a class, a box, and perhaps how good it is.

    Subclasses set the attributes of `RotatedHead`. Their output has ``class_logits`` (N, A * K, H,
    W) of each level, and ``<name>_logits`` (N, A, H, W) for each of their ``factor_names``.
    """

    factor_names: tuple[str, ...] = ()
    num_classes: int
    score_threshold: float
    topk_candidates: int
    nms_threshold: float
    max_detections: int
    focal_loss_gamma: float
    focal_loss_alpha: float

    def make_grid(self, output: Any) -> Any:
        """Return the places of one image that this output is about."""
        raise NotImplementedError

    def decode_at(
        self,
        output: Any,
        grid: Any,
        image: int,
        level: int,
        index: Tensor,
        image_size_hw: tuple[int, int],
    ) -> Tensor:
        """Return the boxes (Q, 5) of one image at the places ``index`` (Q,) of a level."""
        raise NotImplementedError

    def decode_all(self, output: Any, grid: Any) -> Tensor:
        """Return the boxes (N, R, 5) of all places, centres where they are predicted."""
        raise NotImplementedError

    @torch.no_grad()
    def predict(self, output: Any, image_sizes_hw: list[tuple[int, int]]) -> list[Instances]:
        """Return the detections of each image; see `RotatedHead`."""
        grid = self.make_grid(output)
        return detect(
            lambda image: self.candidates(output, grid, image, image_sizes_hw[image]),
            image_sizes_hw,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )

    def candidates(
        self, output: Any, grid: Any, image: int, image_size_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return one image's boxes (Q, 5), scores (Q,) and classes (Q,) before NMS.

        The threshold and the limit per level act on the class score alone; the score returned is
        class score x factors (centre-ness). Boxes without area are dropped, as in the reference.
        """
        boxes, scores, classes = [], [], []
        for level, logits in enumerate(output.class_logits):
            chosen = select_candidates(
                rows(logits[image, None], self.num_classes)[0],
                score_threshold=self.score_threshold,
                topk=self.topk_candidates,
            )
            index = chosen.location_index
            level_boxes = self.decode_at(output, grid, image, level, index, image_size_hw)
            level_scores = chosen.scores
            for name in self.factor_names:
                factor = rows(getattr(output, f"{name}_logits")[level][image, None], 1)[0, index, 0]
                level_scores = level_scores * at_least_float32(factor).sigmoid()
            kept = ((level_boxes[:, 2] > 0) & (level_boxes[:, 3] > 0)).nonzero(as_tuple=True)[0]
            boxes.append(level_boxes[kept])
            scores.append(level_scores[kept])
            classes.append(chosen.classes[kept])
        return torch.cat(boxes), torch.cat(scores), torch.cat(classes)

    def dense_output(self, output: Any) -> DenseOutput:
        """Return what the raw output says about every place; see `RotatedHead`."""
        return DenseOutput(
            boxes=self.decode_all(output, self.make_grid(output)),
            class_logits=[rows(level, self.num_classes) for level in output.class_logits],
            factors=[
                [rows(level, 1).sigmoid()[..., 0] for level in getattr(output, f"{name}_logits")]
                for name in self.factor_names
            ],
        )

    def class_loss(
        self,
        output: Any,
        location_index: Tensor,
        target_classes: Tensor,
        *,
        is_positive: Tensor | None = None,
        ignored_index: Tensor | None = None,
    ) -> Tensor:
        """Return the summed focal loss of all places; see `focal_loss_sum`."""
        return focal_loss_sum(
            at_least_float32(flatten_levels(output.class_logits, self.num_classes)),
            location_index,
            target_classes,
            gamma=self.focal_loss_gamma,
            alpha=self.focal_loss_alpha,
            is_positive=is_positive,
            ignored_index=ignored_index,
        )


def common_arguments(
    cfg: CfgNode, input_shape: list[ShapeSpec], *, box_loss: str
) -> dict[str, Any]:
    """Return the constructor arguments that all heads have, for a Detectron2 configuration.

    Args:
        cfg: the whole configuration.
        input_shape: of each level of the pyramid.
        box_loss: name of the loss of the boxes where the configuration names none.
    """
    head = cfg.MODEL.ROTATED_HEAD
    return {
        "in_channels": input_shape[0].channels,
        "channels": head.CHANNELS,
        "num_classes": head.NUM_CLASSES,
        "num_convs": head.NUM_CONVS,
        "norm": head.NORM,
        "prior_prob": head.PRIOR_PROB,
        "focal_loss_gamma": head.FOCAL_LOSS_GAMMA,
        "focal_loss_alpha": head.FOCAL_LOSS_ALPHA,
        "box_loss": part_node(
            ROTATED_LOSS_REGISTRY,
            head.BOX_LOSS or box_loss,
            cfg,
            key="MODEL.ROTATED_HEAD.BOX_LOSS",
        ),
        "score_threshold": head.SCORE_THRESH,
        "topk_candidates": head.TOPK_CANDIDATES,
        "nms_threshold": head.NMS_THRESH,
        "max_detections": head.MAX_DETECTIONS,
    }
