from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tcm_d2.modeling.tcm.matching import join_score_map, score_map, score_map_loss


def test_score_map_is_cosine_over_temperature() -> None:
    dense = torch.randn(2, 8, 3, 5)
    text = torch.randn(2, 4, 8)
    scores = score_map(dense, text, temperature=0.07)
    assert scores.shape == (2, 4, 3, 5)
    expected = F.cosine_similarity(dense[1, :, 2, 4], text[1, 3], dim=0) / 0.07
    torch.testing.assert_close(scores[1, 3, 2, 4], expected)
    scaled = score_map(100 * dense, 0.01 * text, temperature=0.07)
    torch.testing.assert_close(scaled, scores, rtol=1e-4, atol=1e-5)


def test_loss_counts_places_inside_objects_only() -> None:
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[0, 0, 1, 2] = True
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, :, 1, 2] = torch.tensor([3.0, -1.0])
    logits[0, :, 0, 0] = 50.0  # outside every object
    expected = (math.log1p(math.exp(-3.0)) + math.log1p(math.exp(-1.0))) / 2
    assert score_map_loss(logits, masks).item() == pytest.approx(expected, rel=1e-6)


def test_loss_without_objects_is_zero_with_a_gradient_path() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    loss = score_map_loss(logits, torch.zeros(1, 2, 8, 8, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_loss_is_finite_for_extreme_scores() -> None:
    logits = torch.tensor([[[[1e4]], [[-1e4]]]], requires_grad=True)
    masks = torch.tensor([[[[False]], [[True]]]])
    loss = score_map_loss(logits, masks)
    loss.backward()
    # The logarithm of a saturated sigmoid is cut at -100, as in the published code; of the two
    # classes at this one place both are as wrong as can be.
    assert loss.item() == pytest.approx(100) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("inside", [True, False])
def test_loss_of_nan_is_nan(inside: bool) -> None:
    """torch's loss raised "all elements of input should be between 0 and 1"."""
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, 0, 2, 2] = float("nan")
    masks = torch.full((1, 2, 4, 4), inside)
    assert score_map_loss(logits, masks).isnan()


def test_loss_and_gradient_are_those_of_torch_to_the_bit() -> None:
    masks = torch.rand(2, 3, 8, 8) < 0.3
    logits = (5 * torch.randn(2, 3, 8, 8)).requires_grad_()
    loss = score_map_loss(logits, masks)
    inside = masks.any(dim=1, keepdim=True).expand_as(logits).float()
    cost = F.binary_cross_entropy(logits.sigmoid(), masks.float(), weight=inside, reduction="sum")
    expected = cost / (inside.sum() + 1e-8)
    assert torch.equal(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient, torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_loss_is_at_least_single_precision(dtype: torch.dtype) -> None:
    masks = torch.ones(1, 2, 8, 8, dtype=torch.bool)
    loss = score_map_loss(torch.zeros(1, 2, 4, 4, dtype=dtype), masks)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (2, 2, 8, 8), (1, 2, 8)])
def test_loss_refuses_masks_of_other_classes_or_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="class_masks: expected shape"):
        score_map_loss(torch.zeros(1, 2, 4, 4), torch.zeros(shape, dtype=torch.bool))


def test_join_appends_the_raw_map() -> None:
    res5, scores = torch.randn(2, 6, 4, 3), torch.randn(2, 2, 4, 3)
    joined = join_score_map(res5, scores)
    assert torch.equal(joined[:, :6], res5) and torch.equal(joined[:, 6:], scores)


def test_join_resizes_with_corners_aligned() -> None:
    ramp = torch.arange(3.0).expand(1, 1, 2, 3)
    joined = join_score_map(torch.zeros(1, 1, 2, 5), ramp)
    torch.testing.assert_close(joined[0, 1, 0], torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
