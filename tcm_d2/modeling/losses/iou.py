"""Losses of the exact overlap of rotated boxes: IoU, GIoU and DIoU."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor

from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.modeling.losses.contract import BoxLoss, check_choice
from tcm_d2.ops import paired_diou_rotated, paired_giou_rotated, paired_iou_rotated

# The IoU below which the loss is flat, as in the reference: disjoint boxes give no gradient.
MIN_IOU = 1e-6
IOU_LOSS_MODES = ("log", "linear", "square")


@ROTATED_LOSS_REGISTRY.register()
class RotatedIoULoss(BoxLoss):
    """-ln IoU ("log"), 1 - IoU ("linear") or 1 - IoU^2 ("square"), IoU clamped at 1e-6 from below.

    Its mode is ``MODEL.ROTATED_HEAD.BOX_LOSS_MODE``.

    Source: arXiv 1608.01471 (UnitBox) for "log"; mmrotate's RotatedIoULoss. Deliberate
    difference: unlike in its operator, the IoU is exact for nearly identical boxes.
    """

    @configurable
    def __init__(self, *, mode: str, weight: float) -> None:
        super().__init__(weight=weight)
        self.mode = check_choice("mode", mode, IOU_LOSS_MODES)

    def __call__(self, pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        iou = paired_iou_rotated(pred_boxes, target_boxes).clamp(min=MIN_IOU)
        if self.mode == "log":
            return -iou.log()
        return 1 - iou if self.mode == "linear" else 1 - iou**2

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add this loss's key to ``cfg`` in place."""
        cfg.MODEL.ROTATED_HEAD.BOX_LOSS_MODE = "log"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {**super().from_config(cfg), "mode": cfg.MODEL.ROTATED_HEAD.BOX_LOSS_MODE}


@ROTATED_LOSS_REGISTRY.register()
class RotatedGIoULoss(BoxLoss):
    """1 - GIoU, which draws disjoint boxes to each other too.

    Source: arXiv 1902.09630, algorithm 1, with the convex hull of both boxes (``ops``).
    """

    @configurable
    def __init__(self, *, weight: float) -> None:
        super().__init__(weight=weight)

    def __call__(self, pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        return 1 - paired_giou_rotated(pred_boxes, target_boxes)


@ROTATED_LOSS_REGISTRY.register()
class RotatedDIoULoss(BoxLoss):
    """1 - DIoU, which draws the centres to each other.

    Source: arXiv 1911.08287, equation 7, with the diameter of the convex hull (``ops``).
    """

    @configurable
    def __init__(self, *, weight: float) -> None:
        super().__init__(weight=weight)

    def __call__(self, pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        return 1 - paired_diou_rotated(pred_boxes, target_boxes)
