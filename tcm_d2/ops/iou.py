"""Pairwise IoU of rotated boxes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tcm_d2.ops._arguments import check_boxes, check_same_device
from tcm_d2.ops.registration import Operator, register
from tcm_d2.ops.rotated_geometry import (
    Rects,
    intersection_area,
    may_overlap,
    overlap,
    prepare_rects,
)

# Pairs that the reference implementation expands at a time, to bound its memory (1 KiB each).
_MAX_PAIRS = 1 << 17


def box_iou_rotated(
    boxes1: Tensor, boxes2: Tensor, *, mode: Literal["iou", "iof"] = "iou"
) -> Tensor:
    """Return the overlap of every box of one set with every box of another.

    The intersection is exact up to rounding and computed in float64 whatever the input dtype.
    Boxes without a positive area (a side <= 0) and boxes with a non-finite number overlap nothing.
    IoU is symmetric to the last bit, and 1 for identical boxes.

    Args:
        boxes1: (N, 5) cx, cy, w, h, angle_deg; float32 or float64. float16 and bfloat16 are cast
            up to float32.
        boxes2: (M, 5), likewise.
        mode: "iou" for intersection over union, "iof" for intersection over the area of boxes1.

    Returns:
        (N, M) in [0, 1], in the wider dtype of the two (at least float32). No gradients flow; see
        paired_iou_rotated.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, tensors on different devices, unknown mode.
    """
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode: expected 'iou' or 'iof', got {mode!r}")
    boxes1 = check_boxes("boxes1", boxes1)
    boxes2 = check_boxes("boxes2", boxes2)
    check_same_device(boxes1=boxes1, boxes2=boxes2)
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    overlaps: Tensor = torch.ops.tcm_d2.box_iou_rotated(
        boxes1.detach().to(dtype), boxes2.detach().to(dtype), mode == "iof"
    )
    return overlaps


def _reference(boxes1: Tensor, boxes2: Tensor, iof: bool) -> Tensor:
    """Return the (N, M) overlaps in plain torch, a chunk of pairs at a time."""
    overlaps = boxes1.new_zeros((boxes1.shape[0], boxes2.shape[0]))
    if overlaps.numel() == 0:
        return overlaps
    rects1, rects2 = prepare_rects(boxes1), prepare_rects(boxes2)
    rows_per_chunk = max(1, _MAX_PAIRS // boxes2.shape[0])
    for start in range(0, boxes1.shape[0], rows_per_chunk):
        chunk = slice(start, start + rows_per_chunk)
        rows = Rects(*(field[chunk, None] for field in rects1))
        row, column = torch.nonzero(may_overlap(rows, rects2), as_tuple=True)
        pairs1, pairs2 = rects1.take(row + start), rects2.take(column)
        values = overlap(pairs1, pairs2, intersection_area(pairs1, pairs2), iof=iof)
        overlaps[row + start, column] = values.to(overlaps.dtype)
    return overlaps


def _fake(boxes1: Tensor, boxes2: Tensor, iof: bool) -> Tensor:
    return boxes1.new_empty((boxes1.shape[0], boxes2.shape[0]))


register(
    Operator(
        name="box_iou_rotated",
        schema="(Tensor boxes1, Tensor boxes2, bool iof) -> Tensor",
        kernels="boxes/iou",
        reference=_reference,
        fake=_fake,
    )
)
