"""Rotated IoU, NMS and gradients against stored exact numbers (golden a, b, c).

The IoU arrays are shapely's in float64 on the stored float32 boxes, the NMS lists a greedy loop
over them, the gradients central differences of shapely's IoU.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tcm_d2.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    nms_rotated,
    paired_iou_rotated,
)
from tcm_d2.ops.registration import OPERATORS
from tests.conftest import DATA_DIR
from tests.parity.golden import Golden

GOLDEN_DIR = DATA_DIR / "golden"
NMS_TAGS = ("n100", "n2000", "n5000", "neg500")
# Absolute error of the IoU. In float32 the angle in degrees is rounded once more than the stored
# radians: on 1:200 boxes that alone moves the IoU by 3e-6.
IOU_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}


def boxes_deg(boxes_rad: Tensor, dtype: torch.dtype) -> Tensor:
    """Clockwise radians to counter-clockwise degrees, sides kept as they are."""
    boxes = boxes_rad.double()
    return torch.cat([boxes[:, :4], -torch.rad2deg(boxes[:, 4:])], dim=1).to(dtype)


@pytest.fixture(scope="module")
def golden_iou() -> Golden:
    return Golden(GOLDEN_DIR / "a_box_iou_rotated.npz")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", ["kernel", "reference"])
def test_paired_iou(golden_iou: Golden, implementation: str, dtype: torch.dtype) -> None:
    boxes1, boxes2 = (boxes_deg(golden_iou[name], dtype) for name in ("boxes1", "boxes2"))
    function = (
        paired_iou_rotated
        if implementation == "kernel"
        else OPERATORS["paired_iou_rotated"].reference
    )
    iou = function(boxes1, boxes2)
    error = (iou.double() - golden_iou["iou_exact"]).abs()
    names = np.load(GOLDEN_DIR / "a_box_iou_rotated.npz")["category_names"]
    worst = {
        str(name): error[golden_iou["category"] == index].max().item()
        for index, name in enumerate(names)
    }
    assert max(worst.values()) <= IOU_TOLERANCE[dtype], worst
    assert torch.equal(iou, function(boxes2, boxes1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairwise_iou_and_iof(golden_iou: Golden, dtype: torch.dtype) -> None:
    boxes1, boxes2 = (boxes_deg(golden_iou[name], dtype) for name in ("pw_boxes1", "pw_boxes2"))
    iou = box_iou_rotated(boxes1, boxes2).double()
    assert (iou - golden_iou["pw_iou_exact"]).abs().max().item() <= IOU_TOLERANCE[dtype]

    boxes1, boxes2 = (boxes_deg(golden_iou[name], dtype) for name in ("boxes1", "boxes2"))
    iof = torch.cat(
        [
            box_iou_rotated(rows, columns, mode="iof").diagonal()
            for rows, columns in zip(boxes1.split(100), boxes2.split(100))
        ]
    )
    error = (iof.double() - golden_iou["iof_exact"]).abs().max().item()
    assert error <= IOU_TOLERANCE[dtype]


@pytest.mark.parametrize("tag", NMS_TAGS)
def test_nms_keeps_the_exact_list(tag: str) -> None:
    check_nms(Golden(GOLDEN_DIR / "b_nms_rotated.npz"), tag)


def test_nms_keeps_the_exact_list_of_12000(golden_dir: Path) -> None:
    check_nms(Golden(golden_dir / "b_nms_rotated.npz"), "big12000")


def check_nms(golden: Golden, tag: str) -> None:
    boxes = boxes_deg(golden[f"{tag}_boxes"], torch.float32)
    scores, labels = golden[f"{tag}_scores"], golden[f"{tag}_labels"]
    for threshold, name in (
        (0.1, "keep_agnostic_exact"),
        (0.3, "keep_agnostic_thr0.3"),
        (0.5, "keep_agnostic_thr0.5"),
    ):
        keep = nms_rotated(boxes, scores, threshold)
        assert keep.tolist() == golden[f"{tag}_{name}"].tolist(), name
    keep = batched_nms_rotated(boxes, scores, labels, 0.1)
    assert keep.tolist() == golden[f"{tag}_keep_perclass_exact"].tolist()


@pytest.mark.parametrize("tag", ["n100", "n2000"])
def test_reference_nms_keeps_the_exact_list(tag: str) -> None:
    golden = Golden(GOLDEN_DIR / "b_nms_rotated.npz")
    boxes, scores = boxes_deg(golden[f"{tag}_boxes"], torch.float32), golden[f"{tag}_scores"]
    labels = golden[f"{tag}_labels"].long()
    keep = OPERATORS["nms_rotated"].reference(boxes, scores, None, 0.1)
    assert keep.tolist() == golden[f"{tag}_keep_agnostic_exact"].tolist()
    keep = OPERATORS["nms_rotated"].reference(boxes, scores, labels, 0.1)
    assert keep.tolist() == golden[f"{tag}_keep_perclass_exact"].tolist()


def test_classes_do_not_cross_talk() -> None:
    golden = Golden(GOLDEN_DIR / "b_nms_rotated.npz")
    boxes = boxes_deg(golden["crosstalk_boxes"], torch.float32)
    keep = batched_nms_rotated(boxes, golden["crosstalk_scores"], golden["crosstalk_labels"], 0.1)
    assert keep.tolist() == golden["crosstalk_keep_perclass_exact"].tolist()
    # mmcv's class offsets drop one of the four.
    assert len(keep) > len(golden["crosstalk_keep_batched_mmcv"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differentiable_iou_and_its_gradient(dtype: torch.dtype) -> None:
    golden = Golden(GOLDEN_DIR / "c_losses.npz")
    pred = boxes_deg(golden["pred"], dtype).requires_grad_()
    iou = paired_iou_rotated(pred, boxes_deg(golden["target"], dtype))
    error = (iou.detach().double() - golden["iou_exact_f64"]).abs().max().item()
    assert error <= IOU_TOLERANCE[dtype]

    (grad,) = torch.autograd.grad(iou.sum(), pred)
    grad = grad.double() * grad.new_tensor([1, 1, 1, 1, -180 / math.pi]).double()
    expected = golden["iou_grad_fd_f64"]
    # Differences are accurate to 1e-6 of the gradient's size; but equal centres and sides sit on a
    # kink, where differences of step d leave d * second derivative.
    kinked = sits_on_kink(golden)
    assert bool(kinked.any()) and bool((~kinked).any())
    scale = expected.abs().amax(dim=1, keepdim=True).clamp(min=1e-3)
    relative = (grad - expected).abs() / scale
    assert relative[~kinked].max().item() <= (1e-4 if dtype == torch.float32 else 2e-6)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-5
    assert (grad - expected)[kinked].abs().max().item() <= tolerance
    disjoint = golden["iou_exact_f64"] == 0
    assert bool(disjoint.any()) and bool((grad[disjoint] == 0).all())


def sits_on_kink(golden: Golden) -> torch.Tensor:
    """Return which pairs (Q,) share centre and sides: the IoU has a kink there."""
    return (golden["pred"][:, :4] == golden["target"][:, :4]).all(dim=1)
