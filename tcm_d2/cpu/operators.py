"""Declares the annex's operators of torch.ops.tcm_d2: schemas, references, fakes.

The compiled extension has their CPU kernels. The plain-torch reference implementations of
`reference_packed` run on every other device, and where the extension is not built.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.cpu import reference_packed
from tcm_d2.ops.registration import Operator, extension_status, register


def _fake_linear_packed(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    columns: int,
) -> Tensor:
    return x.new_empty((x.shape[0], columns))


def _fake_conv3x3_packed(
    x: Tensor, packed: Tensor, bias: Tensor | None, relu: bool, columns: int
) -> Tensor:
    out = x.new_empty((x.shape[0], columns, x.shape[2], x.shape[3]))
    return out.to(memory_format=torch.channels_last)


def _fake_pack_conv3x3(weight: Tensor, transposed: bool) -> Tensor:
    outputs, inputs = weight.shape[:2] if not transposed else (weight.shape[1], weight.shape[0])
    num_panels = -(-outputs // reference_packed.PANEL)
    return weight.new_empty((num_panels, reference_packed.POINTS, inputs, reference_packed.PANEL))


def _fake_conv3x3_weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    return x.new_empty((grad.shape[1], x.shape[1], 3, 3))


def _fake_change_layout(x: Tensor, channels_last: bool) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty_like(x, memory_format=layout)


def _fake_group_norm_relu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


OPERATORS = {
    operator.name: register(operator)
    for operator in (
        Operator(
            name="linear_packed",
            schema=(
                "(Tensor x, Tensor packed, Tensor? bias, Tensor? residual, bool relu, int columns)"
                " -> Tensor"
            ),
            kernels="cpu_layers/conv",
            reference=reference_packed.linear_packed,
            fake=_fake_linear_packed,
            devices=("cpu",),
        ),
        Operator(
            name="conv3x3_packed",
            schema="(Tensor x, Tensor packed, Tensor? bias, bool relu, int columns) -> Tensor",
            kernels="cpu_layers/conv",
            reference=reference_packed.conv3x3_packed,
            fake=_fake_conv3x3_packed,
            devices=("cpu",),
        ),
        Operator(
            name="pack_conv3x3",
            schema="(Tensor weight, bool transposed) -> Tensor",
            kernels="cpu_layers/conv_training",
            reference=reference_packed.pack_conv3x3,
            fake=_fake_pack_conv3x3,
            devices=("cpu",),
        ),
        Operator(
            name="conv3x3_weight_grad",
            schema="(Tensor x, Tensor grad) -> Tensor",
            kernels="cpu_layers/conv_training",
            reference=reference_packed.conv3x3_weight_grad,
            fake=_fake_conv3x3_weight_grad,
            devices=("cpu",),
        ),
        Operator(
            name="change_layout",
            schema="(Tensor x, bool channels_last) -> Tensor",
            kernels="cpu_layers/change_layout",
            reference=reference_packed.change_layout,
            fake=_fake_change_layout,
            devices=("cpu",),
        ),
        Operator(
            name="group_norm_relu",
            schema=(
                "(Tensor x, int groups, Tensor weight, Tensor bias, float eps, bool relu) -> Tensor"
            ),
            kernels="cpu_layers/group_norm",
            reference=reference_packed.group_norm_relu,
            fake=_fake_group_norm_relu,
            devices=("cpu",),
        ),
    )
}


def has_kernels() -> bool:
    """Return whether the compiled extension has all these operators for the CPU."""
    return extension_status().cpu
