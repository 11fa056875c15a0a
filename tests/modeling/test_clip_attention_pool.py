from __future__ import annotations

import pytest
import torch

from tcm_d2.modeling.clip.attention_pool import MAX_CACHED_GRIDS, resize_positional_embedding
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


def test_resized_embedding_is_kept_until_the_parameter_changes(pool, monkeypatch) -> None:
    calls = []

    def counting_resize(embedding, grid_hw):
        calls.append(grid_hw)
        return resize_positional_embedding(embedding, grid_hw)

    monkeypatch.setattr(
        "tcm_d2.modeling.clip.attention_pool.resize_positional_embedding", counting_resize
    )
    pool.eval()
    res5 = torch.randn(1, CHANNELS, 6, 5)
    with torch.no_grad():
        first = pool(res5).dense_NCHW
        assert torch.equal(pool(res5).dense_NCHW, first) and len(calls) == 1
        pool(torch.randn(1, CHANNELS, 3, 3))
        pool(res5)
        assert len(calls) == 2
        pool.positional_embedding.add_(1.0)
        assert not torch.allclose(pool(res5).dense_NCHW, first) and len(calls) == 3
        pool.load_state_dict(pool.state_dict())
        pool(res5)
        assert len(calls) == 4
        for side in range(1, 2 * MAX_CACHED_GRIDS):
            pool(torch.randn(1, CHANNELS, side, 1))
            kept = pool._resized.get([pool.positional_embedding], dict)
            assert 1 <= len(kept) <= MAX_CACHED_GRIDS


def test_fused_optimizer_step_in_eval_is_noticed(pool) -> None:
    """A fused step writes in place without raising the parameter's version."""
    pool.eval()
    res5 = torch.randn(1, CHANNELS, 6, 5)
    with torch.no_grad():
        first = pool(res5).dense_NCHW
    optimizer = torch.optim.AdamW(pool.parameters(), lr=0.1, fused=True)
    pool(res5).dense_NCHW.sum().backward()
    optimizer.step()
    with torch.no_grad():
        kept = pool(res5).dense_NCHW
    assert not torch.allclose(kept, first)
    assert torch.allclose(kept, pool(res5).dense_NCHW, atol=1e-6)


def test_gradient_in_eval_after_a_cached_call(pool) -> None:
    pool.eval()
    res5 = torch.randn(1, CHANNELS, 6, 5)
    with torch.inference_mode():
        pool(res5)
    with torch.no_grad():
        pool(res5)
    for _ in range(2):
        pool.zero_grad()
        pool(res5).dense_NCHW.sum().backward()
        assert pool.positional_embedding.grad.abs().max() > 0


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
