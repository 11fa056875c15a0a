"""What a head asks of the loss of its boxes, and how it calls it.

Letters: Q pairs of a predicted box and its ground truth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from detectron2.config import CfgNode
from torch import Tensor

# What `BoxLoss.takes` may say.
BOXES, DELTAS, BOXES_AND_DELTAS = "boxes", "deltas", "boxes and deltas"

# The predictions (Q, 5) and their targets (Q, 5).
Pair = tuple[Tensor, Tensor]


class BoxLoss(ABC):
    """A loss of aligned pairs of boxes, unreduced.

    A subclass registered in ``ROTATED_LOSS_REGISTRY`` can be chosen by its name in
    ``MODEL.ROTATED_HEAD.BOX_LOSS``. Then ``weight`` is ``MODEL.ROTATED_HEAD.BOX_LOSS_WEIGHT``, and
    the other constructor arguments come from the section ``MODEL.BOX_LOSS.<its name>``.

    Attributes:
        takes: "boxes", "deltas", or "boxes and deltas" for a loss called with the boxes and then
            the deltas. Deltas are dx, dy, dw, dh, da as in ``DeltaBoxCoder``: of the anchor, or of
            the square of one stride at the location where a head has points.
        defaults: the arguments besides ``weight``, with what the section holds at first.
        weight: factor of the summed loss.
    """

    takes: ClassVar[str] = BOXES
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, weight: float) -> None:
        self.weight = weight

    @abstractmethod
    def __call__(self, *pairs: Tensor) -> Tensor:
        """Return the losses (Q,), or (Q, 5) with the numbers of a pair apart.

        Boxes are (cx, cy, w, h, angle_deg), counter-clockwise; both of a pair in one unit and
        frame. Half precision is computed in float32. Gradients flow to the prediction.
        """

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """Add this loss's section to ``cfg`` in place."""
        if cls.defaults:
            sections = cfg.MODEL.setdefault("BOX_LOSS", CfgNode())
            sections[cls.__name__] = CfgNode({k.upper(): v for k, v in cls.defaults.items()})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        section = cfg.MODEL.BOX_LOSS[cls.__name__] if cls.defaults else {}
        own = {name: section[name.upper()] for name in cls.defaults}
        return {**own, "weight": cfg.MODEL.ROTATED_HEAD.BOX_LOSS_WEIGHT}


def box_loss_sum(
    loss: BoxLoss,
    *,
    boxes: Callable[[], Pair],
    deltas: Callable[[], Pair],
    pair_weights: Tensor | None = None,
) -> Tensor:
    """Return the weighted sum of ``loss`` over all pairs, a scalar.

    Args:
        loss: what to sum, any callable with ``takes`` and ``weight`` as in ``BoxLoss``.
        boxes: returns predicted and target boxes; called only if the loss takes them.
        deltas: returns predicted and target deltas, likewise.
        pair_weights: (Q,) factor of each pair; None for 1.

    Raises:
        ValueError: ``loss.takes`` is unknown, or the loss does not return one row for each pair.
    """
    name = type(loss).__name__
    if loss.takes == BOXES:
        arguments = boxes()
    elif loss.takes == DELTAS:
        arguments = deltas()
    elif loss.takes == BOXES_AND_DELTAS:
        arguments = (*boxes(), *deltas())
    else:
        known = ", ".join(repr(takes) for takes in (BOXES, DELTAS, BOXES_AND_DELTAS))
        raise ValueError(f"{name}.takes: expected one of {known}, got {loss.takes!r}")
    values = loss(*arguments)
    if values.dim() not in (1, 2) or len(values) != len(arguments[0]):
        raise ValueError(
            f"{name}: expected one loss for each of {len(arguments[0])} pairs, got a tensor of "
            f"shape {tuple(values.shape)}; a loss must not reduce over the pairs"
        )
    if pair_weights is not None:
        values = values * (pair_weights if values.dim() == 1 else pair_weights[:, None])
    return loss.weight * values.sum()


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ValueError: it is not.
    """
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value
