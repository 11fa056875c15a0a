"""CUDA kernels against the CPU: the same values, the same indices."""

from __future__ import annotations

import pytest
import torch

from tcm_d2.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    nms_rotated,
    paired_iou_rotated,
    reference,
)
from tests.ops.oracle import FAMILIES, box_pairs
from tests.ops.test_nms import crowd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_iou_and_gradients_equal_the_cpu(family: str, dtype: torch.dtype) -> None:
    boxes1, boxes2 = box_pairs(family, 1000, dtype)
    device1, device2 = boxes1.cuda(), boxes2.cuda()
    atol = 1e-7 if dtype == torch.float32 else 1e-12
    for mode in ("iou", "iof"):
        torch.testing.assert_close(
            box_iou_rotated(device1, device2[:300], mode=mode).cpu(),
            box_iou_rotated(boxes1, boxes2[:300], mode=mode),
            rtol=1e-6,
            atol=atol,
        )
    iou = paired_iou_rotated(device1, device2)
    assert torch.equal(iou, paired_iou_rotated(device2, device1))
    torch.testing.assert_close(iou.cpu(), paired_iou_rotated(boxes1, boxes2), rtol=1e-6, atol=atol)
    scale = torch.ones_like(iou)
    served = torch.ops.tcm_d2.paired_iou_rotated_backward(scale, device1, device2)
    expected = reference.paired_iou_rotated_backward(scale.cpu(), boxes1, boxes2)
    for ours, theirs in zip(served, expected):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("num", [0, 1, 63, 64, 65, 5000])
def test_nms_equals_the_cpu(num: int) -> None:
    boxes, scores, labels = crowd(num, extent=600)
    on_device = boxes.cuda(), scores.cuda(), labels.cuda()
    for threshold in (0.1, 0.5):
        expected = nms_rotated(boxes, scores, threshold)
        assert torch.equal(nms_rotated(*on_device[:2], threshold).cpu(), expected)
        expected = batched_nms_rotated(boxes, scores, labels, threshold)
        assert torch.equal(batched_nms_rotated(*on_device, threshold).cpu(), expected)


def test_mixed_devices_are_refused() -> None:
    boxes = torch.ones(2, 5)
    with pytest.raises(ValueError, match="boxes1 on cpu, boxes2 on cuda:0"):
        box_iou_rotated(boxes, boxes.cuda())
