from __future__ import annotations

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from tcm_d2.layers.sync_norm import SyncBatchNorm2d
from tests.modeling.small_clip import assert_every_parameter_gets_gradient, randomize, small_towers


@pytest.mark.parametrize("size_hw", [(64, 64), (256, 256), (320, 224), (32, 96)])
def test_shapes(size_hw: tuple[int, int]) -> None:
    tower = small_towers().image.eval()
    with torch.no_grad():
        features = tower(torch.randn(2, 3, *size_hw))
    assert list(features) == ["res2", "res3", "res4", "res5"]
    shapes = tower.output_shape()
    assert [shape.channels for shape in shapes.values()] == [32, 64, 128, 256]
    for (name, map_), stride in zip(features.items(), (4, 8, 16, 32), strict=True):
        expected = (
            2,
            shapes[name].channels,
            size_hw[0] // stride,
            size_hw[1] // stride,
        )
        assert map_.shape == expected


def test_sizes_that_are_no_multiple_of_32_lose_the_remainder() -> None:
    tower = small_towers().image.eval()
    with torch.no_grad():
        assert tower(torch.randn(1, 3, 100, 71))["res5"].shape[-2:] == (3, 2)


def test_state_dict_has_clips_names_and_no_pool() -> None:
    names = set(small_towers().image.state_dict())
    assert {"conv1.weight", "bn3.running_var", "layer4.0.downsample.0.weight"} <= names
    assert not any("attnpool" in n or "proj" in n for n in names)


def test_gradient_reaches_every_parameter() -> None:
    tower = small_towers().image.train()
    randomize(tower)
    features = tower(torch.randn(2, 3, 64, 64))
    sum((f * torch.randn_like(f)).sum() for f in features.values()).backward()
    assert_every_parameter_gets_gradient(tower)


def test_batch_norm_uses_batch_statistics_in_training_only() -> None:
    tower = small_towers().image
    images = torch.randn(2, 3, 64, 64) + 3
    before = tower.bn1.running_mean.clone()
    tower.eval()(images)
    assert torch.equal(tower.bn1.running_mean, before)
    tower.train()(images)
    assert not torch.equal(tower.bn1.running_mean, before)


def test_frozen_norm_has_no_parameters_and_equals_eval() -> None:
    torch.manual_seed(3)
    plain = small_towers(norm="BN").image.eval()
    torch.manual_seed(3)
    frozen = small_towers(norm="FrozenBN").image.train()
    kinds = [m for m in frozen.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    assert kinds and all(isinstance(m, FrozenBatchNorm2d) for m in kinds)
    assert not any(".bn" in n or n.startswith("bn") for n, _ in frozen.named_parameters())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(frozen(images)["res5"], plain(images)["res5"], rtol=1e-4, atol=1e-5)


def test_sync_norm_replaces_every_norm() -> None:
    tower = small_towers(norm="SyncBN").image
    norms = [m for m in tower.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, SyncBatchNorm2d) for m in norms)


def test_unknown_norm_is_named() -> None:
    with pytest.raises(ValueError, match=r"norm: expected one of BN, FrozenBN, SyncBN, got 'GN'"):
        small_towers(norm="GN")


def test_eval_is_deterministic() -> None:
    tower = small_towers().image.eval()
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(tower(images)["res5"], tower(images)["res5"])
