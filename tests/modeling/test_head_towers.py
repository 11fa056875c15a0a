from __future__ import annotations

import pytest
import torch
from torch import nn

from tcm_d2.cpu.inference_layers import is_float32_as_fast
from tcm_d2.cpu.packed import has_fast_kernels
from tcm_d2.modeling.heads.towers import GroupNorm, make_tower


@pytest.mark.parametrize("training", [False, True])
def test_one_cell_of_one_image_with_one_channel_a_group(training: bool) -> None:
    torch.manual_seed(0)
    tower = make_tower(8, 32, num_convs=2, norm="GN").train(training)
    norm = tower[-2]
    nn.init.normal_(norm.bias)
    cell = torch.randn(1, 8, 1, 1)
    outputs = tower(cell)
    # The mean of a value is itself: what is left is the bias.
    torch.testing.assert_close(outputs.flatten(), norm.bias.relu())
    outputs.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in tower.parameters())


def test_same_numbers_and_names_as_torch() -> None:
    torch.manual_seed(0)
    own, theirs = GroupNorm(32, 64), nn.GroupNorm(32, 64)
    nn.init.normal_(own.weight)
    nn.init.normal_(own.bias)
    theirs.load_state_dict(own.state_dict())
    maps = torch.randn(2, 64, 5, 7)
    assert torch.equal(own(maps), theirs(maps))


@pytest.mark.skipif(
    not has_fast_kernels(torch.bfloat16), reason="needs kernels of ours that serve bfloat16"
)
@torch.no_grad()
def test_head_towers_stay_in_float32_under_autocast_where_that_is_as_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tower = make_tower(64, 64, num_convs=2, norm="GN").eval()
    x = torch.randn(1, 64, 32, 32).bfloat16()
    exact = tower(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_float32_as_fast(x)
        assert torch.equal(tower(x), exact)
        # AMX multiplies in bfloat16, many times as fast.
        monkeypatch.setattr("tcm_d2.cpu.packed._processor_has", lambda feature: True)
        assert not is_float32_as_fast(x) and tower(x).dtype == torch.bfloat16
    assert not is_float32_as_fast(x.float())
