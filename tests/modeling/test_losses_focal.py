"""The focal loss with its own gradient, against its definition in elementary operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tcm_d2.modeling.losses.focal import focal_loss_sum

ROWS, CLASSES = 40, 7
POSITIVE = torch.tensor([3, 9, 39])
POSITIVE_CLASSES = torch.tensor([0, 6, 2])


def composed(logits: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    targets = torch.zeros_like(logits)
    targets[POSITIVE, POSITIVE_CLASSES] = 1
    probability = logits.sigmoid()
    wrong = targets * (1 - probability) + (1 - targets) * probability
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weight * wrong**gamma * entropy


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.75)])
def test_value_and_gradient(gamma: float, alpha: float) -> None:
    logits = (10 * torch.randn(ROWS, CLASSES, dtype=torch.float64)).requires_grad_()
    expected = 3 * composed(logits, gamma, alpha).sum()
    (expected_grad,) = torch.autograd.grad(expected, logits)
    total = 3 * focal_loss_sum(logits, POSITIVE, POSITIVE_CLASSES, gamma=gamma, alpha=alpha)
    (grad,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-8, atol=1e-12)


def test_gradcheck() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([1]), torch.tensor([2])
    assert torch.autograd.gradcheck(
        lambda x: focal_loss_sum(x, *index, gamma=2, alpha=0.25), logits
    )


@pytest.mark.parametrize("value", [-200.0, -60.0, 60.0, 200.0])
def test_finite_and_exact_for_extreme_logits(value: float) -> None:
    logits = torch.full((ROWS, CLASSES), value, requires_grad=True)
    total = focal_loss_sum(logits, POSITIVE, POSITIVE_CLASSES, gamma=2.0, alpha=0.25)
    total.backward()
    expected = composed(torch.full((ROWS, CLASSES), value, dtype=torch.float64), 2.0, 0.25).sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-30)
    assert torch.isfinite(logits.grad).all()


def test_all_rows_with_a_mask_are_the_positive_ones_alone() -> None:
    logits = torch.randn(ROWS, CLASSES, requires_grad=True)
    is_positive = torch.zeros(ROWS, dtype=torch.bool)
    is_positive[POSITIVE] = True
    classes = torch.randint(CLASSES, (ROWS,))
    classes[POSITIVE] = POSITIVE_CLASSES
    alone = focal_loss_sum(logits, POSITIVE, POSITIVE_CLASSES, gamma=2.0, alpha=0.25)
    masked = focal_loss_sum(
        logits, torch.arange(ROWS), classes, gamma=2.0, alpha=0.25, is_positive=is_positive
    )
    torch.testing.assert_close(masked, alone)
    grads = [torch.autograd.grad(total, logits)[0] for total in (alone, masked)]
    torch.testing.assert_close(grads[1], grads[0])


def test_ignored_rows_cost_nothing() -> None:
    logits = torch.randn(ROWS, CLASSES, requires_grad=True)
    ignored = torch.tensor([0, 20])
    total = focal_loss_sum(
        logits, POSITIVE, POSITIVE_CLASSES, gamma=2.0, alpha=0.25, ignored_index=ignored
    )
    cost = composed(logits.detach(), 2.0, 0.25)
    cost[ignored] = 0
    torch.testing.assert_close(total, cost.sum())
    (grad,) = torch.autograd.grad(total, logits)
    assert grad[ignored].abs().max() == 0 and grad[POSITIVE].abs().min() > 0


def test_without_objects_and_without_rows() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    logits = torch.randn(ROWS, CLASSES, requires_grad=True)
    focal_loss_sum(logits, none, none, gamma=2.0, alpha=0.25).backward()
    assert logits.grad.abs().min() > 0
    empty = torch.zeros(0, CLASSES, requires_grad=True)
    assert focal_loss_sum(empty, none, none, gamma=2.0, alpha=0.25).item() == 0


def test_only_one_tensor_is_kept_for_the_backward_pass() -> None:
    kept = []
    logits = torch.randn(ROWS, CLASSES, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        focal_loss_sum(logits, POSITIVE, POSITIVE_CLASSES, gamma=2.0, alpha=0.25)
    assert kept == [ROWS * CLASSES]
