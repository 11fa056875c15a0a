"""Layers in evaluation, norms folded and weights packed: same maps, and never stale."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from tcm_d2.cpu import accelerate, inference_layers, packed
from tcm_d2.cpu.fast_modules import FastModule
from tcm_d2.cpu.inference_layers import (
    FixedNorm,
    InferenceLayers,
)
from tcm_d2.cpu.packed import has_fast_kernels
from tcm_d2.modeling.backbone.clip_resnet import CLIPResNet
from tests.modeling.small_clip import small_towers

assert_near = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
needs_kernels = pytest.mark.skipif(
    not has_fast_kernels(torch.float32), reason="nothing is packed on this processor"
)


@pytest.fixture(autouse=True)
def _small_maps_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MIN_CONV3X3_CELLS", 1)
    monkeypatch.setattr(packed, "MIN_CONV3X3_CHANNELS", 16)


def make_tower(norm: str = "BN") -> CLIPResNet:
    """Return a fast tower in evaluation, statistics and affine parameters no ones and zeros."""
    tower = small_towers(norm=norm).image.eval()
    with torch.no_grad():
        for name, tensor in tower.state_dict().items():
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.add_(0.2 * torch.randn(()))
    accelerate(tower)
    return tower


def unfolded(tower: CLIPResNet, images: Tensor) -> dict[str, Tensor]:
    with torch.enable_grad():  # with gradients nothing is folded
        return {name: map_.detach() for name, map_ in tower(images).items()}


def folded(tower: CLIPResNet, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        maps: dict[str, Tensor] = tower(images)
    return maps


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_folded_maps_are_the_same(norm: str) -> None:
    tower, images = make_tower(norm), torch.randn(2, 3, 64, 96)
    expected, actual = unfolded(tower, images), folded(tower, images)
    for name, map_ in expected.items():
        assert_near(actual[name], map_)
    double = folded(tower.double(), images.double())
    exact = unfolded(tower, images.double())
    torch.testing.assert_close(double["res5"], exact["res5"], rtol=1e-9, atol=1e-11)


def _load(layer: nn.Module, *, assign: bool) -> None:
    state = {name: 0.5 * value for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=assign)


def _replace_data(tower: CLIPResNet) -> None:
    tower.conv2.weight.data = tower.conv2.weight.data * 2


def _replace_parameter(tower: CLIPResNet) -> None:
    tower.conv2.weight = nn.Parameter(tower.conv2.weight * 2)


def _step(layer: nn.Module, *, fused: bool) -> None:
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


TOWER_CHANGES: dict[str, Callable[[CLIPResNet], object]] = {
    "convolution": lambda tower: tower.layer2[0].conv3.weight.mul_(1.5),
    "statistics": lambda tower: tower.layer3[0].downsample[2].running_mean.add_(1.0),
    "affine": lambda tower: tower.bn1.weight.mul_(0.5),
    "load": partial(_load, assign=False),
    "data": _replace_data,
    "parameter": _replace_parameter,
    "step": partial(_step, fused=True),  # torch does not count these writes
}


@pytest.mark.parametrize("change", TOWER_CHANGES)
def test_a_change_of_weights_is_followed(change: str) -> None:
    tower, images = make_tower(), torch.randn(1, 3, 64, 64)
    before = folded(tower, images)["res5"]
    with torch.no_grad():
        TOWER_CHANGES[change](tower)
    after = folded(tower, images)["res5"]
    assert not torch.allclose(after, before, rtol=1e-3)
    assert_near(after, unfolded(tower, images)["res5"])


def test_training_in_between_is_followed_even_through_data() -> None:
    tower, images = make_tower(), torch.randn(1, 3, 64, 64)
    before = folded(tower, images)["res5"]
    tower.conv2.weight.data.mul_(2)  # counts no version
    tower.train().eval()
    assert not torch.allclose(folded(tower, images)["res5"], before, rtol=1e-3)


def test_nothing_is_folded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    tower, images = make_tower(), torch.randn(1, 3, 64, 64)
    first = folded(tower, images)["res5"]
    monkeypatch.setattr("tcm_d2.cpu.inference_layers._fold", None)
    assert torch.equal(folded(tower, images)["res5"], first)


def test_batch_statistics_are_used_where_a_norm_asks_for_them() -> None:
    tower, images = make_tower(), torch.randn(2, 3, 64, 64)
    tower.layer1[0].bn2.train()
    before = tower.layer1[0].bn2.running_mean.clone()
    expected = copy.deepcopy(tower)
    assert_near(folded(tower, images)["res5"], unfolded(expected, images)["res5"])
    assert not torch.equal(tower.layer1[0].bn2.running_mean, before)


def kept_by(tower: nn.Module) -> int:
    """Return how many weights the fast modules of a network keep."""
    return sum(len(module._layers) for module in tower.modules() if isinstance(module, FastModule))


def test_state_dict_and_copies_hold_nothing_folded() -> None:
    tower = make_tower()
    names = list(tower.state_dict())
    folded(tower, torch.randn(1, 3, 32, 32))
    assert list(tower.state_dict()) == names and kept_by(tower) == 3 + 4 * 4
    assert kept_by(copy.deepcopy(tower)) == kept_by(pickle.loads(pickle.dumps(tower))) == 0
    tower.train()
    assert kept_by(tower) == 0


def test_inference_tensors_are_folded_each_time() -> None:
    with torch.inference_mode():
        conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4).eval()
        fold, x = InferenceLayers(), torch.randn(1, 3, 8, 8)
        torch.testing.assert_close(fold.conv(conv, x, norm=norm), norm(conv(x)))
        conv.weight.mul_(2)
        torch.testing.assert_close(fold.conv(conv, x, norm=norm), norm(conv(x)))


def test_bfloat16_under_autocast_is_as_close_as_without_folding() -> None:
    tower, images = make_tower(), torch.randn(1, 3, 64, 64)
    exact = folded(tower, images)["res5"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, plain = folded(tower, images)["res5"], unfolded(tower, images)["res5"]
    assert half.dtype == torch.bfloat16
    assert (half - exact).norm() <= 1.5 * (plain - exact).norm()


def fixed_norm(kind: str, channels: int) -> FixedNorm | None:
    if kind == "none":
        return None
    norm = nn.BatchNorm2d(channels) if kind == "BN" else FrozenBatchNorm2d(channels)
    for name, tensor in norm.state_dict().items():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5) if "var" in name else tensor.copy_(torch.randn(channels))
    return norm.eval()


def plain_conv(
    conv: nn.Conv2d,
    x: Tensor,
    *,
    norm: FixedNorm | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    out: Tensor = conv(x)
    out = out if norm is None else norm(out)
    out = out if residual is None else out + residual
    return out.relu() if relu else out


@pytest.fixture
def packed_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operators on packed weights that were called."""
    calls: list[str] = []

    def run(name: str, operator: Callable[..., Tensor], *args: object, **kwargs: object) -> Tensor:
        calls.append(name)
        return operator(*args, **kwargs)

    for name in ("linear_packed", "conv3x3_packed", "group_norm_relu"):
        watched = partial(run, name, getattr(inference_layers, name))
        monkeypatch.setattr(inference_layers, name, watched)
    return calls


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("norm_kind", ["none", "BN", "FrozenBN"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_conv_equals_the_plain_modules(
    kernel: int, with_bias: bool, norm_kind: str, with_residual: bool, relu: bool
) -> None:
    conv = nn.Conv2d(48, 40, kernel, padding=kernel // 2, bias=with_bias)
    norm, layers = fixed_norm(norm_kind, 40), InferenceLayers()
    for shape, layout in (
        ((2, 48, 9, 6), torch.contiguous_format),
        ((1, 48, 1, 1), torch.contiguous_format),
        ((2, 48, 5, 7), torch.channels_last),
    ):
        x = torch.randn(shape).contiguous(memory_format=layout)
        residual = torch.randn(shape[0], 40, *shape[2:]) if with_residual else None
        sources = [x, *([] if residual is None else [residual])]
        before = [source.clone() for source in sources]
        expected = plain_conv(conv, x, norm=norm, residual=residual, relu=relu)
        actual = layers.conv(conv, x, norm=norm, residual=residual, relu=relu)
        assert_near(actual, expected)
        for source, same in zip(sources, before, strict=True):
            assert torch.equal(source, same) and source.data_ptr() != actual.data_ptr()


@needs_kernels
@torch.no_grad()
def test_what_is_packed(packed_calls: list[str]) -> None:
    layers, x = InferenceLayers(), torch.randn(1, 16, 4, 4)
    layers.conv(nn.Conv2d(16, 32, 3, padding=1), x, relu=True)
    layers.conv(nn.Conv2d(16, 32, 1), x, residual=torch.randn(1, 32, 4, 4))
    layers.conv(nn.Conv2d(5, 32, 1), x[:, :5])
    layers.linear(nn.Linear(4, 32), x)
    assert packed_calls == ["conv3x3_packed", *["linear_packed"] * 3]


OTHER_CONVS: dict[str, Callable[[], nn.Conv2d]] = {
    "stride": lambda: nn.Conv2d(16, 40, 3, padding=1, stride=2),
    "stride of 1x1": lambda: nn.Conv2d(16, 40, 1, stride=2),
    "dilation": lambda: nn.Conv2d(16, 40, 3, padding=1, dilation=2),
    "groups": lambda: nn.Conv2d(16, 40, 3, padding=1, groups=2),
    "groups of 1x1": lambda: nn.Conv2d(16, 40, 1, groups=4),
    "five channels": lambda: nn.Conv2d(5, 40, 3, padding=1),
    "few outputs": lambda: nn.Conv2d(16, 31, 3, padding=1),
    "few outputs of 1x1": lambda: nn.Conv2d(16, 31, 1),
    "no border": lambda: nn.Conv2d(16, 40, 3),
    "border of 1x1": lambda: nn.Conv2d(16, 40, 1, padding=1),
    "border by name": lambda: nn.Conv2d(16, 40, 3, padding="same"),
    "5x5": lambda: nn.Conv2d(16, 40, 5, padding=2),
    "1x3": lambda: nn.Conv2d(16, 40, (1, 3), padding=(0, 1)),
    "float64": lambda: nn.Conv2d(16, 40, 3, padding=1).double(),
    "float64 of 1x1": lambda: nn.Conv2d(16, 40, 1).double(),
}


@pytest.mark.parametrize("norm_kind", ["none", "BN"])
@pytest.mark.parametrize("name", OTHER_CONVS)
@torch.no_grad()
def test_other_convolutions_are_as_plain(
    name: str, norm_kind: str, packed_calls: list[str]
) -> None:
    conv = OTHER_CONVS[name]()
    norm = fixed_norm(norm_kind, conv.out_channels)
    x = torch.randn(2, conv.in_channels, 8, 7, dtype=conv.weight.dtype)
    norm = None if norm is None else norm.to(x.dtype)
    expected = plain_conv(conv, x, norm=norm, relu=True)
    residual, layers = torch.randn_like(expected), InferenceLayers()
    before, kept = x.clone(), residual.clone()
    assert_near(layers.conv(conv, x, norm=norm, relu=True), expected)
    actual = layers.conv(conv, x, norm=norm, residual=residual)
    assert_near(actual, plain_conv(conv, x, norm=norm, residual=residual))
    assert torch.equal(x, before) and torch.equal(residual, kept) and not packed_calls


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
@torch.no_grad()
def test_other_borders_are_as_plain(mode: Any, packed_calls: list[str]) -> None:
    x, conv = torch.randn(2, 16, 8, 7), nn.Conv2d(16, 40, 3, padding=1, padding_mode=mode)
    assert torch.equal(InferenceLayers().conv(conv, x, relu=True), conv(x).relu())
    assert not packed_calls


@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_meta_tensors_give_shapes(kernel: int) -> None:
    layers, x = InferenceLayers(), torch.randn(2, 16, 8, 7, device="meta")
    conv = nn.Conv2d(16, 40, kernel, padding=kernel // 2, device="meta")
    norm, residual = nn.BatchNorm2d(40, device="meta").eval(), torch.randn(2, 40, 8, 7)
    for out in (
        layers.conv(conv, x),
        layers.conv(conv, x, norm=norm, residual=residual.to("meta"), relu=True),
    ):
        assert out.shape == (2, 40, 8, 7) and out.device.type == "meta"
    assert layers.linear(nn.Linear(7, 40, device="meta"), x).shape == (2, 16, 8, 40)


@pytest.mark.parametrize("shape", [(13, 20), (2, 7, 20), (2, 3, 4, 20), (0, 20), (3, 0, 20)])
@torch.no_grad()
def test_linear_equals_the_plain_module(shape: tuple[int, ...]) -> None:
    layers, x = InferenceLayers(), torch.randn(shape)
    for layer in (nn.Linear(20, 40), nn.Linear(20, 33, bias=False), nn.Linear(20, 5)):
        before = x.clone()
        for same in (x, x.transpose(0, -1).contiguous().transpose(0, -1)):
            out = layers.linear(layer, same)
            assert_near(out, layer(x))
        assert torch.equal(x, before)
    double = nn.Linear(20, 40).double()
    assert torch.equal(layers.linear(double, x.double()), double(x.double()))


@torch.no_grad()
def test_linear_takes_a_vector() -> None:
    layer, x = nn.Linear(20, 40), torch.randn(20)
    assert_near(InferenceLayers().linear(layer, x), layer(x))


LAYER_CHANGES: dict[str, Callable[[Any], object]] = {
    "weight": lambda layer: layer.weight.mul_(1.5),
    "bias": lambda layer: layer.bias.add_(1.0),
    "load": partial(_load, assign=False),
    "assign": partial(_load, assign=True),
    "step": partial(_step, fused=False),
    "fused step": partial(_step, fused=True),
}
LAYERS: dict[str, Callable[[], nn.Conv2d | nn.Linear]] = {
    "1x1": lambda: nn.Conv2d(16, 40, 1),
    "3x3": lambda: nn.Conv2d(16, 40, 3, padding=1),
    "linear": lambda: nn.Linear(16, 40),
}


@pytest.mark.parametrize("change", LAYER_CHANGES)
@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_packed_weights_follow_changes(kind: str, change: str) -> None:
    layer, layers = LAYERS[kind](), InferenceLayers()
    x = torch.randn(5, 16) if kind == "linear" else torch.randn(1, 16, 6, 5)
    run: Callable[[Any, Tensor], Tensor] = layers.linear if kind == "linear" else layers.conv
    before = run(layer, x)
    assert torch.equal(run(layer, x), before)
    LAYER_CHANGES[change](layer)
    after = run(layer, x)
    assert not torch.allclose(after, before, rtol=1e-3)
    assert_near(after, layer(x))


@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_packed_weights_follow_the_norm(kernel: int) -> None:
    conv, layers = nn.Conv2d(16, 40, kernel, padding=kernel // 2), InferenceLayers()
    x, norms = torch.randn(1, 16, 6, 5), [fixed_norm("BN", 40), fixed_norm("BN", 40), None]
    for norm in (*norms, *norms):
        assert_near(layers.conv(conv, x, norm=norm), plain_conv(conv, x, norm=norm))
        if norm is not None:
            norm.running_mean.add_(1.0)
            assert_near(layers.conv(conv, x, norm=norm), plain_conv(conv, x, norm=norm))


@needs_kernels
@torch.no_grad()
def test_weights_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers, x = InferenceLayers(), torch.randn(1, 16, 6, 5)
    conv, point = nn.Conv2d(16, 40, 3, padding=1), nn.Conv2d(16, 40, 1)
    first = [layers.conv(conv, x), layers.conv(point, x)]
    for name in ("pack_conv3x3", "pack_linear"):
        monkeypatch.setattr(inference_layers, name, None)
    again = [layers.conv(conv, x), layers.conv(point, x)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    layers.clear()
    with pytest.raises(TypeError):
        layers.conv(conv, x)


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.point = nn.Conv2d(16, 48, 3, padding=1), nn.Conv2d(48, 40, 1)
        self.norm, self.linear = nn.BatchNorm2d(48), nn.Linear(40, 33)
        self.layers = InferenceLayers()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers.conv(self.conv, x, norm=self.norm, relu=True)
        x = self.layers.conv(self.point, x)
        return self.layers.linear(self.linear, x.permute(0, 2, 3, 1))


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_traced_graphs_hold_no_operators_of_ours(packed_calls: list[str]) -> None:
    module, x = _Layers().eval(), torch.randn(1, 16, 6, 5)
    # Traced a second time, to check, the folded norm is a constant.
    traced: Any = torch.jit.trace(module, x, check_trace=False)  # type: ignore[no-untyped-call]
    assert "aten::_convolution" in str(traced.inlined_graph)
    assert "tcm_d2::" not in str(traced.inlined_graph) and not packed_calls
    assert_near(module(x), traced(x))
    assert len(packed_calls) == (3 if has_fast_kernels(torch.float32) else 0)


@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_layers_under_autocast_are_as_close_as_plain(kernel: int) -> None:
    conv, layers = nn.Conv2d(48, 40, kernel, padding=kernel // 2), InferenceLayers()
    x, residual = torch.randn(2, 48, 9, 7), torch.randn(2, 40, 9, 7)
    exact = plain_conv(conv, x, residual=residual, relu=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layers.conv(conv, x, residual=residual, relu=True)
        plain = F.relu(conv(x) + residual.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - exact).norm() <= 1.1 * (plain - exact).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_group_norm_equals_the_plain_modules(dtype: torch.dtype, packed_calls: list[str]) -> None:
    layers, norm, rtol = InferenceLayers(), nn.GroupNorm(4, 32), max(1e-4, torch.finfo(dtype).eps)
    norm.load_state_dict({"weight": torch.randn(32), "bias": torch.randn(32)})
    for shape in ((2, 32, 9, 7), (1, 32, 40, 33), (0, 32, 9, 7)):
        x = torch.randn(shape).to(dtype)
        expected, before = norm(x.float()).relu(), x.clone()
        for same in (x, x.contiguous(memory_format=torch.channels_last)):
            out = layers.group_norm(norm, same)
            torch.testing.assert_close(out, expected.to(dtype), rtol=rtol, atol=1e-5)
            assert torch.equal(same, before)
    assert len(packed_calls) == (6 if has_fast_kernels(dtype) else 0)


@torch.no_grad()
def test_other_group_norms_are_as_plain(packed_calls: list[str]) -> None:
    layers, x = InferenceLayers(), torch.randn(2, 32, 9, 7)
    for norm, same in (
        (nn.GroupNorm(4, 32).double(), x.double()),
        (nn.GroupNorm(4, 32, affine=False), x),
        (nn.GroupNorm(4, 32).bfloat16(), x.bfloat16()),
        (nn.GroupNorm(4, 32, device="meta"), x.to("meta")),
    ):
        expected, out = norm(same).relu(), layers.group_norm(norm, same)
        assert out.dtype == expected.dtype and out.shape == expected.shape
        assert out.is_meta or torch.equal(out, expected)
    assert not packed_calls
