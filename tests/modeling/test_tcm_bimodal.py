from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tcm_d2.modeling.tcm.bimodal import BimodalMatching

WIDTH = 8


def unit_text(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, WIDTH), dim=-1)


def test_formula_by_hand() -> None:
    matching = BimodalMatching(joint_width=2, init="identity")
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    moved = matching(text, torch.tensor([[0.0, 5.0]]))
    # g~ = (0, 1): the first class is at a right angle to it, the second has cosine 0.8.
    torch.testing.assert_close(moved, torch.tensor([[[1.0, 0.0], [0.6, 1.6]]]))


def test_identity_leaves_the_global_token_and_ones_leave_its_sign() -> None:
    tokens, text = torch.randn(4, WIDTH), unit_text(3)
    identity = BimodalMatching(joint_width=WIDTH, init="identity")
    unit = F.normalize(tokens, dim=1)
    expected = text + torch.einsum("kc,nc->nk", text, unit)[..., None] * unit[:, None]
    torch.testing.assert_close(identity(text, tokens), expected)
    # Published start: one direction for all images; a_k g~ does not see its sign.
    ones = BimodalMatching(joint_width=WIDTH, init="ones")
    moved = ones(text, tokens)
    torch.testing.assert_close(moved, moved[:1].expand_as(moved))


def test_length_of_the_global_token_does_not_matter() -> None:
    matching, tokens, text = BimodalMatching(joint_width=WIDTH, init="identity"), *_inputs()
    torch.testing.assert_close(matching(text, tokens), matching(text, 100 * tokens))


def test_text_per_image() -> None:
    matching, tokens, text = BimodalMatching(joint_width=WIDTH, init="identity"), *_inputs()
    per_image = matching(text.expand(2, -1, -1), tokens)
    torch.testing.assert_close(per_image, matching(text, tokens))


@pytest.mark.parametrize("init", ["identity", "ones"])
def test_gradient_reaches_the_matrix_and_both_inputs(init: str) -> None:
    matching, tokens, text = BimodalMatching(joint_width=WIDTH, init=init), *_inputs()
    leaves = [tokens.requires_grad_(), text.requires_grad_(), matching.weight]
    matching(text, tokens).pow(2).sum().backward()
    assert all(leaf.grad.abs().max() > 0 and leaf.grad.isfinite().all() for leaf in leaves)


def test_zero_token_is_finite() -> None:
    matching, text = BimodalMatching(joint_width=WIDTH, init="identity"), unit_text(3)
    torch.testing.assert_close(matching(text, torch.zeros(1, WIDTH))[0], text)


def test_unknown_init() -> None:
    with pytest.raises(ValueError, match="expected one of identity, ones, got 'eye'"):
        BimodalMatching(joint_width=WIDTH, init="eye")


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, WIDTH), unit_text(3)
