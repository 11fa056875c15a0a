"""Convolution and BatchNorm folded in evaluation: same maps, and never stale."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tcm_d2.modeling.clip.folding import FoldedConvolutions
from tcm_d2.modeling.clip.resnet import CLIPResNet
from tests.modeling.small_clip import small_towers


def make_tower(norm: str = "BN") -> CLIPResNet:
    """Return a tower in evaluation whose statistics and affine parameters are no ones and zeros."""
    tower = small_towers(norm=norm).image.eval()
    with torch.no_grad():
        for name, tensor in tower.state_dict().items():
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.add_(0.2 * torch.randn(()))
    return tower


def unfolded(tower: CLIPResNet, images: Tensor) -> dict[str, Tensor]:
    with torch.enable_grad():  # with gradients nothing is folded
        return {name: map_.detach() for name, map_ in tower(images).items()}


def folded(tower: CLIPResNet, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return tower(images)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_folded_maps_are_the_same(norm: str) -> None:
    tower, images = make_tower(norm), torch.randn(2, 3, 64, 96)
    expected, actual = unfolded(tower, images), folded(tower, images)
    for name, map_ in expected.items():
        torch.testing.assert_close(actual[name], map_, rtol=1e-4, atol=1e-5)
    double = folded(tower.double(), images.double())
    exact = unfolded(tower, images.double())
    torch.testing.assert_close(double["res5"], exact["res5"], rtol=1e-9, atol=1e-11)


def _change_conv(tower: CLIPResNet) -> None:
    tower.layer2[0].conv3.weight.mul_(1.5)


def _change_statistics(tower: CLIPResNet) -> None:
    tower.layer3[0].downsample[2].running_mean.add_(1.0)


def _change_affine(tower: CLIPResNet) -> None:
    tower.bn1.weight.mul_(0.5)


def _load(tower: CLIPResNet) -> None:
    tower.load_state_dict({name: 0.9 * value for name, value in tower.state_dict().items()})


def _replace_data(tower: CLIPResNet) -> None:
    tower.conv2.weight.data = tower.conv2.weight.data * 2


def _replace_parameter(tower: CLIPResNet) -> None:
    tower.conv2.weight = nn.Parameter(tower.conv2.weight * 2)


def _step(tower: CLIPResNet) -> None:
    # Fused: torch does not count these writes.
    optimizer = torch.optim.AdamW(tower.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        tower(torch.randn(1, 3, 32, 32))["res5"].square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "change",
    [
        _change_conv,
        _change_statistics,
        _change_affine,
        _load,
        _replace_data,
        _replace_parameter,
        _step,
    ],
)
def test_a_change_of_weights_is_followed(change: Callable[[CLIPResNet], None]) -> None:
    tower, images = make_tower(), torch.randn(1, 3, 64, 64)
    before = folded(tower, images)["res5"]
    with torch.no_grad():
        change(tower)
    after = folded(tower, images)["res5"]
    assert not torch.allclose(after, before, rtol=1e-3)
    torch.testing.assert_close(after, unfolded(tower, images)["res5"], rtol=1e-4, atol=1e-5)


def test_training_in_between_is_followed_even_through_data() -> None:
    tower, images = make_tower(), torch.randn(1, 3, 64, 64)
    before = folded(tower, images)["res5"]
    tower.conv2.weight.data.mul_(2)  # counts no version
    tower.train().eval()
    assert not torch.allclose(folded(tower, images)["res5"], before, rtol=1e-3)


def test_nothing_is_folded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    tower, images = make_tower(), torch.randn(1, 3, 64, 64)
    first = folded(tower, images)["res5"]
    monkeypatch.setattr("tcm_d2.modeling.clip.folding._fold", None)
    assert torch.equal(folded(tower, images)["res5"], first)


def test_batch_statistics_are_used_where_a_norm_asks_for_them() -> None:
    tower, images = make_tower(), torch.randn(2, 3, 64, 64)
    tower.layer1[0].bn2.train()
    before = tower.layer1[0].bn2.running_mean.clone()
    expected = copy.deepcopy(tower)
    torch.testing.assert_close(
        folded(tower, images)["res5"], unfolded(expected, images)["res5"], rtol=1e-4, atol=1e-5
    )
    assert not torch.equal(tower.layer1[0].bn2.running_mean, before)


def test_state_dict_and_copies_hold_nothing_folded() -> None:
    tower = make_tower()
    names = list(tower.state_dict())
    folded(tower, torch.randn(1, 3, 32, 32))
    assert list(tower.state_dict()) == names and len(tower._folded._kept) == 3 + 4 * 4
    assert not copy.deepcopy(tower)._folded._kept
    assert not pickle.loads(pickle.dumps(tower._folded))._kept
    tower.train()
    assert not tower._folded._kept


def test_inference_tensors_are_folded_each_time() -> None:
    with torch.inference_mode():
        conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval()
        fold, x = FoldedConvolutions(), torch.randn(1, 3, 8, 8)
        torch.testing.assert_close(fold(conv, norm, x), norm(conv(x)))
        conv.weight.mul_(2)
        torch.testing.assert_close(fold(conv, norm, x), norm(conv(x)))


def test_bfloat16_under_autocast_is_as_close_as_without_folding() -> None:
    tower, images = make_tower(), torch.randn(1, 3, 64, 64)
    exact = folded(tower, images)["res5"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, plain = folded(tower, images)["res5"], unfolded(tower, images)["res5"]
    assert half.dtype == torch.bfloat16
    assert (half - exact).norm() <= 1.5 * (plain - exact).norm()
