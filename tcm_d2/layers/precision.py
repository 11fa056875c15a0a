"""The precision geometry and losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Return half and bfloat16 values as float32, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
