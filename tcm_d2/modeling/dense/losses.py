"""Losses of dense heads; each returns a sum that the head divides by its normaliser."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tcm_d2.ops import paired_iou_rotated

# The IoU below which the loss is flat, as in the reference: disjoint boxes give no gradient.
MIN_IOU = 1e-6
IOU_LOSS_MODES = ("log", "linear", "square")


def rotated_iou_loss(pred_boxes: Tensor, target_boxes: Tensor, *, mode: str) -> Tensor:
    """Return the rotated IoU loss (Q,) of each pair of boxes.

    ``log`` is -ln IoU, ``linear`` 1 - IoU, ``square`` 1 - IoU^2, with IoU clamped at 1e-6 from
    below. Gradients flow to ``pred_boxes``.

    Args:
        pred_boxes: (Q, 5) boxes.
        target_boxes: (Q, 5) boxes, same unit and frame.
        mode: one of ``IOU_LOSS_MODES``.

    Raises:
        ValueError: ``mode`` is unknown.

    Source: mmrotate's RotatedIoULoss. Unlike its operator, the IoU here is exact for nearly
    identical boxes (see the ops).
    """
    iou = paired_iou_rotated(pred_boxes, target_boxes).clamp(min=MIN_IOU)
    if mode == "log":
        return -iou.log()
    if mode == "linear":
        return 1 - iou
    if mode == "square":
        return 1 - iou**2
    raise ValueError(f"mode: expected one of {', '.join(IOU_LOSS_MODES)}, got {mode!r}")


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


def l1_loss_sum(pred: Tensor, targets: Tensor) -> Tensor:
    """Return the summed absolute difference of ``pred`` and ``targets``, of one shape."""
    return F.l1_loss(pred, targets.to(pred.dtype), reduction="sum")
