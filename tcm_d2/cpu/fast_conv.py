"""A 3x3 convolution that trains faster on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tcm_d2.cpu.inference_layers import (
    MIN_PACKED_OUTPUTS,
    compute_dtype,
    is_captured,
    memory_layout,
)
from tcm_d2.cpu.packed import (
    CHANNEL_STEP,
    change_layout,
    conv3x3_packed,
    conv3x3_weight_grad,
    has_fast_kernels,
    pack_conv3x3,
    prefers_conv3x3_packed,
)


class FastConv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 by Winograd's algorithm, in training too.

    Output and all gradients are those of nn.Conv2d, rounding apart. It serves float32 on the CPU;
    everything else, small maps, and graphs that are compiled, exported or traced, are nn.Conv2d's.
    Maps come out in the memory format that they came in with: torch's norms for maps channels last
    sum less exactly on the CPU.
    """

    @classmethod
    def replace_in(cls, module: nn.Module) -> None:
        """Turn the convolutions below ``module`` that it serves into it, parameters and all."""
        for child in module.modules():
            if type(child) is nn.Conv2d and _is_served(child):
                child.__class__ = cls

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of (N, C, H, W)."""
        if not _serves_now(input):
            return super().forward(input)
        out: Tensor = _FastConv3x3.apply(input, self.weight, self.bias)
        return out


class _FastConv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        # Packed weights are large, and after a step they are another's: they are not kept.
        maps = change_layout(x, torch.channels_last)
        out = conv3x3_packed(maps, pack_conv3x3(weight), bias=bias)
        return change_layout(out, memory_layout(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
        grad = change_layout(grad, torch.channels_last)
        if needs_x:
            packed = pack_conv3x3(weight, transposed=True)
            grad_x = change_layout(conv3x3_packed(grad, packed, bias=None), memory_layout(x))
        if needs_weight:
            grad_weight = conv3x3_weight_grad(change_layout(x, torch.channels_last), grad)
        return grad_x, grad_weight, grad_bias


def _is_served(conv: nn.Conv2d) -> bool:
    is_simple = (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
    is_3x3 = (conv.kernel_size, conv.padding, conv.padding_mode) == ((3, 3), (1, 1), "zeros")
    channels = (conv.in_channels, conv.out_channels)
    # Both ways: the gradient of the input is a convolution from outputs to inputs.
    fits = all(c >= MIN_PACKED_OUTPUTS and c % CHANNEL_STEP == 0 for c in channels)
    return is_simple and is_3x3 and fits


def _serves_now(x: Tensor) -> bool:
    if x.device.type != "cpu" or is_captured():
        return False
    if x.dim() != 4 or x.shape[0] == 0 or not prefers_conv3x3_packed(*x.shape[1:]):
        return False
    return x.dtype == compute_dtype(x) == torch.float32 and has_fast_kernels(x.dtype)
