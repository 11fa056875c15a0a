"""Convolution and BatchNorm as one convolution in evaluation.

With fixed statistics BatchNorm is a scale and a shift per channel, which the convolution's weight
and bias can take over: a read and a write of every map less. The parameters and the state dict
stay as they are; the folded tensors are kept beside them until one of their sources changes, see
`KeptTensor`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from tcm_d2.structures.kept_tensor import KeptTensor

FixedNorm = nn.BatchNorm2d | FrozenBatchNorm2d


class FoldedConvolutions:
    """Run pairs of convolution and BatchNorm folded, and keep what was folded.

    Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, torch.dtype, torch.memory_format], KeptTensor] = {}

    def __call__(self, conv: nn.Conv2d, norm: FixedNorm, x: Tensor) -> Tensor:
        """Return ``norm(conv(x))``, rounding apart.

        A BatchNorm in training mode wants the statistics of the batch and is not folded.

        Args:
            conv: without bias and with zeros as padding, as CLIP's are.
            norm: what follows it.
            x: (N, I, H, W).
        """
        if isinstance(norm, nn.BatchNorm2d) and norm.training:
            return norm(conv(x))
        weight, bias = self._fold_once(conv, norm, x)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    def clear(self) -> None:
        """Forget everything that was folded."""
        self._kept.clear()

    def __reduce__(self) -> tuple[type[FoldedConvolutions], tuple[()]]:
        return FoldedConvolutions, ()

    def _fold_once(self, conv: nn.Conv2d, norm: FixedNorm, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype, layout = compute_dtype(x), memory_layout(x)
        if torch.compiler.is_compiling():  # a compiler sees through the fold
            return _fold(conv, norm, dtype, layout)
        sources = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var]
        kept = self._kept.setdefault((id(conv), dtype, layout), KeptTensor())
        return kept.get(sources, lambda: _fold(conv, norm, dtype, layout))


def memory_layout(x: Tensor) -> torch.memory_format:
    """Return the memory format of maps (N, C, H, W)."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


@torch.no_grad()
def _fold(
    conv: nn.Conv2d, norm: FixedNorm, dtype: torch.dtype, layout: torch.memory_format
) -> tuple[Tensor, Tensor]:
    # BatchNorm computes in float32, whatever its parameters are.
    exact = torch.promote_types(conv.weight.dtype, torch.float32)
    scale = norm.weight.to(exact) * (norm.running_var.to(exact) + norm.eps).rsqrt()
    weight = conv.weight.to(exact) * scale[:, None, None, None]
    bias = norm.bias.to(exact) - norm.running_mean.to(exact) * scale
    return weight.to(dtype).contiguous(memory_format=layout), bias.to(dtype)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that a convolution of ``x`` runs in."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype
