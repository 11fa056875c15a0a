"""Losses of the Kullback-Leibler divergence: one way, symmetric, and Jeffreys'."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from torch import Tensor

from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.modeling.losses.contract import BoxLoss, check_choice
from tcm_d2.modeling.losses.gaussians import (
    MIN_DISTANCE,
    GaussianPairs,
    check_distance_settings,
    measure_pairs,
    shape_distance,
)

SYMMETRIES = ("none", "max", "min")


class _DivergenceLoss(BoxLoss):
    """A loss of the divergences of both directions."""

    defaults = {"fun": "log1p", "tau": 1.0, "alpha": 1.0, "sqrt": False}

    @configurable
    def __init__(self, *, fun: str, tau: float, alpha: float, sqrt: bool, weight: float) -> None:
        """Choose the shape of the loss.

        Args:
            fun: function of the distance, "log1p", "sqrt" or "none".
            tau: 0, or at least 1 for 1 - 1 / (tau + fun(distance)).
            alpha: weight of sides and angle beside the shift.
            sqrt: take the square root of the divergence as the distance.
            weight: factor of the summed loss.
        """
        super().__init__(weight=weight)
        check_distance_settings(fun, tau)
        self.fun, self.tau, self.alpha, self.sqrt = fun, tau, alpha, sqrt

    def _divergence(self, pairs: GaussianPairs) -> Tensor:
        raise NotImplementedError

    def __call__(self, pred_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        distance = self._divergence(measure_pairs(pred_boxes, target_boxes))
        if self.sqrt:
            distance = distance.clamp(min=MIN_DISTANCE).sqrt()
        return shape_distance(distance, fun=self.fun, tau=self.tau)


@ROTATED_LOSS_REGISTRY.register()
class KLDLoss(_DivergenceLoss):
    """The divergence KL(target || prediction) of the boxes as normal distributions.

    It is (shift^T P^-1 shift / alpha^2 + tr P^-1 T + ln (det P / det T)) / 2 - 1, P and T the
    covariances. The angle of a square has no gradient.

    Source: arXiv 2106.01883 (KLD); mmrotate's GDLoss with "kld", "kld_symmax" and "kld_symmin".
    Deliberate difference: sides have a larger minimum (``gaussians.MIN_SIDE``).
    """

    defaults = {**_DivergenceLoss.defaults, "symmetry": "none"}

    @configurable
    def __init__(
        self, *, fun: str, tau: float, alpha: float, sqrt: bool, symmetry: str, weight: float
    ) -> None:
        """Choose the shape of the loss.

        Args:
            fun: as in ``JDLoss``.
            tau: likewise.
            alpha: likewise.
            sqrt: likewise.
            symmetry: "none" for one direction, "max" or "min" for the larger or smaller of both.
            weight: factor of the summed loss.
        """
        super().__init__(fun=fun, tau=tau, alpha=alpha, sqrt=sqrt, weight=weight)
        self.symmetry = check_choice("symmetry", symmetry, SYMMETRIES)

    def _divergence(self, pairs: GaussianPairs) -> Tensor:
        forward = _kl_divergence(pairs, self.alpha)
        if self.symmetry == "none":
            return forward
        both = forward, _kl_divergence(pairs.exchanged(), self.alpha)
        return torch.maximum(*both) if self.symmetry == "max" else torch.minimum(*both)


@ROTATED_LOSS_REGISTRY.register()
class JDLoss(_DivergenceLoss):
    """Jeffreys' divergence, the mean of both directions of ``KLDLoss``.

    Source: arXiv 2209.10839; mmrotate's GDLoss with "jd". Deliberate difference as there.
    """

    def _divergence(self, pairs: GaussianPairs) -> Tensor:
        backward = _kl_divergence(pairs.exchanged(), self.alpha)
        return (_kl_divergence(pairs, self.alpha) + backward) / 2


def _kl_divergence(pairs: GaussianPairs, alpha: float) -> Tensor:
    """Return KL(target || prediction), (Q,), with the shift's part divided by alpha^2."""
    shift = (pairs.pred_along / pairs.pred_long).square()
    shift = shift + (pairs.pred_across / pairs.pred_short).square()
    # For every axis r^2 - 1 - ln r^2, with r the ratio of the sides.
    log_ratios = (pairs.target_long / pairs.pred_long).log() * 2
    sides = log_ratios.expm1() - log_ratios
    log_ratios = (pairs.target_short / pairs.pred_short).log() * 2
    sides = sides + (log_ratios.expm1() - log_ratios)
    turn = pairs.turned_excess / (pairs.pred_long * pairs.pred_short).square()
    return (shift / alpha**2 + sides + turn) / 2
