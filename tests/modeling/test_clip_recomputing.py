"""Activation checkpointing: same losses, gradients and statistics, less memory kept."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tcm_d2.layers.recomputing as recomputing_module
from tcm_d2.layers.recomputing import run_past_norm, run_recomputed
from tests.modeling.test_one_stage import tiny_config, two_inputs


def make_pair(**options) -> tuple[nn.Module, nn.Module]:
    """Return one detector without and one with checkpointing, of the same weights."""
    cfg = tiny_config(**options)
    plain = build_model(cfg).train()
    cfg.MODEL.CHECKPOINT_ACTIVATIONS = True
    recomputing = build_model(cfg).train()
    recomputing.load_state_dict(plain.state_dict())
    return plain, recomputing


def saved_bytes(model: nn.Module) -> int:
    """Return the memory that a forward pass keeps for the backward pass."""
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        losses = model(two_inputs())
    del losses
    return sum(storages.values())


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_losses_gradients_and_statistics_are_the_same(norm: str) -> None:
    cfg = tiny_config()
    cfg.MODEL.CLIP.NORM = norm
    plain = build_model(cfg).train()
    cfg.MODEL.CHECKPOINT_ACTIVATIONS = True
    recomputing = build_model(cfg).train()
    recomputing.load_state_dict(plain.state_dict())
    losses = []
    for model in (plain, recomputing):
        losses.append(model(two_inputs()))
        sum(losses[-1].values()).backward()
    assert all(torch.equal(losses[1][name], value) for name, value in losses[0].items())
    theirs = dict(recomputing.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(theirs[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
    theirs = dict(recomputing.named_buffers())
    for name, buffer in plain.named_buffers():
        assert torch.equal(theirs[name], buffer), name
    norms = [m for m in recomputing.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(n.momentum > 0 and n.num_batches_tracked == 1 for n in norms)


def test_less_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, recomputing = make_pair()
    kept, kept_checkpointing = saved_bytes(plain), saved_bytes(recomputing)
    monkeypatch.setattr(recomputing_module, "_keeps_its_input", lambda module: False)
    kept_by_torch = saved_bytes(plain)
    assert kept < 0.7 * kept_by_torch
    assert kept_checkpointing < 0.5 * kept_by_torch


def test_light_norms_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    light = build_model(tiny_config()).train()
    full = copy.deepcopy(light)
    sum(light(two_inputs()).values()).backward()
    monkeypatch.setattr(recomputing_module, "_keeps_its_input", lambda module: False)
    sum(full(two_inputs()).values()).backward()
    for (name, one), other in zip(light.named_parameters(), full.parameters(), strict=True):
        assert other.grad is None or torch.equal(one.grad, other.grad), name
    for (name, one), other in zip(light.named_buffers(), full.buffers(), strict=True):
        assert torch.equal(one, other), name


def test_the_convolution_behind_a_norm_runs_once() -> None:
    conv, norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    counts: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            counts[func.__name__] += 1
            return func(*args, **(kwargs or {}))

    with Count():
        run_past_norm(lambda x: conv(norm(x).relu_()), x, norms_of=norm).sum().backward()
    assert counts["convolution.default"] == counts["convolution_backward.default"] == 1
    assert counts["native_batch_norm.default"] == 2


def test_under_autocast() -> None:
    plain, recomputing = make_pair()
    grads = []
    for model in (plain, recomputing):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model(two_inputs())
        sum(losses.values()).backward()
        grads.append(model.backbone.conv1.weight.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-2, atol=1e-4)


def test_evaluation_is_unchanged() -> None:
    plain, recomputing = make_pair()
    boxes = []
    for model in (plain, recomputing):
        model.eval()
        model.head.score_threshold = 0.0
        with torch.no_grad():
            boxes.append(model(two_inputs())[0]["instances"].pred_boxes.tensor)
    assert len(boxes[0]) and torch.equal(boxes[0], boxes[1])


def test_dropout_draws_the_same_numbers_in_both_runs() -> None:
    layer = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5))
    other = copy.deepcopy(layer)
    x = torch.randn(4, 8, requires_grad=True)
    torch.manual_seed(1)
    layer(x).square().sum().backward()
    torch.manual_seed(1)
    run_recomputed(other, x, norms_of=other).square().sum().backward()
    torch.testing.assert_close(other[0].weight.grad, layer[0].weight.grad)
