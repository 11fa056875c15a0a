"""Losses of the numbers that a head regresses, box by box without geometry."""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor

from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.losses.contract import DELTAS, BoxLoss


@ROTATED_LOSS_REGISTRY.register()
class L1Loss(BoxLoss):
    """The absolute differences (Q, 5) of the deltas."""

    takes = DELTAS

    @configurable
    def __init__(self, *, weight: float) -> None:
        super().__init__(weight=weight)

    def __call__(self, pred_deltas: Tensor, target_deltas: Tensor) -> Tensor:
        pred_deltas = at_least_float32(pred_deltas)
        return F.l1_loss(pred_deltas, target_deltas.to(pred_deltas.dtype), reduction="none")


@ROTATED_LOSS_REGISTRY.register()
class SmoothL1Loss(BoxLoss):
    """The absolute differences (Q, 5) of the deltas, squared below ``beta``.

    Source: arXiv 1504.08083 (Fast R-CNN), equation 3, there with beta 1.
    """

    takes = DELTAS
    defaults = {"beta": 1 / 9}

    @configurable
    def __init__(self, *, beta: float, weight: float) -> None:
        super().__init__(weight=weight)
        self.beta = beta

    def __call__(self, pred_deltas: Tensor, target_deltas: Tensor) -> Tensor:
        pred_deltas = at_least_float32(pred_deltas)
        target_deltas = target_deltas.to(pred_deltas.dtype)
        return F.smooth_l1_loss(pred_deltas, target_deltas, reduction="none", beta=self.beta)
