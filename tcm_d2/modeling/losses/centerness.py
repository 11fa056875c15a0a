"""Centre-ness: its targets, and the binary cross-entropy it is learned with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def centerness_targets(distances: Tensor) -> Tensor:
    """Return the centre-ness (Q,) in (0, 1] of points inside their boxes.

    Args:
        distances: (Q, 4) positive distances left, top, right, bottom.

    Source: arXiv 1904.01355, equation 3.
    """
    left, top, right, bottom = distances.unbind(dim=1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    # A point on a side may come out a rounding error outside.
    return (horizontal * vertical).clamp(min=0).sqrt()


def binary_cross_entropy_sum(
    logits: Tensor, targets: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    """Return the summed binary cross-entropy of ``logits`` (Q,) against ``targets`` (Q,).

    Args:
        logits: (Q,).
        targets: (Q,) in [0, 1].
        weight: (Q,) factors; None for 1.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction="sum")
