"""Activation checkpointing that leaves BatchNorm's running statistics right.

In the backward pass a checkpointed part runs a second time. BatchNorm would then count the batch
twice; here the second run normalises by the batch as the first did, and counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run_recomputed(function: Callable[..., Any], *inputs: Any, norms_of: nn.Module) -> Any:
    """Return ``function(*inputs)``, keeping only the inputs for the backward pass.

    Random numbers (dropout) are the same in both runs. A graph that is being compiled is left
    alone: the compiler chooses by itself what to recompute.

    Args:
        function: of tensors; all its BatchNorms are below ``norms_of``.
        inputs: its arguments.
        norms_of: a module.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*inputs)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), without_counting(norms_of)

    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)


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
