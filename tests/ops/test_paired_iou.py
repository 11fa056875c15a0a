"""Gradients of the paired IoU: against differences, at kinks, and kernel against reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcm_d2.ops import paired_iou_rotated
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import FAMILIES, box_pairs


def gradients(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the summed IoU wrt both sides, by the kernel."""
    boxes1, boxes2 = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
    grad1, grad2 = torch.autograd.grad(paired_iou_rotated(boxes1, boxes2).sum(), (boxes1, boxes2))
    return grad1, grad2


@pytest.mark.parametrize("family", ["random", "nested", "far", "thin"])
def test_gradcheck(family: str) -> None:
    boxes1, boxes2 = box_pairs(family, 40, torch.float64)
    # Central differences of the IoU are as coarse as the boxes are thin and far.
    assert torch.autograd.gradcheck(
        paired_iou_rotated,
        (boxes1.requires_grad_(), boxes2.requires_grad_()),
        eps=1e-5,
        atol=1e-6,
        rtol=1e-4,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_finite_and_equal_the_reference(family: str, dtype: torch.dtype) -> None:
    boxes1, boxes2 = box_pairs(family, 1000, dtype)
    kernel = gradients(boxes1, boxes2)
    reference = OPERATORS["paired_iou_rotated_backward"].reference(
        torch.ones_like(boxes1[:, 0]), boxes1, boxes2
    )
    for ours, expected in zip(kernel, reference):
        assert ours.dtype == dtype and bool(ours.isfinite().all())
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-9)


def test_gradient_moves_a_box_towards_the_other() -> None:
    left = torch.tensor([[0.0, 0.0, 10.0, 4.0, 0.0]])
    right = torch.tensor([[5.0, 0.0, 10.0, 4.0, 0.0]])
    grad_left, grad_right = gradients(left, right)
    # I = 5 * 4, union = 60: moving by dx adds 4 dx to I and takes it from the union.
    expected = (4 * 60 + 20 * 4) / 60**2
    assert grad_left[0, 0].item() == pytest.approx(expected, rel=1e-6)
    assert grad_right[0, 0].item() == pytest.approx(-expected, rel=1e-6)
    # Symmetric in y and in the angle: no slope. Both are kinks, so the mean of the two sides.
    assert grad_left[0, 1].item() == pytest.approx(0.0, abs=1e-7)


def test_angle_gradient_is_per_degree() -> None:
    boxes1 = torch.tensor([[0.0, 0.0, 10.0, 2.0, 20.0]], dtype=torch.float64)
    boxes2 = torch.tensor([[0.0, 0.0, 10.0, 2.0, 50.0]], dtype=torch.float64)
    step = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1e-4]], dtype=torch.float64)
    slope = (
        paired_iou_rotated(boxes1 + step, boxes2) - paired_iou_rotated(boxes1 - step, boxes2)
    ) / 2e-4
    assert slope.item() > 0  # turning towards the other box
    grad1, grad2 = gradients(boxes1, boxes2)
    assert grad1[0, 4].item() == pytest.approx(slope.item(), rel=1e-6)
    assert grad2[0, 4].item() == pytest.approx(-slope.item(), rel=1e-6)


def test_identical_boxes_are_at_the_top() -> None:
    boxes = box_pairs("identical", 200, torch.float64)[0]
    for grad in gradients(boxes, boxes):
        assert grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("family", ["touching", "zero_area"])
def test_pairs_without_common_area_have_no_gradient(family: str) -> None:
    for grad in gradients(*box_pairs(family, 100, torch.float64)):
        assert bool((grad == 0).all())


def test_nonsense_boxes_have_no_gradient() -> None:
    good = torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]]).expand(3, 5)
    bad = good.clone()
    bad[0, 0], bad[1, 2], bad[2, 4] = float("nan"), float("inf"), float("inf")
    for grad in (*gradients(bad, good), *gradients(good, bad)):
        assert bool((grad == 0).all())


def test_gradient_of_tiny_boxes_is_finite_in_float32() -> None:
    boxes = torch.tensor([[0.0, 0.0, 1e-41, 1e-41, 0.0]])
    for grad in gradients(boxes, boxes * 1.5):
        assert bool(grad.isfinite().all())


def test_upstream_gradient_scales_each_pair() -> None:
    boxes1, boxes2 = box_pairs("random", 30, torch.float64)
    weights = torch.linspace(-2, 2, 30, dtype=torch.float64)
    plain = gradients(boxes1, boxes2)[0]
    boxes1.requires_grad_()
    paired_iou_rotated(boxes1, boxes2).backward(weights)
    torch.testing.assert_close(boxes1.grad, plain * weights[:, None])
    assert boxes2.grad is None


def test_gradient_flows_through_the_cast_from_half() -> None:
    boxes1, boxes2 = (boxes.half() for boxes in box_pairs("random", 10, torch.float32))
    boxes1.requires_grad_()
    paired_iou_rotated(boxes1, boxes2).sum().backward()
    assert boxes1.grad is not None and boxes1.grad.dtype == torch.float16
    assert boxes1.grad.abs().max() > 0


def test_empty_input_has_an_empty_gradient() -> None:
    boxes = torch.zeros(0, 5, requires_grad=True)
    paired_iou_rotated(boxes, boxes).sum().backward()
    assert boxes.grad is not None and boxes.grad.shape == (0, 5)


def test_second_derivative_is_refused() -> None:
    boxes1, boxes2 = box_pairs("random", 5, torch.float64)
    boxes1.requires_grad_()
    (grad,) = torch.autograd.grad(
        paired_iou_rotated(boxes1, boxes2).sum(), boxes1, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()
