"""Loss normalisers in data-parallel training."""

from __future__ import annotations

import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def mean_over_ranks(value: Tensor, *, minimum: float = 0.0) -> Tensor:
    """Return the mean of a scalar over all ranks, detached.

    With it as the normaliser, the averaged gradients of several ranks equal those of one rank
    that sees the whole batch.

    Args:
        value: not negative.
        minimum: of the sum over all ranks, that is of what one rank with the whole batch would
            have. The reference limits the mean instead, so that a batch with fewer objects than
            ranks counts less there.
    """
    value = value.detach().clone()
    world_size = comm.get_world_size()
    if world_size > 1:
        dist.all_reduce(value)
    return value.clamp(min=minimum) / world_size
