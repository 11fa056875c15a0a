"""Loss of the Hellinger distance of boxes as normal distributions."""

from __future__ import annotations

from detectron2.config import configurable
from torch import Tensor

from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.modeling.losses.contract import BoxLoss, check_choice
from tcm_d2.modeling.losses.gaussians import MIN_DISTANCE, measure_pairs

FORMS = ("l1", "l2")


@ROTATED_LOSS_REGISTRY.register()
class ProbIoULoss(BoxLoss):
    """1 - ProbIoU, the Hellinger distance ("l1"), or the Bhattacharyya distance ("l2").

    The latter is B = shift^T M^-1 shift / 8 + ln (det M / (det P det T)^1/2) / 2, M = (P + T) / 2,
    with the covariances P and T of the uniform distributions on the boxes, side^2 / 12; the former
    is (1 - exp -B)^1/2. "l2" draws far boxes, where "l1" is flat. The angle of a square has no
    gradient.

    Source: arXiv 2106.06072 (ProbIoU). Deliberate difference: sides have a minimum
    (``gaussians.MIN_SIDE``).
    """

    defaults = {"form": "l1"}

    @configurable
    def __init__(self, *, form: str, weight: float) -> None:
        super().__init__(weight=weight)
        self.form = check_choice("form", form, FORMS)

    def __call__(self, pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        pairs = measure_pairs(pred_boxes, target_boxes)
        pred_long2, pred_short2 = pairs.pred_long.square(), pairs.pred_short.square()
        target_long2, target_short2 = pairs.target_long.square(), pairs.target_short.square()
        # det(P + T) of the covariances, and by how much it exceeds 4 (det P det T)^1/2, its value
        # for equal boxes; in half sides, whose squares are 3 times the variances.
        products = pairs.pred_long * pairs.target_long, pairs.pred_short * pairs.target_short
        excess = (
            (pairs.pred_long - pairs.target_long).square() * (pred_short2 + target_short2)
            + 2 * products[0] * (pairs.pred_short - pairs.target_short).square()
            + pairs.turned_excess
        )
        equal = 4 * products[0] * products[1]
        # shift^T adj(P + T) shift, where the adjugate has the axes' variances exchanged.
        shift = (
            pred_short2 * pairs.pred_along.square()
            + pred_long2 * pairs.pred_across.square()
            + target_short2 * pairs.target_along.square()
            + target_long2 * pairs.target_across.square()
        ) / (equal + excess)
        bhattacharyya = 0.75 * shift + 0.5 * (excess / equal).log1p()
        if self.form == "l2":
            return bhattacharyya
        return (-(-bhattacharyya).expm1()).clamp(min=MIN_DISTANCE).sqrt()
