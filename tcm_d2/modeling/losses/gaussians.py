"""What the losses of boxes as normal distributions are made of.

A box stands for the normal distribution with its centre as the mean and a covariance of its axes
and half sides. Sums and products of two such matrices are written in the sides, the angle between
the boxes and the shift seen along the axes of each: no matrix is inverted and no nearly equal
numbers are subtracted, so that needles and nearly identical boxes keep their digits in float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.losses.contract import check_choice

# Sides are clamped to this range, in the unit of the boxes. The source's minimum is 1e-7: gradients
# of boxes without size then overflow float32, or throw a training off.
MIN_SIDE, MAX_SIDE = 1e-3, 1e7
# Distances below have no gradient (source's value): their square root would have none that is
# finite.
MIN_DISTANCE = 1e-7
DISTANCE_FUNCTIONS = ("log1p", "sqrt", "none")


class GaussianPairs(NamedTuple):
    """Aligned pairs of boxes; all (Q,), at least float32.

    Attributes:
        pred_long: half of the prediction's longer side.
        pred_short: half of its shorter side.
        target_long: half of the target's longer side.
        target_short: half of its shorter side.
        turn: squared sine of the angle between the longer sides.
        pred_along: shift of the centres along the prediction's longer side.
        pred_across: along its shorter side.
        target_along: along the target's longer side.
        target_across: along its shorter side.
    """

    pred_long: Tensor
    pred_short: Tensor
    target_long: Tensor
    target_short: Tensor
    turn: Tensor
    pred_along: Tensor
    pred_across: Tensor
    target_along: Tensor
    target_across: Tensor

    def exchanged(self) -> GaussianPairs:
        """Return the pairs with prediction and target exchanged."""
        pl, ps, tl, ts, turn, pa, px, ta, tx = self
        return GaussianPairs(tl, ts, pl, ps, turn, ta, tx, pa, px)

    @property
    def turned_excess(self) -> Tensor:
        """By how much det(P + T) of the covariances exceeds that of boxes turned alike, (Q,)."""
        return (
            self.turn
            * _difference_of_squares(self.pred_long, self.pred_short)
            * _difference_of_squares(self.target_long, self.target_short)
        )


def measure_pairs(pred_boxes: Tensor, target_boxes: Tensor) -> GaussianPairs:
    """Return the measures of aligned pairs (Q, 5) of boxes. Gradients flow to both."""
    pred_boxes, target_boxes = at_least_float32(pred_boxes), at_least_float32(target_boxes)
    shift_x, shift_y = (pred_boxes[:, :2] - target_boxes[:, :2]).unbind(dim=1)
    pred_long, pred_short, pred_deg = _longer_side_first(pred_boxes)
    target_long, target_short, target_deg = _longer_side_first(target_boxes)
    along = []
    for angle_deg in (pred_deg, target_deg):
        angle_rad = torch.deg2rad(angle_deg)
        cos, sin = angle_rad.cos(), angle_rad.sin()
        along += [cos * shift_x - sin * shift_y, sin * shift_x + cos * shift_y]
    turn = torch.deg2rad(pred_deg - target_deg).sin().square()
    return GaussianPairs(pred_long, pred_short, target_long, target_short, turn, *along)


def _longer_side_first(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return half the longer side, half the shorter and the longer one's angle, each (Q,)."""
    w, h = (boxes[:, 2:4].clamp(MIN_SIDE, MAX_SIDE) / 2).unbind(dim=1)
    keep = w >= h
    angle_deg = torch.where(keep, boxes[:, 4], boxes[:, 4] + 90.0)
    return torch.where(keep, w, h), torch.where(keep, h, w), angle_deg


def _difference_of_squares(longer: Tensor, shorter: Tensor) -> Tensor:
    return (longer - shorter) * (longer + shorter)


def check_distance_settings(fun: str, tau: float) -> None:
    """Check what ``shape_distance`` takes.

    Raises:
        ValueError: ``fun`` is unknown, or ``tau`` lies between 0 and 1.
    """
    check_choice("fun", fun, DISTANCE_FUNCTIONS)
    if tau != 0 and tau < 1:
        raise ValueError(f"tau: expected 0 (the distance itself) or at least 1, got {tau}")


def shape_distance(distance: Tensor, *, fun: str, tau: float) -> Tensor:
    """Return the loss f(distance), or 1 - 1 / (tau + f(distance)) for ``tau`` of 1 and more.

    Args:
        distance: (Q,), not negative.
        fun: f, one of ``DISTANCE_FUNCTIONS``.
        tau: 0 for f itself.

    Source: arXiv 2101.11952 (GWD) and mmrotate's GDLoss.
    """
    if fun == "log1p":
        distance = distance.log1p()
    elif fun == "sqrt":
        distance = distance.clamp(min=MIN_DISTANCE).sqrt()
    return 1 - 1 / (tau + distance) if tau >= 1 else distance
