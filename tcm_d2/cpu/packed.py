"""Linear layers and 3x3 convolutions with weights packed beforehand, for the CPU.

Pack a weight once (`pack_linear`, `pack_conv3x3`) and give it to `linear_packed` or
`conv3x3_packed`, which add bias and shortcut and apply ReLU on the way out. Maps are float32 or
bfloat16, sums float32. No gradients flow.

Shape letters: M rows, D inputs, N images, C input channels, K outputs, H x W the map.
"""

from __future__ import annotations

import platform
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tcm_d2.cpu.operators import has_kernels
from tcm_d2.cpu.reference_packed import into_panels

# Inputs of `conv3x3_packed` come in multiples of this.
CHANNEL_STEP = 16
# Where `conv3x3_packed` is worth its while. Smaller maps gain next to nothing, and boxes on the
# coarse levels that they are magnify rounding most. With fewer channels a plain sum is more exact.
MIN_CONV3X3_CELLS = 1024
MIN_CONV3X3_CHANNELS = 64


class PackedWeight(NamedTuple):
    """A weight as the kernels read it.

    Attributes:
        panels: laid out as `tcm_d2.cpu.reference_packed` says.
        num_outputs: K; the last panel is padded.
    """

    panels: Tensor
    num_outputs: int


def has_fast_kernels(dtype: torch.dtype) -> bool:
    """Return whether this process has kernels that are faster than torch's for maps of a dtype.

    They are for float32 and bfloat16 on x86-64 with AVX2 or AVX-512; processors with AMX have
    faster ones for bfloat16. ``ATEN_CPU_CAPABILITY=default`` turns them off along with torch's own.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    capability = torch.backends.cpu.get_cpu_capability()
    if not is_x86 or capability not in ("AVX2", "AVX512") or not has_kernels():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and not _processor_has("amx_tile"))


def factor_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what to pack a linear layer in for maps of a dtype: bfloat16 where that is faster."""
    has_products = _processor_has("avx512_bf16") and has_fast_kernels(dtype)
    return torch.bfloat16 if dtype == torch.bfloat16 and has_products else torch.float32


def prefers_conv3x3_packed(channels: int, height: int, width: int) -> bool:
    """Return whether maps are of sizes for which `conv3x3_packed` is faster and about as exact."""
    is_large = height * width >= MIN_CONV3X3_CELLS and channels >= MIN_CONV3X3_CHANNELS
    return is_large and channels % CHANNEL_STEP == 0


def _processor_has(feature: str) -> bool:
    # torch asks the processor, but says so only in private; releases before 2.6 lack some.
    ask = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return ask is not None and bool(ask())


@torch.no_grad()
def pack_linear(weight: Tensor, *, dtype: torch.dtype = torch.float32) -> PackedWeight:
    """Pack the weight (K, D) of a linear layer or, flattened, of a 1x1 convolution.

    Args:
        weight: floating point.
        dtype: of the factors, see `factor_dtype`; bfloat16 goes with maps in bfloat16 only.
    """
    panels = into_panels(weight.to(dtype))
    if dtype == torch.bfloat16:
        padded = F.pad(panels, (0, 0, 0, panels.shape[1] % 2))
        pairs = padded.view(len(padded), padded.shape[1] // 2, 2, padded.shape[2])
        panels = pairs.transpose(-1, -2).contiguous()
    return PackedWeight(panels, weight.shape[0])


@torch.no_grad()
def pack_conv3x3(weight: Tensor, *, transposed: bool = False) -> PackedWeight:
    """Pack the weight (K, C, 3, 3) of a convolution; four times its size.

    Args:
        weight: floating point.
        transposed: pack the convolution from K to C channels that gives the gradient of the input.
    """
    panels = torch.ops.tcm_d2.pack_conv3x3(weight.float(), transposed)
    return PackedWeight(panels, weight.shape[1 if transposed else 0])


def linear_packed(
    x: Tensor,
    weight: PackedWeight,
    *,
    bias: Tensor | None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return ``x @ weight.T + bias + residual``, with ReLU where asked for: (M, K) like ``x``.

    Args:
        x: (M, D) float32 or bfloat16.
        weight: from `pack_linear`.
        bias: (K,) float32.
        residual: (M, K) of the dtype of ``x``.
        relu: whether to clamp at zero.

    Raises:
        RuntimeError: a shape or dtype does not fit.
    """
    out: Tensor = torch.ops.tcm_d2.linear_packed(
        x, weight.panels, bias, residual, relu, weight.num_outputs
    )
    return out


def conv3x3_packed(
    x: Tensor, weight: PackedWeight, *, bias: Tensor | None, relu: bool = False
) -> Tensor:
    """Return the 3x3 convolution of ``x`` with stride 1 and a border of one zero: (N, K, H, W).

    By Winograd's algorithm F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308) at points that lose
    hardly any digits: the error is about that of a plain sum in float32. A value that is not
    finite spreads over the outputs of its tile of 4x4.

    Args:
        x: (N, C, H, W) float32 or bfloat16, C a multiple of CHANNEL_STEP; fastest channels last.
        weight: from `pack_conv3x3`.
        bias: (K,) float32.
        relu: whether to clamp at zero.

    Returns:
        Like ``x``, channels last.

    Raises:
        RuntimeError: a shape or dtype does not fit.
    """
    out: Tensor = torch.ops.tcm_d2.conv3x3_packed(x, weight.panels, bias, relu, weight.num_outputs)
    return out


def conv3x3_weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient (K, C, 3, 3) of a convolution's weight.

    By the transpose of Winograd's algorithm; fastest with maps channels last.

    Args:
        x: (N, C, H, W) float32, what `conv3x3_packed` was given; C a multiple of CHANNEL_STEP.
        grad: (N, K, H, W) float32, of what it returned; K a multiple of CHANNEL_STEP.

    Raises:
        RuntimeError: a shape or dtype does not fit.
    """
    out: Tensor = torch.ops.tcm_d2.conv3x3_weight_grad(x, grad)
    return out


def group_norm_relu(
    x: Tensor, num_groups: int, *, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> Tensor:
    """Return the maps normalized group by group and clamped at zero if ``relu``; channels last.

    As exact as torch's for contiguous maps; torch's for maps channels last is not. No gradients
    flow.

    Args:
        x: (N, C, H, W) float32 or bfloat16; fastest channels last.
        num_groups: divides C.
        weight, bias: (C,) float32.
        eps: added to the variance.
        relu: whether ReLU comes last.

    Raises:
        RuntimeError: a shape or dtype does not fit.
    """
    out: Tensor = torch.ops.tcm_d2.group_norm_relu(x, num_groups, weight, bias, eps, relu)
    return out


def change_layout(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Return maps in a memory format, faster than torch's copy on the CPU.

    Args:
        x: (N, C, H, W); other dtypes than float32 are left to torch.
        layout: torch.contiguous_format or torch.channels_last.
    """
    is_served = x.dim() == 4 and x.dtype == torch.float32 and x.device.type == "cpu"
    if x.is_contiguous(memory_format=layout) or not is_served:
        return x.contiguous(memory_format=layout)
    out: Tensor = torch.ops.tcm_d2.change_layout(x, layout == torch.channels_last)
    return out
