"""Sigmoid focal loss over all locations and classes at once, with its gradient.

Composed of elementary operations, the loss keeps about ten tensors of the size of the logits for
its backward pass; here the gradient is computed together with the value and is all that is kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Beyond it log(1 + exp(x)) is x, also in float64.
SOFTPLUS_LINEAR_FROM = 40.0


def focal_loss_sum(
    logits: Tensor,
    positive_index: Tensor,
    positive_classes: Tensor,
    *,
    gamma: float,
    alpha: float,
    is_positive: Tensor | None = None,
    ignored_index: Tensor | None = None,
) -> Tensor:
    """Return the summed sigmoid focal loss, a scalar; every other location is background.

    Gradients flow to ``logits``, once: there is no second derivative.

    Args:
        logits: (R, K) class logits, float32 or float64.
        positive_index: (Q,) int64 distinct rows that hold an object.
        positive_classes: (Q,) int64 their classes.
        gamma: focusing exponent.
        alpha: weight of the positive term.
        is_positive: (Q,) bool, False for rows that are background after all; None for none. A
            caller who must not wait for the device can give all rows and this.
        ignored_index: (I,) int64 rows that cost nothing, none of them positive; None for none.

    Source: arXiv 1708.02002, equation 5.
    """
    total: Tensor = _FocalLossSum.apply(
        logits, positive_index, positive_classes, is_positive, ignored_index, gamma, alpha
    )
    return total


class _FocalLossSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        rows: Tensor,
        classes: Tensor,
        is_positive: Tensor | None,
        ignored: Tensor | None,
        gamma: float,
        alpha: float,
    ) -> Tensor:
        # As if everything was background, then the places where it is not.
        cost, slope = _background(logits, gamma)
        cost.mul_(1 - alpha)
        slope.mul_(1 - alpha)
        if ignored is not None:
            cost.index_fill_(0, ignored, 0.0)
            slope.index_fill_(0, ignored, 0.0)
        place = (rows, classes)
        # An object's logit x costs what a background's -x does.
        object_cost, object_slope = _background(-logits[place], gamma)
        object_cost, object_slope = alpha * object_cost, -alpha * object_slope
        if is_positive is not None:
            object_cost = torch.where(is_positive, object_cost, cost[place])
            object_slope = torch.where(is_positive, object_slope, slope[place])
        cost.index_put_(place, object_cost)
        slope.index_put_(place, object_slope)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(slope)
        return cost.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad_total, None, None, None, None, None, None


def _background(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return p^gamma * -ln(1 - p), p = sigmoid(logits), and its derivative by the logits."""
    score = logits.sigmoid()
    entropy = F.softplus(logits, threshold=SOFTPLUS_LINEAR_FROM)
    focus = score.pow(gamma)
    slope = (1 - score).mul_(gamma).mul_(entropy).add_(score).mul_(focus)
    return entropy.mul_(focus), slope
