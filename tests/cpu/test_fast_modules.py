"""`accelerate` and `restore`: which modules change places, the same maps, and back exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.layers import Conv2d as NormedConv2d
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from open_clip.modified_resnet import Bottleneck
from torch import Tensor, nn

from tcm_d2.cpu import accelerate, inference_layers, packed, restore
from tcm_d2.cpu.fast_modules import MAX_KEPT_GRIDS, FastModule, run_chain
from tcm_d2.cpu.inference_layers import InferenceLayers, is_float32_as_fast
from tcm_d2.cpu.packed import has_fast_kernels
from tcm_d2.modeling.clip.attention_pool import DenseAttentionPool, resize_positional_embedding
from tcm_d2.modeling.heads.towers import GroupNorm, make_tower
from tests.modeling.small_clip import small_towers
from tests.modeling.test_one_stage import tiny_config, two_inputs

assert_near = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
CHANNELS = 256  # of the small towers' res5


@pytest.fixture(autouse=True)
def _small_maps_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MIN_CONV3X3_CELLS", 1)
    monkeypatch.setattr(packed, "MIN_CONV3X3_CHANNELS", 16)


def fast_kinds(network: nn.Module) -> dict[str, str]:
    """Return the names of the modules that are fast, and what they are."""
    named = network.named_modules()
    return {name: type(m).__name__ for name, m in named if isinstance(m, FastModule)}


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    return build_model(tiny_config())


def test_parts_of_the_detector_that_become_fast(detector: nn.Module) -> None:
    detector = copy.deepcopy(detector)
    accelerate(detector)
    kinds = fast_kinds(detector)
    assert kinds["backbone"] == "FastCLIPResNet"
    assert kinds["backbone.layer1.0"] == "FastBottleneck"
    assert kinds["backbone.layer1.0.downsample"] == "FastSequential"
    assert kinds["backbone.layer1.0.conv3"] == "FastConv2d"
    assert kinds["attention_pool"] == "FastAttentionPool"
    assert kinds["attention_pool.c_proj"] == "FastLinear"
    assert kinds["neck.lateral_convs.0"] == kinds["neck.output_convs.2"] == "FastConv2d"
    assert "FastTower" in kinds.values()
    assert not any(name.startswith(("text_encoder", "tcm", "neck.extra")) for name in kinds)


def test_restore_leaves_everything_as_it_was(detector: nn.Module) -> None:
    detector = copy.deepcopy(detector).eval()

    def facts() -> dict[str, Any]:
        return {name: (id(m), type(m), dict(vars(m))) for name, m in detector.named_modules()}

    before, names = facts(), list(detector.state_dict())
    parameters = {name: id(value) for name, value in detector.named_parameters()}
    accelerate(detector)
    accelerate(detector)  # a second time
    assert {name: id(value) for name, value in detector.named_parameters()} == parameters
    assert list(detector.state_dict()) == names
    with torch.no_grad():
        detector(two_inputs())
    restore(detector)
    after = facts()
    assert not fast_kinds(detector) and list(after) == list(before)
    for name, (address, kind, own) in before.items():
        assert after[name][:2] == (address, kind) and after[name][2].keys() == own.keys(), name
    restore(detector)  # nothing to do


def test_detector_gives_the_same_losses_and_maps(detector: nn.Module) -> None:
    plain, fast = copy.deepcopy(detector), copy.deepcopy(detector)
    accelerate(fast)
    images = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        expected, actual = (model.eval().features(images)[0] for model in (plain, fast))
    for ours, theirs in zip(actual, expected, strict=True):
        assert_near(ours, theirs)
    losses = [model.train()(two_inputs()) for model in (plain, fast)]
    for name, value in losses[0].items():
        assert_near(losses[1][name], value, msg=name)


def test_exported_graphs_of_a_fast_detector_are_plain(detector: nn.Module) -> None:
    fast = copy.deepcopy(detector.backbone).eval()
    accelerate(fast)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        graphs = [
            torch.export.export(model.eval(), (images,)).graph
            for model in (detector.backbone, fast)
        ]
    calls = [[str(node.target) for node in graph.nodes] for graph in graphs]
    assert calls[0] == calls[1] and not any("tcm_d2" in call for call in calls[1])


def test_detectron2s_own_backbone() -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    plain = build_model(cfg).eval()
    for name, buffer in plain.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5) if "var" in name else buffer.normal_(std=0.1)
    fast = copy.deepcopy(plain)
    accelerate(fast)
    kinds = fast_kinds(fast)
    assert kinds["backbone.bottom_up.res3.0.conv2"] == "FastNormedConv2d"
    assert kinds["head.cls_subnet"] == "FastSequential"
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = [list(model.backbone(images).values()) for model in (plain, fast)]
        outputs = [model.head(features) for model, features in zip((plain, fast), maps)]
    for ours, theirs in zip(maps[1], maps[0], strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    for ours, theirs in zip(outputs[1][0], outputs[0][0], strict=True):
        assert_near(ours, theirs)


def norms(channels: int) -> list[nn.Module]:
    """Return norms that can be folded, in evaluation."""
    made: list[nn.Module] = [nn.BatchNorm2d(channels), FrozenBatchNorm2d(channels)]
    for norm in made:
        for name, tensor in norm.state_dict().items():
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_()
    return made


CHAINS: dict[str, Callable[[], list[nn.Module]]] = {
    "conv, norm, relu": lambda: [nn.Conv2d(16, 32, 1), norms(32)[0], nn.ReLU()],
    "conv, frozen norm": lambda: [nn.Conv2d(16, 32, 3, padding=1), norms(32)[1]],
    "conv, relu": lambda: [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(inplace=True)],
    "strided": lambda: [nn.Conv2d(16, 32, 3, 2, 1), norms(32)[0], nn.ReLU()],
    "group norm": lambda: [nn.Conv2d(16, 32, 1), nn.GroupNorm(4, 32), nn.ReLU()],
    "own group norm": lambda: [GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 1)],
    "two convs": lambda: [nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()],
    "norms apart": lambda: [nn.ReLU(), norms(16)[0], nn.Conv2d(16, 32, 1), norms(32)[0]],
    "relu first": lambda: [nn.ReLU(), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.Sigmoid(), nn.ReLU()],
    "bare norm": lambda: [nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32, affine=False), nn.ReLU()],
    "no statistics": lambda: [
        nn.Conv2d(16, 32, 1),
        nn.BatchNorm2d(32, track_running_stats=False),
        nn.ReLU(),
    ],
    "others": lambda: [nn.Conv2d(16, 32, 1), nn.Dropout(), nn.LeakyReLU(), nn.MaxPool2d(2)],
}


@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_layers_one_after_the_other(name: str) -> None:
    plain = nn.Sequential(*CHAINS[name]()).eval()
    fast, x = copy.deepcopy(plain), torch.randn(2, 16, 9, 7)
    accelerate(fast)
    assert isinstance(fast, FastModule)
    assert_near(fast(x.clone()), plain(x.clone()))
    assert_near(run_chain(InferenceLayers(), plain, x.clone()), plain(x.clone()))


class _OwnSequential(nn.Sequential):
    pass


class _OwnBottleneck(Bottleneck):
    pass


LEFT_ALONE: dict[str, Callable[[], nn.Module]] = {
    "subclass of Sequential": lambda: _OwnSequential(nn.Linear(3, 3), nn.ReLU()),
    "subclass of Bottleneck": lambda: _OwnBottleneck(16, 4),
    "no convolution": lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
    "strided": lambda: nn.Conv2d(32, 32, 3, 2, 1),
    "5x5": lambda: nn.Conv2d(32, 32, 5, padding=2),
    "groups": lambda: nn.Conv2d(32, 32, 1, groups=2),
    "few outputs": lambda: nn.Conv2d(32, 16, 1),
    "linear": lambda: nn.Linear(64, 64),
    "lazy": lambda: nn.LazyConv2d(32, 3, padding=1),
    "other norm": lambda: NormedConv2d(16, 32, 1, norm=nn.GroupNorm(4, 32)),
    "other activation": lambda: NormedConv2d(16, 32, 1, activation=F.gelu),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_left_alone(name: str) -> None:
    module = LEFT_ALONE[name]()
    kind = type(module)
    accelerate(module)
    assert type(module) is kind


def test_changed_bottlenecks_are_left_alone() -> None:
    block = Bottleneck(16, 4)
    block.bn2 = nn.GroupNorm(2, 4)
    accelerate(block)
    assert type(block) is Bottleneck


@torch.no_grad()
def test_hooks_on_what_is_merged_are_called() -> None:
    tower, calls = make_tower(32, 32, num_convs=1, norm="GN").eval(), []
    accelerate(tower)
    x = torch.randn(1, 32, 8, 8)
    fast = tower(x)
    handle = tower[1].register_forward_hook(lambda *_: calls.append(1))
    assert_near(tower(x), fast)
    assert calls == [1]
    handle.remove()
    assert torch.equal(tower(x), fast) and calls == [1]


@torch.no_grad()
def test_other_devices_take_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_layers, "_fold", None)
    tower = small_towers().image.eval().to("meta")
    accelerate(tower)
    assert tower(torch.randn(1, 3, 64, 64, device="meta"))["res5"].shape == (1, CHANNELS, 2, 2)


@pytest.fixture
def pool() -> DenseAttentionPool:
    pool: DenseAttentionPool = small_towers().attention_pool.eval()
    accelerate(pool)
    return pool


def test_resized_embedding_is_kept_until_the_parameter_changes(
    pool: DenseAttentionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def counting_resize(embedding: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        calls.append(grid_hw)
        return resize_positional_embedding(embedding, grid_hw)

    monkeypatch.setattr(
        "tcm_d2.modeling.clip.attention_pool.resize_positional_embedding", counting_resize
    )
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
        for side in range(1, 2 * MAX_KEPT_GRIDS):
            pool(torch.randn(1, CHANNELS, side, 1))
            assert 1 <= len(pool._layers) <= MAX_KEPT_GRIDS


def test_fused_optimizer_step_in_eval_is_noticed(pool: DenseAttentionPool) -> None:
    """A fused step writes in place without raising the parameter's version."""
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


def test_gradient_in_eval_after_a_cached_call(pool: DenseAttentionPool) -> None:
    res5 = torch.randn(1, CHANNELS, 6, 5)
    with torch.inference_mode():
        pool(res5)
    with torch.no_grad():
        pool(res5)
    for _ in range(2):
        pool.zero_grad()
        pool(res5).dense_NCHW.sum().backward()
        assert pool.positional_embedding.grad.abs().max() > 0


@pytest.mark.skipif(
    not has_fast_kernels(torch.bfloat16), reason="needs kernels of ours for bfloat16"
)
@torch.no_grad()
def test_head_towers_stay_in_float32_under_autocast_where_that_is_as_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tower = make_tower(64, 64, num_convs=2, norm="GN").eval()
    accelerate(tower)
    x = torch.randn(1, 64, 32, 32).bfloat16()
    exact = tower(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_float32_as_fast(x)
        assert torch.equal(tower(x), exact)
        # AMX multiplies in bfloat16, many times as fast.
        monkeypatch.setattr("tcm_d2.cpu.packed._processor_has", lambda feature: True)
        assert not is_float32_as_fast(x) and tower(x).dtype == torch.bfloat16
    assert not is_float32_as_fast(x.float())
