"""IoU of quadrilaterals."""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.ops._arguments import check_quads, check_same_device
from tcm_d2.ops._paired import fake_paired
from tcm_d2.ops.quad_geometry import bounds_of, bounds_overlap, common_area, signed_area
from tcm_d2.ops.registration import Operator, register

# Pairs that the reference implementation works on at a time: 16 edge pairs each, so that its
# temporaries stay inside the cache.
_MAX_PAIRS = 2048
# Pairs whose bounds are compared at a time, to bound the memory (about 50 bytes a pair).
_MAX_BOUNDS = 1 << 18


def quad_iou(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Return the IoU of every quadrilateral of one set with every one of another.

    A quad is its winding number, turned so that its signed area is not negative: corners may run
    either way round. For simple quads, convex or not, that is the exact area of the intersection,
    computed in float64; for self-crossing ones it is what the DOTA devkit's polyiou computes, moved
    into [0, 1].

    Args:
        quads1: (N, 4, 2) corners x, y in any one frame; float32 or float64. float16 and bfloat16
            are cast up to float32.
        quads2: (M, 4, 2), likewise.

    Returns:
        (N, M) in the wider dtype of the two (at least float32), in [0, 1]; 0 for quads without area
        or with a non-finite corner. No gradients flow.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, tensors on different devices.

    Source: polyiou.cpp of DOTA_devkit. Deliberate differences: no absolute epsilon of 1e-8 (it
    makes the devkit inexact far below a pixel), 0 / 0 is 0, and with self-crossing quads, whose
    intersection and union may be negative, nothing leaves [0, 1].
    """
    quads1, quads2 = _check_pair(quads1, quads2)
    iou: Tensor = torch.ops.tcm_d2.quad_iou(quads1, quads2)
    return iou.clamp_(0, 1)


def paired_quad_iou(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Return the IoU of quads1[i] with quads2[i]; see quad_iou.

    Args:
        quads1: (N, 4, 2) corners x, y, floating point.
        quads2: (N, 4, 2), likewise.

    Returns:
        (N,) in the wider dtype of the two (at least float32). No gradients flow.

    Raises:
        TypeError: an argument is not a floating point tensor.
        ValueError: wrong shape, different lengths, tensors on different devices.
    """
    quads1, quads2 = _check_pair(quads1, quads2)
    if quads1.shape[0] != quads2.shape[0]:
        raise ValueError(
            f"quads2: expected as many quads as quads1, {quads1.shape[0]}, got {quads2.shape[0]}; "
            "use quad_iou for all pairs"
        )
    iou: Tensor = torch.ops.tcm_d2.paired_quad_iou(quads1, quads2)
    return iou.clamp_(0, 1)


def _check_pair(quads1: Tensor, quads2: Tensor) -> tuple[Tensor, Tensor]:
    quads1, quads2 = check_quads("quads1", quads1), check_quads("quads2", quads2)
    check_same_device(quads1=quads1, quads2=quads2)
    dtype = torch.promote_types(quads1.dtype, quads2.dtype)
    return quads1.detach().to(dtype), quads2.detach().to(dtype)


def _pairwise_reference(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Return the (N, M) IoU in plain torch."""
    iou = quads1.new_zeros((quads1.shape[0], quads2.shape[0]))
    if iou.numel() == 0:
        return iou
    bounds1, bounds2 = bounds_of(quads1), bounds_of(quads2)
    rows_per_chunk = max(1, _MAX_BOUNDS // quads2.shape[0])
    for start in range(0, quads1.shape[0], rows_per_chunk):
        rows = bounds1[start : start + rows_per_chunk, None]
        row, column = torch.nonzero(bounds_overlap(rows, bounds2), as_tuple=True)
        row = row + start
        iou[row, column] = _paired_reference(quads1[row], quads2[column])
    return iou


def _paired_reference(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Return the (P,) IoU of aligned pairs in plain torch."""
    iou = quads1.new_empty((quads1.shape[0],))
    for start in range(0, quads1.shape[0], _MAX_PAIRS):
        chunk = slice(start, start + _MAX_PAIRS)
        one, two = quads1[chunk].double(), quads2[chunk].double()
        area1, area2 = signed_area(one), signed_area(two)
        common = common_area(one, two, area1, area2)
        value = common / (area1.abs() + area2.abs() - common)
        counts = (common > 0) & value.isfinite() & bounds_overlap(bounds_of(one), bounds_of(two))
        iou[chunk] = torch.where(counts, value, 0.0).to(iou.dtype)
    return iou


def _fake_pairwise(quads1: Tensor, quads2: Tensor) -> Tensor:
    return quads1.new_empty((quads1.shape[0], quads2.shape[0]))


register(
    Operator(
        name="quad_iou",
        schema="(Tensor quads1, Tensor quads2) -> Tensor",
        kernels="quads/iou",
        reference=_pairwise_reference,
        fake=_fake_pairwise,
    )
)
PAIRED_QUAD_IOU = register(
    Operator(
        name="paired_quad_iou",
        schema="(Tensor quads1, Tensor quads2) -> Tensor",
        kernels="quads/iou",
        reference=_paired_reference,
        fake=fake_paired,
    )
)
