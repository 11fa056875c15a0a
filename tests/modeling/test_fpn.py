from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import nn

from tcm_d2.modeling.neck.fpn import FPNConfig, RotatedFPN
from tests.modeling.small_clip import assert_every_parameter_gets_gradient

IN_CHANNELS = {"res3": 6, "res4": 12, "res5": 27}


def make_fpn(*, extra_from: str = "output", relu: bool = True) -> RotatedFPN:
    config = FPNConfig(
        in_features=list(IN_CHANNELS),
        out_channels=8,
        extra_levels_from=extra_from,
        relu_before_extra=relu,
    )
    shapes = {
        name: ShapeSpec(channels=channels, stride=8 * 2**level)
        for level, (name, channels) in enumerate(IN_CHANNELS.items())
    }
    return config.build({"res2": ShapeSpec(channels=3, stride=4), **shapes})


def make_features(sizes_hw: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    maps = {
        name: torch.randn(2, channels, *size_hw)
        for (name, channels), size_hw in zip(IN_CHANNELS.items(), sizes_hw, strict=True)
    }
    return {"res2": torch.randn(2, 3, 99, 99), **maps}


EVEN = [(32, 48), (16, 24), (8, 12)]
ODD = [(13, 27), (6, 13), (3, 6)]


@pytest.mark.parametrize("extra_from", ["output", "input"])
@pytest.mark.parametrize(
    ("sizes_hw", "extra_hw"), [(EVEN, [(4, 6), (2, 3)]), (ODD, [(2, 3), (1, 2)])]
)
def test_shapes(extra_from: str, sizes_hw: list, extra_hw: list) -> None:
    levels = make_fpn(extra_from=extra_from)(make_features(sizes_hw))
    assert [s.stride for s in make_fpn().output_shape()] == [8, 16, 32, 64, 128]
    assert [level.shape for level in levels] == [(2, 8, *hw) for hw in [*sizes_hw, *extra_hw]]


@pytest.mark.parametrize("extra_from", ["output", "input"])
def test_gradient_reaches_every_parameter(extra_from: str) -> None:
    fpn = make_fpn(extra_from=extra_from)
    sum(level.pow(2).sum() for level in fpn(make_features(EVEN))).backward()
    assert_every_parameter_gets_gradient(fpn)


def test_top_down_path_is_nearest_and_adds() -> None:
    fpn = make_fpn()
    for conv in fpn.output_convs:  # pass the merged map through
        nn.init.dirac_(conv.weight)
    features = make_features(EVEN)
    p3, p4, p5 = fpn(features)[:3]
    lateral = [conv(features[n]) for conv, n in zip(fpn.lateral_convs, IN_CHANNELS, strict=True)]
    torch.testing.assert_close(p5, lateral[2])
    upsampled = p5.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(p4, lateral[1] + upsampled)
    upsampled = p4.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(p3, lateral[0] + upsampled)


@pytest.mark.parametrize("extra_from", ["output", "input"])
@pytest.mark.parametrize("relu", [True, False])
def test_extra_levels(extra_from: str, relu: bool) -> None:
    """The first extra level takes its source as it is; ReLU comes before the second only."""
    fpn, features = make_fpn(extra_from=extra_from, relu=relu), make_features(EVEN)
    levels = fpn(features)
    source = features["res5"] if extra_from == "input" else levels[2]
    p6 = fpn.extra_convs[0](source)
    p7 = fpn.extra_convs[1](F.relu(p6) if relu else p6)
    torch.testing.assert_close(levels[3], p6)
    torch.testing.assert_close(levels[4], p7)


def test_initial_values_and_names() -> None:
    fpn = make_fpn(extra_from="input")
    convs = [m for m in fpn.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 8 and all((conv.bias == 0).all() for conv in convs)
    for conv in convs:
        fan_in = conv.weight[0].numel()
        fan_out = conv.out_channels * conv.weight[0, 0].numel()
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.8 * bound < conv.weight.abs().max() <= bound
    assert not any("norm" in name for name, _ in fpn.named_parameters())
    assert fpn.extra_convs[0].in_channels == 27


def test_unknown_source_is_named() -> None:
    with pytest.raises(ValueError, match="extra_levels_from: expected one of output, input"):
        make_fpn(extra_from="on_output")


def test_weight_gradients_of_narrow_levels_are_defined_in_bfloat16() -> None:
    """Taps that see padding only get zero; torch's own bfloat16 kernel leaves them unwritten."""
    config = FPNConfig(
        in_features=["a", "b", "c"],
        out_channels=16,
        extra_levels_from="output",
        relu_before_extra=True,
    )
    neck = config.build({name: ShapeSpec(channels=4, stride=8) for name in "abc"})
    features = {n: torch.randn(1, 4, s, s) for n, s in (("a", 8), ("b", 4), ("c", 2))}
    for _ in range(20):
        neck.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            levels = neck(features)
        # What is freed here would turn up in the gradient.
        poison = [
            torch.full((16 * 16 * 9,), 1e30, dtype=dtype)
            for dtype in (torch.bfloat16, torch.float32)
        ]
        del poison
        sum(level.float().square().sum() for level in levels).backward()
        gradient = neck.extra_convs[1].weight.grad
        assert gradient[:, :, 1, 1].any()
        assert not gradient[:, :, [0, 2], :].any() and not gradient[:, :, :, [0, 2]].any()
