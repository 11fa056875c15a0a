"""Declares the annex's operators of torch.ops.tcm_d2: schemas, references, fakes.

The compiled extension has their CPU kernels. The plain-torch reference implementations of
`reference_packed` run on every other device, and where the extension is not built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tcm_d2.cpu import reference_packed
from tcm_d2.ops import extension_status  # importing it loads the extension, with the kernels

_NAMESPACE = "tcm_d2"


class Operator(NamedTuple):
    """What torch is told about an operator."""

    schema: str
    reference: Callable[..., Tensor]
    fake: Callable[..., Tensor]


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
    "linear_packed": Operator(
        "(Tensor x, Tensor packed, Tensor? bias, Tensor? residual, bool relu, int columns)"
        " -> Tensor",
        reference_packed.linear_packed,
        _fake_linear_packed,
    ),
    "conv3x3_packed": Operator(
        "(Tensor x, Tensor packed, Tensor? bias, bool relu, int columns) -> Tensor",
        reference_packed.conv3x3_packed,
        _fake_conv3x3_packed,
    ),
    "pack_conv3x3": Operator(
        "(Tensor weight, bool transposed) -> Tensor",
        reference_packed.pack_conv3x3,
        _fake_pack_conv3x3,
    ),
    "conv3x3_weight_grad": Operator(
        "(Tensor x, Tensor grad) -> Tensor",
        reference_packed.conv3x3_weight_grad,
        _fake_conv3x3_weight_grad,
    ),
    "change_layout": Operator(
        "(Tensor x, bool channels_last) -> Tensor",
        reference_packed.change_layout,
        _fake_change_layout,
    ),
    "group_norm_relu": Operator(
        "(Tensor x, int groups, Tensor weight, Tensor bias, float eps, bool relu) -> Tensor",
        reference_packed.group_norm_relu,
        _fake_group_norm_relu,
    ),
}


def _register() -> bool:
    """Tell torch, and return whether the extension has all of them for the CPU."""
    has_all = extension_status().loaded
    for name, operator in OPERATORS.items():
        qualified = f"{_NAMESPACE}::{name}"
        torch.library.define(qualified, operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
        for key, device_type in (("CPU", "cpu"), ("CUDA", "cuda")):
            if not torch._C._dispatch_has_kernel_for_dispatch_key(qualified, key):
                torch.library.impl(qualified, device_type, operator.reference)
                has_all &= key != "CPU"
        torch.library.register_fake(qualified, operator.fake)
    return has_all


_HAS_KERNELS = _register()


def has_kernels() -> bool:
    """Return whether the compiled extension has all these operators for the CPU."""
    return _HAS_KERNELS
