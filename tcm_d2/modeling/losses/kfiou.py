"""Loss of the overlap of two normal distributions by the Kalman filter."""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor

from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.losses.contract import BOXES_AND_DELTAS, BoxLoss, check_choice
from tcm_d2.modeling.losses.gaussians import measure_pairs

KFIOU_FUNCTIONS = ("none", "ln", "exp")
# Added to the union and below the logarithm (source's value).
EPS = 1e-6


@ROTATED_LOSS_REGISTRY.register()
class KFIoULoss(BoxLoss):
    """Smooth L1 of the centre's deltas, and 1 - KFIoU, -ln KFIoU ("ln") or exp(1 - KFIoU) - 1.

    KFIoU = V / (areas of both boxes - V), at most 1/3; V is the area of the box with the covariance
    P (P + T)^-1 T of the product of both distributions. The angle of a square has no gradient.

    Source: arXiv 2201.12558 (KFIoU); mmrotate's KFLoss. Deliberate difference: sides have a larger
    minimum (``gaussians.MIN_SIDE``).
    """

    takes = BOXES_AND_DELTAS
    defaults = {"fun": "ln", "beta": 1 / 9}

    @configurable
    def __init__(self, *, fun: str, beta: float, weight: float) -> None:
        """Choose the shape of the loss.

        Args:
            fun: function of the KFIoU, one of ``KFIOU_FUNCTIONS``.
            beta: difference of the centre's deltas where smooth L1 becomes linear.
            weight: factor of the summed loss.
        """
        super().__init__(weight=weight)
        self.fun = check_choice("fun", fun, KFIOU_FUNCTIONS)
        self.beta = beta

    def __call__(
        self, pred_boxes: Tensor, target_boxes: Tensor, pred_deltas: Tensor, target_deltas: Tensor
    ) -> Tensor:
        shift = F.smooth_l1_loss(
            at_least_float32(pred_deltas[:, :2]),
            at_least_float32(target_deltas[:, :2]),
            reduction="none",
            beta=self.beta,
        ).sum(dim=1)
        pairs = measure_pairs(pred_boxes, target_boxes)
        areas = 4 * pairs.pred_long * pairs.pred_short, 4 * pairs.target_long * pairs.target_short
        # det(P + T) of the covariances P and T; the product's covariance is P (P + T)^-1 T.
        determinant = (pairs.pred_long.square() + pairs.target_long.square()) * (
            pairs.pred_short.square() + pairs.target_short.square()
        ) + pairs.turned_excess
        common = areas[0] * areas[1] / (4 * determinant.sqrt())
        kfiou = common / (areas[0] + areas[1] - common + EPS)
        if self.fun == "ln":
            return shift - (kfiou + EPS).log()
        return shift + ((1 - kfiou).expm1() if self.fun == "exp" else 1 - kfiou)
