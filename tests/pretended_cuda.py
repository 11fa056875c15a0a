"""Tensors that say they are on a GPU and compute on the CPU: what mixes the two devices fails.

Unlike fake tensors these have values, so that sizes may depend on them (candidates, NMS, positive
anchors). What needs a driver cannot be pretended: the backward pass, whose engine asks for the
device's context, streams, and memory statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

_DEVICE = torch.device("cuda:0")
_ATEN = torch.ops.aten
# These take tensors of both devices: copies, and indices from the host.
_MIXING = {_ATEN.copy_, _ATEN._to_copy, _ATEN.index, _ATEN.index_put, _ATEN.index_put_}


class PretendedCUDA(Tensor):
    """A CPU tensor that reports cuda:0 as its device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedCUDA:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=_DEVICE,
        )
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:
        return f"PretendedCUDA({self.inner!r})"


class _Factories(TorchDispatchMode):
    """Makes new tensors pretended ones where a GPU is asked for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [t for t in tensors if isinstance(t, PretendedCUDA)]
    here = [t for t in tensors if not isinstance(t, PretendedCUDA) and t.dim() > 0]
    if there and here and func.overloadpacket not in _MIXING:
        shapes = ", ".join(str(tuple(t.shape)) for t in here)
        raise RuntimeError(f"{func}: tensors on cuda:0 meet tensors on cpu of shape {shapes}")
    device = kwargs.get("device")
    goes_to_cuda = bool(there) if device is None else torch.device(device).type == "cuda"
    if func.overloadpacket is _ATEN.copy_:
        goes_to_cuda = isinstance(args[0], PretendedCUDA)
    plain_args, plain_kwargs = tree_map_only(PretendedCUDA, lambda t: t.inner, (args, kwargs))
    if device is not None:
        plain_kwargs["device"] = torch.device("cpu")
    if plain_kwargs.get("pin_memory"):
        plain_kwargs["pin_memory"] = False
    result = func(*plain_args, **plain_kwargs)
    if not goes_to_cuda:
        return result
    wrapped = tree_map_only(Tensor, PretendedCUDA, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


def pretend_cuda(model: nn.Module) -> nn.Module:
    """Turn parameters and buffers of ``model`` into pretended ones, in place."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fake = PretendedCUDA(parameter.detach())
                module._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = PretendedCUDA(buffer)
    return model


@contextmanager
def pretended_cuda() -> Iterator[None]:
    """While open, tensors made or moved "on cuda" are pretended ones."""
    torch._C._ensureCUDADeviceGuardSet()
    lifted = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") goes by the CPU
    with (
        pytest.MonkeyPatch.context() as patch,
        torch.backends.cudnn.flags(enabled=False),  # its operators have no kernels for the CPU
        sdpa_kernel(SDPBackend.MATH),  # likewise the others
        _Factories(),
    ):
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)  # would look for a driver
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)
