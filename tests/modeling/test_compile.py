"""The dense part as one graph of torch.compile: no break, same values; a quick backend here."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_model

from tests.modeling.test_one_stage import tiny_config, two_inputs


@pytest.fixture(autouse=True)
def _quick_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tcm_d2.modeling.detector.COMPILE_BACKEND", "aot_eager")
    torch._dynamo.reset()


def make_pair(**options):
    """Return an eager and a compiled detector of the same weights."""
    cfg = tiny_config(**options)
    eager = build_model(cfg)
    cfg.TRAIN.COMPILE = cfg.TEST.COMPILE = True
    compiled = build_model(cfg)
    compiled.load_state_dict(eager.state_dict())
    return eager, compiled


@pytest.mark.parametrize(
    "options", [{}, {"prompt_generator": "image"}, {"tcm": False}], ids=["none", "image", "plain"]
)
def test_training_gives_the_same_losses_and_gradients(options: dict) -> None:
    models = make_pair(**options)
    losses = []
    for model in models:
        losses.append(model.train()(two_inputs()))
        sum(losses[-1].values()).backward()
    assert models[1]._compiled is not None and models[0]._compiled is None
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-4, atol=1e-6)
    theirs = dict(models[1].named_parameters())
    for name, parameter in models[0].named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(theirs[name].grad, parameter.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_inference_gives_the_same_boxes(dtype: torch.dtype | None) -> None:
    eager, compiled = (model.eval() for model in make_pair())
    found = []
    for model in (eager, compiled):
        model.head.score_threshold = 0.0
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            found.append(model(two_inputs())[0]["instances"])
    assert compiled._compiled is not None
    # In half precision near ties may change places.
    assert len(found[0]) == len(found[1]) or dtype is not None
    if dtype is None:
        torch.testing.assert_close(found[1].scores, found[0].scores, rtol=1e-4, atol=1e-6)


def test_changed_weights_are_followed_and_copies_are_their_own() -> None:
    _, model = make_pair()
    model.eval().head.score_threshold = 0.0
    with torch.no_grad():
        before = model(two_inputs())[0]["instances"].scores
        other = copy.deepcopy(model)
        assert other._compiled is None
        other.head.class_predictor.bias.add_(1.0)
        changed = other(two_inputs())[0]["instances"].scores
        again = model(two_inputs())[0]["instances"].scores
    torch.testing.assert_close(again, before)
    assert changed.shape != before.shape or not torch.allclose(changed, before)
