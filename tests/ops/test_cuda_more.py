"""GIoU, DIoU, points and quads on CUDA, kernels and twins, against the CPU."""

from __future__ import annotations

import pytest
import torch

from tcm_d2 import ops
from tcm_d2.ops import reference_enclosing
from tests.ops.oracle import FAMILIES, box_pairs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

TWIN_GRADIENTS = {
    "paired_giou_rotated": reference_enclosing.paired_giou_rotated_backward,
    "paired_diou_rotated": reference_enclosing.paired_diou_rotated_backward,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TWIN_GRADIENTS)
def test_enclosing_iou_and_gradients_equal_the_cpu(
    name: str, family: str, dtype: torch.dtype
) -> None:
    boxes1, boxes2 = box_pairs(family, 1000, dtype)
    device1, device2 = boxes1.cuda(), boxes2.cuda()
    measure = getattr(ops, name)
    values = measure(device1, device2)
    atol = 1e-7 if dtype == torch.float32 else 1e-12
    assert torch.equal(values, measure(device2, device1))
    torch.testing.assert_close(values.cpu(), measure(boxes1, boxes2), rtol=1e-6, atol=atol)
    scale = torch.ones_like(values)
    served = getattr(torch.ops.tcm_d2, f"{name}_backward")(scale, device1, device2)
    expected = TWIN_GRADIENTS[name](scale.cpu(), boxes1, boxes2)
    for ours, theirs in zip(served, expected):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-8)
    empty = device1[:0].requires_grad_()
    measure(empty, device2[:0]).sum().backward()
    assert empty.grad is not None and empty.grad.shape == (0, 5)


def test_points_equal_the_cpu() -> None:
    boxes = torch.cat([box_pairs(family, 20, torch.float64)[0] for family in FAMILIES])
    points = boxes[:, :2] + (torch.rand_like(boxes[:, :2]) - 0.5) * boxes[:, 2:4]
    expected = ops.points_in_rotated_boxes(points, boxes)
    assert torch.equal(ops.points_in_rotated_boxes(points.cuda(), boxes.cuda()).cpu(), expected)


def test_quads_equal_the_cpu() -> None:
    quads = torch.rand(300, 4, 2, dtype=torch.float64) * 50
    on_device = quads.cuda()
    pairs = (
        (ops.quad_iou(on_device, on_device[:200]), ops.quad_iou(quads, quads[:200])),
        (
            ops.paired_quad_iou(on_device, on_device.flip(0)),
            ops.paired_quad_iou(quads, quads.flip(0)),
        ),
        (ops.minimum_area_boxes(on_device), ops.minimum_area_boxes(quads)),
    )
    for ours, expected in pairs:
        assert ours.is_cuda
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-9, atol=1e-9)


def test_status_counts_what_a_kernel_should_serve() -> None:
    status = ops.extension_status()
    assert status.cuda == (status.loaded and "without CUDA" not in status.reason)
