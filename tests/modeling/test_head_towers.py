from __future__ import annotations

import pytest
import torch
from torch import nn

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
