"""CUDA kernels against the references on the device, and against the CPU kernels to the bit.

Under a sanitizer (see docs/ops.md): compute-sanitizer --tool memcheck python -m pytest -q
tests/ops/test_cuda.py
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from tcm_d2 import ops
from tcm_d2.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    extension_status,
    nms_rotated,
)
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import FAMILIES, box_pairs
from tests.ops.test_nms import crowd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PAIRED = ("paired_iou_rotated", "paired_giou_rotated", "paired_diou_rotated")
DTYPES = (torch.float32, torch.float64)


def exact(actual: Tensor, expected: Tensor) -> None:
    """With kernels on both sides the bits are equal; a reference may differ in the last ones."""
    if extension_status().cuda and extension_status().cpu:
        assert torch.equal(actual.cpu(), expected.cpu())
    else:
        torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=1e-6, atol=1e-12)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Fail where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_pairwise_overlap(family: str, dtype: torch.dtype) -> None:
    boxes1, boxes2 = box_pairs(family, 1000, dtype)
    device1, device2 = boxes1.cuda(), boxes2[:300].cuda()
    for mode in ("iou", "iof"):
        with no_waiting():
            overlaps = box_iou_rotated(device1, device2, mode=mode)  # type: ignore[arg-type]
        exact(overlaps, box_iou_rotated(boxes1, boxes2[:300], mode=mode))  # type: ignore[arg-type]
        reference = OPERATORS["box_iou_rotated"].reference(device1, device2, mode == "iof")
        torch.testing.assert_close(overlaps, reference, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PAIRED)
def test_paired_measures_and_gradients(name: str, family: str, dtype: torch.dtype) -> None:
    boxes1, boxes2 = box_pairs(family, 1000, dtype)
    device1, device2 = boxes1.cuda(), boxes2.cuda()
    measure, backward = getattr(ops, name), getattr(torch.ops.tcm_d2, f"{name}_backward")
    scale = torch.linspace(-1, 1, 1000, dtype=dtype, device="cuda")
    with no_waiting():
        values = measure(device1, device2)
        grads = backward(scale, device1, device2)
    assert torch.equal(values, measure(device2, device1))
    expected = measure(boxes1, boxes2)
    torch.testing.assert_close(values.cpu(), expected, rtol=1e-6, atol=1e-12)
    reference = OPERATORS[f"{name}_backward"].reference(scale, device1, device2)
    on_cpu = backward(scale.cpu(), boxes1, boxes2)
    for ours, others, theirs in zip(grads, reference, on_cpu):
        assert bool(ours.isfinite().all())
        torch.testing.assert_close(ours, others, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-8)
    if name == "paired_iou_rotated":
        exact(values, expected)
    empty = device1[:0].requires_grad_()
    measure(empty, device2[:0]).sum().backward()
    assert empty.grad is not None and empty.grad.shape == (0, 5)


@pytest.mark.parametrize("num", [0, 1, 63, 64, 65, 127, 129, 4096, 4097, 9000])
def test_nms(num: int) -> None:
    boxes, scores, labels = crowd(num, extent=12 * num**0.5 + 1)
    boxes[::50, 2] = 0
    on_device = boxes.cuda(), scores.cuda(), labels.cuda()
    for threshold in (0.1, 0.5):
        expected = nms_rotated(boxes, scores, threshold)
        for _ in range(3):  # whatever the order in which blocks run
            assert torch.equal(nms_rotated(*on_device[:2], threshold).cpu(), expected)
        expected = batched_nms_rotated(boxes, scores, labels, threshold)
        assert torch.equal(batched_nms_rotated(*on_device, threshold).cpu(), expected)
    if num < 200:
        reference = OPERATORS["nms_rotated"].reference(*on_device, 0.1)
        assert torch.equal(batched_nms_rotated(*on_device, 0.1), reference)


@pytest.mark.parametrize("score_threshold", [None, 0.3, 2.0])
@pytest.mark.parametrize("max_detections", [None, 0, 20, 1000])
def test_nms_of_a_batch_with_limits(
    score_threshold: float | None, max_detections: int | None
) -> None:
    boxes, scores, labels = crowd(5000, extent=800)
    images = torch.arange(5000) * 7 % 4 - 2**40
    on_device = boxes.cuda(), scores.cuda(), labels.cuda()
    limits = {"score_threshold": score_threshold, "max_detections": max_detections}
    keep = batched_nms_rotated(*on_device, 0.1, image_ids=images.cuda(), **limits)
    expected = batched_nms_rotated(boxes, scores, labels, 0.1, image_ids=images, **limits)
    assert torch.equal(keep.cpu(), expected)
    keep = nms_rotated(*on_device[:2], 0.1, **limits)
    assert torch.equal(keep.cpu(), nms_rotated(boxes, scores, 0.1, **limits))


def test_nms_of_a_scene_takes_little_memory() -> None:
    boxes, scores, _ = crowd(100_000, extent=6000)
    on_device = boxes.cuda(), scores.cuda()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    nms_rotated(*on_device, 0.1)
    # Sorting takes some more than the 81 bytes a box and the mask of one tile, 2 MB.
    assert torch.cuda.max_memory_allocated() - before < 64e6


def test_kernels_run_on_the_current_stream() -> None:
    boxes, scores, _ = crowd(3000, extent=600)
    expected = nms_rotated(boxes, scores, 0.1)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        keep = nms_rotated(boxes.cuda(), scores.cuda(), 0.1)
    stream.synchronize()
    assert torch.equal(keep.cpu(), expected)


def test_points() -> None:
    boxes = torch.cat([box_pairs(family, 20, torch.float64)[0] for family in FAMILIES])
    points = boxes[:, :2] + (torch.rand_like(boxes[:, :2]) - 0.5) * boxes[:, 2:4]
    expected = ops.points_in_rotated_boxes(points, boxes)
    with no_waiting():
        inside = ops.points_in_rotated_boxes(points.cuda(), boxes.cuda())
    assert torch.equal(inside.cpu(), expected)


def test_quads() -> None:
    quads = torch.rand(300, 4, 2, dtype=torch.float64) * 50
    on_device = quads.cuda()
    with no_waiting():
        results = (
            ops.quad_iou(on_device, on_device[:200]),
            ops.paired_quad_iou(on_device, on_device.flip(0)),
            ops.minimum_area_boxes(on_device),
        )
    expected = (
        ops.quad_iou(quads, quads[:200]),
        ops.paired_quad_iou(quads, quads.flip(0)),
        ops.minimum_area_boxes(quads),
    )
    for ours, theirs in zip(results, expected):
        assert ours.is_cuda
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-9, atol=1e-9)


def test_layouts_half_and_autocast() -> None:
    boxes1, boxes2 = (boxes.cuda() for boxes in box_pairs("random", 40, torch.float32))
    expected = box_iou_rotated(boxes1, boxes2)
    assert torch.equal(box_iou_rotated(boxes1.t().contiguous().t(), boxes2), expected)
    with torch.autocast("cuda", dtype=torch.float16):
        half = box_iou_rotated(boxes1.half(), boxes2.half())
    assert torch.equal(half, box_iou_rotated(boxes1.half().float(), boxes2.half().float()))


@pytest.mark.parametrize("name", PAIRED)
def test_opcheck(name: str) -> None:
    boxes1, boxes2 = (boxes.cuda() for boxes in box_pairs("random", 6, torch.float64))
    torch.library.opcheck(
        getattr(torch.ops.tcm_d2, name).default, (boxes1.requires_grad_(), boxes2)
    )


def test_mixed_devices_are_refused() -> None:
    boxes = torch.ones(2, 5)
    with pytest.raises(ValueError, match="boxes1 on cpu, boxes2 on cuda:0"):
        box_iou_rotated(boxes, boxes.cuda())
    with pytest.raises(ValueError, match="boxes on cuda:0, scores on cpu"):
        nms_rotated(boxes.cuda(), torch.ones(2), 0.5)


def test_status_counts_what_a_kernel_should_serve() -> None:
    status = extension_status()
    assert status.cuda == (status.loaded and "without CUDA" not in status.reason)
