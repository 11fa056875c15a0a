from __future__ import annotations

import pytest
import torch
from torch import nn

from tcm_d2.modeling.tcm.context_decoder import ContextDecoder
from tests.modeling.small_clip import assert_every_parameter_gets_gradient, randomize


def make_decoder(*, dropout: float = 0.1, width: int = 16) -> ContextDecoder:
    return ContextDecoder(joint_width=24, width=width, num_heads=4, num_layers=2, dropout=dropout)


@pytest.mark.parametrize(("num_queries", "num_memory"), [(3, 10), (10, 3), (1, 1)])
def test_shapes(num_queries: int, num_memory: int) -> None:
    output = make_decoder()(torch.randn(2, num_queries, 24), torch.randn(2, num_memory, 24))
    assert output.shape == (2, num_queries, 24)


def test_gradient_reaches_every_parameter_and_both_inputs() -> None:
    decoder = make_decoder()
    randomize(decoder)
    queries = torch.randn(2, 3, 24, requires_grad=True)
    memory = torch.randn(2, 5, 24, requires_grad=True)
    decoder(queries, memory).pow(2).sum().backward()
    assert_every_parameter_gets_gradient(decoder)
    assert queries.grad.abs().max() > 0 and memory.grad.abs().max() > 0


def test_eval_is_deterministic_and_training_drops() -> None:
    decoder, inputs = make_decoder(dropout=0.5), (torch.randn(2, 3, 24), torch.randn(2, 5, 24))
    decoder.train()
    assert not torch.equal(decoder(*inputs), decoder(*inputs))
    decoder.eval()
    assert torch.equal(decoder(*inputs), decoder(*inputs))


def test_memory_is_a_set() -> None:
    decoder, memory = make_decoder().eval(), torch.randn(1, 6, 24)
    queries = torch.randn(1, 3, 24)
    shuffled = memory[:, torch.randperm(6)]
    torch.testing.assert_close(decoder(queries, memory), decoder(queries, shuffled))


def test_projections_without_bias_and_names_of_norms() -> None:
    names = [n for n, _ in make_decoder().named_parameters()]
    assert not any(n.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")) for n in names)
    normed = {n.split(".", 2)[2].rsplit(".", 1)[0] for n in names if "norm" in n}
    assert normed == {"norm1", "norm2", "norm3"}
    norm_modules = [n for n, m in make_decoder().named_modules() if isinstance(m, nn.LayerNorm)]
    assert len(norm_modules) == 2 * 3 + 4  # three per layer; two for memory, query and output


def test_width_and_heads_must_fit() -> None:
    with pytest.raises(ValueError, match="multiple of the 4 heads, got 18"):
        make_decoder(width=18)
