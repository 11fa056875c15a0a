"""Activation checkpointing that leaves BatchNorm's running statistics right.

Two grains: a whole part of the network, which halves the memory for a third more time
(`run_recomputed`), and the norm between two convolutions, which is nearly free (`run_past_norm`).

In the backward pass a checkpointed part runs a second time. BatchNorm would then count the batch
twice; here the second run normalises by the batch as the first did, and counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_recomputed(
    function: Callable[..., Any], *inputs: Any, norms_of: nn.Module, draws_numbers: bool = True
) -> Any:
    """Return ``function(*inputs)``, keeping only the inputs for the backward pass.

    Random numbers (dropout) are the same in both runs. A graph that is being compiled is left
    alone: the compiler chooses by itself what to recompute.

    Args:
        function: of tensors; all its BatchNorms are below ``norms_of``.
        inputs: its arguments.
        norms_of: a module.
        draws_numbers: whether random numbers may be drawn; to keep their state costs a little.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*inputs)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), without_counting(norms_of)

    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=draws_numbers,
        context_fn=contexts,
    )


def run_past_norm(
    function: Callable[[Tensor], Tensor], x: Tensor, *, norms_of: nn.Module
) -> Tensor:
    """Return ``function(x)``, keeping ``x`` alone where norm and ReLU would keep two maps.

    A norm keeps its input and the convolution behind its ReLU keeps the ReLU's output. The latter
    is made again from the former in the backward pass, by the same operations on the same numbers.
    What ``function`` ends with does not run again if it keeps nothing but its inputs, as
    convolutions and pools do: torch stops once everything kept is there.

    Args:
        function: of one tensor; cheap but for its last layer, and draws no random numbers.
        x: its argument.
        norms_of: a module; all norms of ``function`` are below it. Frozen norms keep nothing, so
            that there is nothing to gain; statistics over all processes would be exchanged twice.
            With either it runs as it is.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(x)
    if not any(_keeps_its_input(module) for module in norms_of.modules()):
        return function(x)
    result: Tensor = run_recomputed(function, x, norms_of=norms_of, draws_numbers=False)
    return result


def _keeps_its_input(module: nn.Module) -> bool:
    is_batch_norm = type(module) is nn.BatchNorm2d and module.training
    return is_batch_norm or isinstance(module, nn.GroupNorm)


@contextmanager
def without_counting(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of all BatchNorms below ``module`` as they are."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    # The statistics have to stay arguments of the operator: both runs must do the same.
    state = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, num_batches_tracked in state:
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked
