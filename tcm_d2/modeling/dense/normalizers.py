"""Loss normalisers in data-parallel training."""

from __future__ import annotations

import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a scalar over all ranks, detached.

    With it as the normaliser, the averaged gradients of several ranks equal those of one rank
    that sees the whole batch.
    """
    value = value.detach().clone()
    world_size = comm.get_world_size()
    if world_size > 1:
        dist.all_reduce(value)
        value /= world_size
    return value
