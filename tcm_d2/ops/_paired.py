"""Registration of differentiable measures of aligned pairs of boxes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tcm_d2.ops.registration import Operator, register


def register_paired(
    name: str,
    *,
    kernels: str,
    reference: Callable[[Tensor, Tensor], Tensor],
    reference_backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> None:
    """Register a measure (P,) of boxes (P, 5) and (P, 5), and the operator that derives it."""
    backward = register(
        Operator(
            name=f"{name}_backward",
            schema="(Tensor grad_iou, Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)",
            kernels=kernels,
            reference=reference_backward,
            fake=_fake_backward,
        )
    )
    register(
        Operator(
            name=name,
            schema="(Tensor boxes1, Tensor boxes2) -> Tensor",
            kernels=kernels,
            reference=reference,
            fake=fake_paired,
            backward=backward,
        )
    )


def fake_paired(first: Tensor, second: Tensor) -> Tensor:
    """Return a value for each aligned pair, without values."""
    torch._check(first.shape[0] == second.shape[0])
    return first.new_empty((first.shape[0],))


def _fake_backward(grad_iou: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    return boxes1.new_empty(boxes1.shape), boxes2.new_empty(boxes2.shape)
