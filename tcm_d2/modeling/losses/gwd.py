"""Loss of the Gaussian Wasserstein distance."""

from __future__ import annotations

from detectron2.config import configurable
from torch import Tensor

from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.modeling.losses.contract import BoxLoss
from tcm_d2.modeling.losses.gaussians import (
    MIN_DISTANCE,
    check_distance_settings,
    measure_pairs,
    shape_distance,
)


@ROTATED_LOSS_REGISTRY.register()
class GWDLoss(BoxLoss):
    """The Wasserstein distance of the boxes as normal distributions with their half sides.

    ``W^2 = |shift|^2 + alpha^2 tr(P + T - 2 (P^1/2 T P^1/2)^1/2)``, P and T the covariances. The
    angle of a square has no gradient.

    Source: arXiv 2101.11952 (GWD); mmrotate's GDLoss with "gwd". Deliberate
    differences: sides have a larger minimum (``gaussians.MIN_SIDE``), and it is the only one, where
    the source also clamps the product of the determinants.
    """

    defaults = {"fun": "log1p", "tau": 1.0, "alpha": 1.0, "normalize": True}

    @configurable
    def __init__(
        self, *, fun: str, tau: float, alpha: float, normalize: bool, weight: float
    ) -> None:
        """Choose the shape of the loss.

        Args:
            fun: function of the distance, "log1p", "sqrt" or "none".
            tau: 0, or at least 1 for 1 - 1 / (tau + fun(distance)).
            alpha: weight of sides and angle beside the shift.
            normalize: divide by twice the geometric mean of the four half sides, so that the unit
                does not matter.
            weight: factor of the summed loss.
        """
        super().__init__(weight=weight)
        check_distance_settings(fun, tau)
        self.fun, self.tau, self.alpha, self.normalize = fun, tau, alpha, normalize

    def __call__(self, pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        pairs = measure_pairs(pred_boxes, target_boxes)
        products = pairs.pred_long * pairs.target_long, pairs.pred_short * pairs.target_short
        # tr (P^1/2 T P^1/2)^1/2 of boxes turned alike, and turned as they are.
        alike = products[0] + products[1]
        excess = pairs.turned_excess
        turned = (alike.square() - excess).sqrt()
        shape = (
            (pairs.pred_long - pairs.target_long).square()
            + (pairs.pred_short - pairs.target_short).square()
            + 2 * excess / (alike + turned)
        )
        shift = pairs.pred_along.square() + pairs.pred_across.square()
        distance = (shift + self.alpha**2 * shape).clamp(min=MIN_DISTANCE).sqrt()
        if self.normalize:
            distance = distance / (2 * (products[0] * products[1]).sqrt().sqrt())
        return shape_distance(distance, fun=self.fun, tau=self.tau)
