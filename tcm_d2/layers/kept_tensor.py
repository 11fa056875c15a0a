"""Keep a tensor that depends on weights only until one of these weights changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

Value = TypeVar("Value")

_num_optimizer_steps = 0
_is_counting_steps = False


class _Source(NamedTuple):
    """A weight as it was.

    Attributes:
        values: an alias of the weight. It holds the memory, so that no other tensor can come to
            lie at the same address.
        version: torch's count of in-place writes.
    """

    values: Tensor
    version: int

    def is_still(self, tensor: Tensor) -> bool:
        """Return whether ``tensor`` is this weight, unchanged."""
        return (
            tensor.data_ptr() == self.values.data_ptr()
            and tensor._version == self.version
            and tensor.dtype == self.values.dtype
            and tensor.device == self.values.device
            and tensor.shape == self.values.shape
        )


class _Kept(NamedTuple):
    value: Any
    sources: list[_Source]
    num_optimizer_steps: int

    def is_from(self, tensors: list[Tensor]) -> bool:
        """Return whether the value was computed from these tensors as they are now."""
        return (
            self.num_optimizer_steps == _num_optimizer_steps
            and len(self.sources) == len(tensors)
            and all(s.is_still(t) for s, t in zip(self.sources, tensors, strict=True))
        )


class KeptTensor:
    """A value computed from weights, and computed again when they have changed.

    Noticed are in-place writes (``copy_``, ``load_state_dict``, averaging), tensors put in the
    place of others (moves to another device or dtype, ``load_state_dict(assign=True)``), and the
    steps of every optimizer in the process; torch's fused optimizers write in place without
    counting it. Not noticed are writes through ``tensor.data`` and through memory shared with
    numpy, which torch does not count either: call `forget` after these.

    Copies and pickles of it are empty. Threads may share it: at worst each computes the value.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def get(self, sources: Iterable[Tensor], compute: Callable[[], Value]) -> Value:
        """Return what ``compute`` returns for the present ``sources``, without gradients.

        It is computed outside autocast, so that it does not depend on who asks first.

        Args:
            sources: all tensors that the value depends on.
            compute: makes the value, a tensor or a tuple of several.
        """
        tensors = list(sources)
        if any(tensor.is_inference() for tensor in tensors):
            # These have no count of writes. Their owner chose inference mode for good.
            return _compute_plainly(compute, tensors)
        _count_optimizer_steps()
        # One reference for the whole call: another thread may forget meanwhile.
        kept = self._kept
        if kept is None or not kept.is_from(tensors):
            kept = _Kept(
                value=_compute_plainly(compute, tensors),
                sources=[_Source(tensor.detach(), tensor._version) for tensor in tensors],
                num_optimizer_steps=_num_optimizer_steps,
            )
            self._kept = kept
        value: Value = kept.value
        return value

    def forget(self) -> None:
        """Drop the value and the memory of its sources."""
        self._kept = None

    def __reduce__(self) -> tuple[type[KeptTensor], tuple[()]]:
        return KeptTensor, ()


def _compute_plainly(compute: Callable[[], Value], sources: list[Tensor]) -> Value:
    """Return ``compute()`` without gradients and autocast, usable outside inference mode, too."""
    kinds = {tensor.device.type for tensor in sources} - {"meta"}
    with torch.inference_mode(False), torch.no_grad(), ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        return compute()


def _count_optimizer_steps() -> None:
    """See to it that the steps of all optimizers are counted from now on."""
    global _is_counting_steps
    if not _is_counting_steps:
        register_optimizer_step_post_hook(_count_step)
        _is_counting_steps = True


def _count_step(_optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    global _num_optimizer_steps
    _num_optimizer_steps += 1
