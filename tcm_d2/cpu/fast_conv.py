"""3x3 convolutions that train faster on the CPU, by Winograd's algorithm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tcm_d2.cpu.inference_layers import (
    MIN_PACKED_OUTPUTS,
    compute_dtype,
    is_captured,
    is_packable,
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


def conv3x3(conv: nn.Conv2d, x: Tensor) -> Tensor | None:
    """Return the 3x3 convolution of (N, C, H, W) with its gradients; None where torch is to do it.

    Output and all gradients are those of nn.Conv2d, rounding apart. Done is float32 on the CPU, not
    small maps, and no graphs that are compiled, exported or traced. Maps come out in the memory
    format that they came in with: torch's norms for maps channels last sum less exactly on the CPU.
    """
    if not (_can_train(conv) and _is_faster_for(x)):
        return None
    out: Tensor = _FastConv3x3.apply(x, conv.weight, conv.bias)
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


def _can_train(conv: nn.Conv2d) -> bool:
    # The gradient of the input is a convolution from outputs to inputs.
    fits_back = conv.in_channels >= MIN_PACKED_OUTPUTS and conv.out_channels % CHANNEL_STEP == 0
    return conv.kernel_size == (3, 3) and is_packable(conv) and fits_back


def _is_faster_for(x: Tensor) -> bool:
    if x.device.type != "cpu" or is_captured():
        return False
    if x.dim() != 4 or x.shape[0] == 0 or not prefers_conv3x3_packed(*x.shape[1:]):
        return False
    return x.dtype == compute_dtype(x) == torch.float32 and has_fast_kernels(x.dtype)
