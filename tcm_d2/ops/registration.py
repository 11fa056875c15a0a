"""Registers operators with torch.ops.tcm_d2: schema, kernels or reference, fake, gradient.

Each operator has one `Operator` record, in the file of its public function. The compiled extension
tcm_d2._C, loaded here, registers kernels on import. On a device for which it has none the record's
reference implementation is registered, so that callers never ask which of them runs.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

_NAMESPACE = "tcm_d2"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of torch.ops.tcm_d2.

    Attributes:
        name: as in torch.ops.tcm_d2.
        schema: its arguments and results in torch's notation. The public function has checked the
            arguments.
        kernels: where its kernels are below csrc/: "boxes/iou" stands for boxes/iou_cpu.cpp and,
            with a kernel for CUDA, boxes/iou_cuda.cu.
        reference: the same in plain torch, slow; it checks the kernels, and replaces them where
            there are none.
        fake: gives the results' shapes and dtypes, for tracing.
        devices: the device types that the extension has kernels for, if built for them.
        backward: of an operator that can be derived once, the one that takes the gradient of its
            only result and its arguments, and returns the gradients of the arguments.
    """

    name: str
    schema: str
    kernels: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    devices: tuple[str, ...] = ("cpu", "cuda")
    backward: Operator | None = None


class ExtensionStatus(NamedTuple):
    """What the compiled extension offers in this process."""

    loaded: bool
    cpu: bool  # kernels for CPU tensors
    cuda: bool  # kernels for CUDA tensors
    path: str | None
    reason: str  # why not, when something is missing; else "ok"


# All that are registered, by name.
OPERATORS: dict[str, Operator] = {}
# By device type, the operators whose kernels should be in the extension and are not.
_LACKING: dict[str, list[str]] = {"cpu": [], "cuda": []}


def register(operator: Operator) -> Operator:
    """Tell torch all about an operator, and return it; its `backward` is registered already."""
    qualified = f"{_NAMESPACE}::{operator.name}"
    torch.library.define(qualified, operator.schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device_type, lacking in _LACKING.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(qualified, device_type.upper()):
            torch.library.impl(qualified, device_type, operator.reference)
            if device_type in operator.devices:
                lacking.append(operator.name)
    torch.library.register_fake(qualified, operator.fake)
    if operator.backward is not None:
        _register_gradient(operator.name, operator.backward.name)
    OPERATORS[operator.name] = operator
    return operator


def extension_status() -> ExtensionStatus:
    """Return for which devices compiled kernels run; reference implementations do the rest."""
    loaded = _PATH is not None
    cpu, cuda = (loaded and not names for names in _LACKING.values())
    reason = _REASON
    if loaded and not cpu:
        reason = f"older than the sources: no CPU kernels for {', '.join(_LACKING['cpu'])}"
    elif loaded and not cuda:
        reason = "built without CUDA kernels"
    return ExtensionStatus(loaded, cpu, cuda, _PATH, reason)


def _register_gradient(name: str, backward_name: str) -> None:
    backward_op = getattr(torch.ops.tcm_d2, backward_name)

    def save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(backward_op(grad, *ctx.saved_tensors))

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            f"{name} has no second derivative; call backward without create_graph"
        )

    torch.library.register_autograd(f"{_NAMESPACE}::{name}", backward, setup_context=save)
    torch.library.register_autograd(f"{_NAMESPACE}::{backward_name}", refuse)


def _load_extension() -> tuple[str | None, str]:
    """Import tcm_d2._C; return its path, or None with the reason why it can't be used."""
    try:
        module = importlib.import_module("tcm_d2._C")
    except ModuleNotFoundError as error:
        if error.name != "tcm_d2._C":
            raise
        reason = "not built"
    except (ImportError, OSError) as error:
        # Typical: built against another torch version, so that symbols are missing.
        reason = f"built but not loadable ({error})"
    else:
        return module.__file__, "ok"
    warnings.warn(
        f"the compiled operators tcm_d2._C are {reason}: slow plain-torch versions run instead. To "
        "build them (needs a C++ compiler): 'python setup.py build_ext --inplace' in a checkout, "
        "else 'pip install --no-build-isolation --no-deps --force-reinstall --no-binary tcm_d2 "
        "tcm_d2'",
        RuntimeWarning,
        stacklevel=2,
    )
    return None, reason


_PATH, _REASON = _load_extension()
