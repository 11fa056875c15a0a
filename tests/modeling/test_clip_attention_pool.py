from __future__ import annotations

import pytest
import torch

from tcm_d2.modeling.clip.attention_pool import resize_positional_embedding
from tests.modeling.small_clip import assert_every_parameter_gets_gradient, small_towers

CHANNELS, JOINT_WIDTH, STORED_GRID = 256, 48, 4


@pytest.fixture
def pool():
    return small_towers().attention_pool


@pytest.mark.parametrize("grid_hw", [(4, 4), (8, 8), (10, 7), (1, 1), (3, 5)])
def test_shapes_on_any_grid(pool, grid_hw: tuple[int, int]) -> None:
    output = pool(torch.randn(2, CHANNELS, *grid_hw))
    assert output.global_NC.shape == (2, JOINT_WIDTH)
    assert output.dense_NCHW.shape == (2, JOINT_WIDTH, *grid_hw)


def test_global_token_is_clips_own() -> None:
    """On the stored grid the global token is what open_clip's own pool returns."""
    from open_clip.modified_resnet import AttentionPool2d

    from tcm_d2.modeling.clip.attention_pool import DenseAttentionPool

    theirs = AttentionPool2d(STORED_GRID, CHANNELS, 4, JOINT_WIDTH)
    res5 = torch.randn(2, CHANNELS, STORED_GRID, STORED_GRID)
    expected = theirs(res5)
    actual = DenseAttentionPool(theirs)(res5).global_NC
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_dense_tokens_stay_in_place(pool) -> None:
    """Each dense token depends on its own place most: a changed place changes most there."""
    pool.eval()
    res5 = torch.zeros(1, CHANNELS, 4, 6)
    changed = res5.clone()
    changed[0, :, 2, 5] = 3 * torch.randn(CHANNELS)
    with torch.no_grad():
        for parameter in (pool.q_proj.weight, pool.k_proj.weight):
            parameter.copy_(torch.eye(CHANNELS))  # tokens attend to those like themselves
        change = (pool(changed).dense_NCHW - pool(res5).dense_NCHW).norm(dim=1)[0]
    assert change.argmax() == 2 * 6 + 5


def test_gradient_reaches_every_parameter(pool) -> None:
    output = pool(torch.randn(2, CHANNELS, 5, 3))
    (output.dense_NCHW.pow(2).sum() + output.global_NC.sum()).backward()
    # A constant added to all keys shifts a query's logits alike: no gradient but rounding.
    assert_every_parameter_gets_gradient(pool, zero_ok="k_proj.bias")


def test_resize_keeps_class_row_and_equal_grid() -> None:
    embedding = torch.randn(17, 6)
    assert resize_positional_embedding(embedding, (4, 4)) is embedding
    resized = resize_positional_embedding(embedding, (7, 3))
    assert resized.shape == (22, 6)
    assert torch.equal(resized[0], embedding[0])


@pytest.mark.parametrize("shape", [(16, 6), (1, 6)])
def test_resize_refuses_other_tensors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positional embedding: expected shape"):
        resize_positional_embedding(torch.randn(*shape), (4, 4))
