"""Memory of the operators: the result and little else, never a tensor of pairs times corners."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcm_d2 import ops
from tcm_d2.ops.registration import OPERATORS

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
MEGABYTE = 1 << 20
# What may come on top of the result: prepared boxes, lists of candidates, blocks of references.
ALLOWED = 48 * MEGABYTE
# A reference of the pairwise IoU expands a block of pairs at a time, about 1 KiB a pair.
ALLOWED_REFERENCE = 320 * MEGABYTE


def _status(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{STATUS}: no field {field}")


def growth(function: Callable[[], object]) -> int:
    """Return by how many bytes a call makes the process grow at its peak."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR_REFS.write_text("5")  # the peak starts anew, from what is left
        before = _status("VmRSS")
    except (OSError, AttributeError):
        pytest.skip("the system doesn't tell the peak of the memory")
    result = function()
    peak = _status("VmHWM")
    del result
    return max(0, peak - before)


def scattered(num: int, extent_px: float) -> Tensor:
    unit = torch.rand(num, 5)
    return unit * torch.tensor([extent_px, extent_px, 40, 20, 180]) + torch.tensor([0, 0, 8, 8, 0])


def quads_of(boxes: Tensor) -> Tensor:
    half = boxes[:, None, 2:4] / 2
    return boxes[:, None, :2] + half * torch.tensor([[1, 1], [1, -1], [-1, -1], [-1, 1.0]])


ROWS, COLUMNS = 12_000, 2_000
PAIRWISE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "box_iou_rotated": (ops.box_iou_rotated, 4),
    "iof": (lambda a, b: ops.box_iou_rotated(a, b, mode="iof"), 4),
    "points_in_rotated_boxes": (lambda a, b: ops.points_in_rotated_boxes(a[:, :2], b), 1),
    "quad_iou": (lambda a, b: ops.quad_iou(quads_of(a), quads_of(b)), 4),
}


@pytest.mark.parametrize("name", PAIRWISE)
def test_pairwise_operators_need_their_result(name: str) -> None:
    function, bytes_each = PAIRWISE[name]
    boxes1, boxes2 = scattered(ROWS, 8000), scattered(COLUMNS, 8000)
    function(boxes1[:100], boxes2[:100])
    # Corners of the pairs alone would be 64 bytes times as many.
    assert growth(lambda: function(boxes1, boxes2)) <= bytes_each * ROWS * COLUMNS + ALLOWED


def test_references_work_in_blocks() -> None:
    boxes1, boxes2 = scattered(4000, 300), scattered(500, 300)  # a third of the pairs overlap
    pairs = 4000 * 500
    for reference, bytes_each in (
        (lambda: OPERATORS["box_iou_rotated"].reference(boxes1, boxes2, False), 4),
        (lambda: OPERATORS["points_in_rotated_boxes"].reference(boxes1[:, :2], boxes2), 1),
        (lambda: OPERATORS["quad_iou"].reference(quads_of(boxes1), quads_of(boxes2)), 4),
    ):
        assert growth(reference) <= bytes_each * pairs + ALLOWED_REFERENCE


def test_nms_grows_with_the_boxes_and_not_with_the_pairs() -> None:
    if not ops.extension_status().cpu:
        pytest.skip("the compiled extension is not built; the reference of this size is slow")
    boxes, scores = scattered(60_000, 20_000), torch.rand(60_000)
    labels = torch.arange(60_000) % 15
    ops.nms_rotated(boxes[:100], scores[:100], 0.1)
    # A bit a pair would be 450 MB.
    assert growth(lambda: ops.nms_rotated(boxes, scores, 0.1)) <= ALLOWED
    assert growth(lambda: ops.batched_nms_rotated(boxes, scores, labels, 0.1)) <= ALLOWED


@pytest.mark.parametrize(
    "name", ["paired_iou_rotated", "paired_giou_rotated", "paired_diou_rotated"]
)
def test_paired_operators_and_their_gradients_keep_nothing_more_than_the_boxes(name: str) -> None:
    num = 100_000
    boxes1, boxes2 = scattered(num, 1000), scattered(num, 1000)
    boxes2[:, :2] = boxes1[:, :2] + 3
    boxes1.requires_grad_()

    def step() -> None:
        boxes1.grad = None
        getattr(ops, name)(boxes1, boxes2).sum().backward()

    step()
    assert growth(step) <= 2 * 20 * num + ALLOWED
