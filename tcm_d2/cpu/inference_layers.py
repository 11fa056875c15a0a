"""Convolutions and linear layers at their fastest in evaluation: norms folded, weights packed.

With fixed statistics BatchNorm is a scale and a shift per channel, which the convolution's weight
and bias can take over: a read and a write of every map less. On the CPU the weight is then packed
for the kernels of `tcm_d2.cpu.packed`, which add the shortcut and apply ReLU on the way out.

Parameters stay as they are; what was folded and packed is kept beside them until one of its sources
changes, see `KeptTensor`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from tcm_d2.cpu.packed import (
    CHANNEL_STEP,
    PackedWeight,
    conv3x3_packed,
    factor_dtype,
    group_norm_relu,
    has_fast_kernels,
    linear_packed,
    pack_conv3x3,
    pack_linear,
    prefers_conv3x3_packed,
)
from tcm_d2.layers.kept_tensor import KeptTensor
from tcm_d2.layers.sync_norm import SyncBatchNorm2d

# nn.BatchNorm2d or Detectron2's FrozenBatchNorm2d, which declares no types.
FixedNorm: TypeAlias = Any
Value = TypeVar("Value")
# Fewer outputs leave most of a panel empty: torch is then as fast.
MIN_PACKED_OUTPUTS = 32


class _Plain(NamedTuple):
    weight: Tensor
    bias: Tensor | None


class _Packed(NamedTuple):
    weight: PackedWeight
    bias: Tensor | None


class InferenceLayers:
    """Run layers without gradients, and keep what was folded and packed.

    Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, KeptTensor] = {}

    def conv(
        self,
        conv: nn.Conv2d,
        x: Tensor,
        *,
        norm: FixedNorm | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Return ``norm(conv(x)) + residual``, clamped at zero if ``relu``; rounding apart.

        A BatchNorm in training mode wants the statistics of the batch and is not folded.

        Args:
            conv: any; what a subclass does beside the convolution is left out.
            x: (N, I, H, W), left as it is.
            norm: what follows the convolution.
            residual: (N, O, H, W), left as it is.
            relu: whether ReLU comes last.
        """
        uses_batch = isinstance(norm, nn.BatchNorm2d) and norm.training
        if norm is not None and (uses_batch or conv.padding_mode != "zeros"):
            return _finish(norm(nn.Conv2d.forward(conv, x)), residual, relu)
        dtype = compute_dtype(x)
        kernel = _packed_kernel(conv, x, dtype)
        if kernel is None or (residual is not None and kernel != (1, 1)):
            if norm is None:
                return _finish(nn.Conv2d.forward(conv, x), residual, relu)
            plain = self._fold_once(conv, norm, dtype, memory_layout(x))
            out = F.conv2d(
                x, plain.weight, plain.bias, conv.stride, conv.padding, conv.dilation, conv.groups
            )
            return _finish(out, residual, relu)
        x = x.to(dtype)
        weight, bias = self._pack_once(conv, norm, dtype)
        if kernel == (3, 3):
            return conv3x3_packed(x, weight, bias=bias, relu=relu)
        rows, shape_NHW = _rows_of(x), (x.shape[0], *x.shape[2:])
        shortcut = None if residual is None else _rows_of(residual.to(dtype))
        out = linear_packed(rows, weight, bias=bias, residual=shortcut, relu=relu)
        return out.view(*shape_NHW, out.shape[1]).permute(0, 3, 1, 2)

    def linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """Return ``layer(x)``, rounding apart, for ``x`` (..., I)."""
        dtype = compute_dtype(x)
        if x.dim() < 2 or layer.out_features < MIN_PACKED_OUTPUTS or not _can_pack(x, dtype):
            return nn.Linear.forward(layer, x)
        weight, bias = self._pack_once(layer, None, dtype)
        out = linear_packed(x.to(dtype).flatten(0, -2), weight, bias=bias)
        return out.view(*x.shape[:-1], out.shape[1])

    def group_norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """Return ``relu(norm(x))``, rounding apart."""
        can_serve = x.dim() == 4 and norm.affine and norm.weight.dtype == torch.float32
        if not can_serve or not _can_pack(x, x.dtype):
            return F.relu_(norm(x))
        return group_norm_relu(
            x, norm.num_groups, weight=norm.weight, bias=norm.bias, eps=norm.eps, relu=True
        )

    def keep(self, key: Hashable, sources: Iterable[Tensor], compute: Callable[[], Value]) -> Value:
        """Return what `KeptTensor.get` does for the one of this name."""
        return self._kept.setdefault(key, KeptTensor()).get(sources, compute)

    def clear(self) -> None:
        """Forget everything that was folded, packed and kept."""
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[type[InferenceLayers], tuple[()]]:
        return InferenceLayers, ()

    def _fold_once(
        self, conv: nn.Conv2d, norm: FixedNorm, dtype: torch.dtype, layout: torch.memory_format
    ) -> _Plain:
        def fold() -> _Plain:
            weight, bias = _fold(conv, norm)
            weight = weight.to(dtype).contiguous(memory_format=layout)
            return _Plain(weight, None if bias is None else bias.to(dtype))

        return self.keep((id(conv), dtype, layout), _sources(conv, norm), fold)

    def _pack_once(
        self, layer: nn.Conv2d | nn.Linear, norm: FixedNorm | None, dtype: torch.dtype
    ) -> _Packed:
        is_3x3 = layer.weight.shape[2:] == (3, 3)
        factors = torch.float32 if is_3x3 else factor_dtype(dtype)

        def pack() -> _Packed:
            weight, bias = _fold(layer, norm)
            if is_3x3:
                packed = pack_conv3x3(weight)
            else:
                packed = pack_linear(weight.flatten(1), dtype=factors)
            return _Packed(packed, None if bias is None else bias.float())

        return self.keep((id(layer), factors), _sources(layer, norm), pack)


def memory_layout(x: Tensor) -> torch.memory_format:
    """Return the memory format of maps (N, C, H, W)."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that a convolution of ``x`` runs in."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def is_packable(conv: nn.Conv2d) -> bool:
    """Return whether the kernels on packed weights can do this convolution, on some maps."""
    is_simple = (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
    if not is_simple or conv.out_channels < MIN_PACKED_OUTPUTS:
        return False
    if conv.kernel_size == (1, 1):
        return conv.padding == (0, 0)
    is_3x3 = (conv.kernel_size, conv.padding, conv.padding_mode) == ((3, 3), (1, 1), "zeros")
    return is_3x3 and conv.in_channels % CHANNEL_STEP == 0


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm that `InferenceLayers.conv` can fold."""
    if type(module) not in (nn.BatchNorm2d, SyncBatchNorm2d, FrozenBatchNorm2d):
        return False
    return module.weight is not None and module.running_mean is not None


def _packed_kernel(conv: nn.Conv2d, x: Tensor, dtype: torch.dtype) -> tuple[int, ...] | None:
    """Return the kernel's size if packed weights fit this convolution, else None."""
    if x.dim() != 4 or not is_packable(conv) or not _can_pack(x, dtype):
        return None
    if conv.kernel_size == (3, 3) and not prefers_conv3x3_packed(*x.shape[1:]):
        return None
    return conv.kernel_size


def is_float32_as_fast(x: Tensor) -> bool:
    """Return whether 3x3 convolutions under autocast to bfloat16 may as well run in float32.

    They do where ours are used: these multiply in float32 anyway.
    """
    return compute_dtype(x) == torch.bfloat16 and _can_pack(x, torch.bfloat16)


def is_captured() -> bool:
    """Return whether a graph is compiled, exported or traced.

    It is to hold operators that others know.
    """
    is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return torch.compiler.is_compiling() or bool(is_traced)


def _can_pack(x: Tensor, dtype: torch.dtype) -> bool:
    return x.device.type == "cpu" and not is_captured() and has_fast_kernels(dtype)


def _rows_of(x: Tensor) -> Tensor:
    """Return the cells of maps (N, C, H, W) as rows (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _finish(out: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if residual is not None:
        out = out.add_(residual)
    return F.relu_(out) if relu else out


def _sources(layer: nn.Conv2d | nn.Linear, norm: FixedNorm | None) -> list[Tensor]:
    tensors = [layer.weight, layer.bias]
    if norm is not None:
        tensors += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    return [tensor for tensor in tensors if tensor is not None]


@torch.no_grad()
def _fold(layer: nn.Conv2d | nn.Linear, norm: FixedNorm | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of ``layer`` and ``norm`` as one."""
    if norm is None:
        return layer.weight, layer.bias
    # BatchNorm computes in float32, whatever its parameters are.
    exact = torch.promote_types(layer.weight.dtype, torch.float32)
    scale = norm.weight.to(exact) * (norm.running_var.to(exact) + norm.eps).rsqrt()
    weight = layer.weight.to(exact) * scale[:, None, None, None]
    own_bias = 0 if layer.bias is None else layer.bias.to(exact)
    return weight, norm.bias.to(exact) + (own_bias - norm.running_mean.to(exact)) * scale
