"""The moving average of the weights: its numbers, and its way through checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tcm_d2.checkpoint.load import EMA_KEY
from tcm_d2.engine.ema import WeightAverage
from tcm_d2.engine.experiment import Experiment
from tcm_d2.engine.loop import evaluate_only, train
from tests.engine.tiny_run import (
    AnsweringDetector,
    DiesAt,
    TinyDetector,
    make_experiment,
    with_evaluation,
)


def test_average_follows_the_rule() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay=0.15)
    wanted = 0.0
    for iteration, value in enumerate((1.0, 2.0, -1.0)):
        nn.init.constant_(model.weight, value)
        average.update(iteration)
        # Warm-up 1/10, 2/11 and 3/12; the last two are above the decay.
        decay = (0.1, 0.15, 0.15)[iteration]
        wanted = decay * wanted + (1 - decay) * value
        assert average.state_dict()["weight"].item() == pytest.approx(wanted, rel=1e-6)
    assert model.weight.item() == -1.0


def test_all_that_changes_is_averaged() -> None:
    model = TinyDetector()
    average = WeightAverage(model, decay=0.9)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    average.update(1000)
    live, averaged = model.state_dict(), average.state_dict()
    assert list(averaged) == list(live)
    unchanged = [name for name in live if torch.equal(live[name], averaged[name])]
    # Frozen: the model's own. Counts: the model's own.
    assert unchanged == [
        "backbone.1.num_batches_tracked",
        "text_encoder.weight",
        "text_encoder.bias",
    ]
    name = "backbone.1.running_var"
    torch.testing.assert_close(averaged[name], live[name] - 0.9)


def test_swapping_gives_back_the_bits_also_after_an_error() -> None:
    model = TinyDetector()
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        model.head.weight.mul_(1.1)
    average.update(100)
    live = {k: v.clone() for k, v in model.state_dict().items()}
    averaged = {k: v.clone() for k, v in average.state_dict().items()}
    with pytest.raises(RuntimeError, match="boom"), average.swapped_in():
        assert torch.equal(model.head.weight, averaged["head.weight"])
        assert not torch.equal(model.head.weight, live["head.weight"])
        raise RuntimeError("boom")
    assert all(torch.equal(v, live[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(v, averaged[k]) for k, v in average.state_dict().items())


def test_shared_tensor_is_averaged_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    average = WeightAverage(model, decay=0.5)
    before = model["a"].weight.detach().clone()
    with torch.no_grad():
        model["a"].weight.add_(1)
    average.update(100)
    state = average.state_dict()
    torch.testing.assert_close(state["a.weight"], before + 0.5)
    assert torch.equal(state["a.weight"], state["b.weight"])
    with average.swapped_in():
        torch.testing.assert_close(model["b"].weight.detach(), before + 0.5)
    torch.testing.assert_close(model["b"].weight.detach(), before + 1)


def test_resume_restores_the_average_bit_for_bit(tmp_path: Path) -> None:
    train(make_experiment(tmp_path / "whole", ema_decay=0.9), resume=False)
    with pytest.raises(KeyboardInterrupt):
        train(make_experiment(tmp_path / "cut", ema_decay=0.9, mapper=DiesAt(6 * 4)), resume=False)
    train(make_experiment(tmp_path / "cut", ema_decay=0.9), resume=True)
    whole, cut = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)
        for name in ("whole", "cut")
    )
    assert whole[EMA_KEY].keys() == whole["model"].keys()
    assert not torch.equal(whole[EMA_KEY]["head.weight"], whole["model"]["head.weight"])
    for key in ("model", EMA_KEY):
        assert all(torch.equal(value, cut[key][name]) for name, value in whole[key].items())


def test_average_starts_from_loaded_weights(tmp_path: Path) -> None:
    torch.manual_seed(7)
    loaded = TinyDetector().state_dict()
    torch.save(loaded, tmp_path / "w.pth")
    experiment = make_experiment(
        tmp_path, ema_decay=0.9, weights=str(tmp_path / "w.pth"), max_iter=1
    )
    train(experiment, resume=False)
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    # One update, with the first decay of the warm-up.
    wanted = 0.1 * loaded["head.weight"] + 0.9 * final["model"]["head.weight"]
    torch.testing.assert_close(final[EMA_KEY]["head.weight"], wanted)


def test_evaluations_use_the_average(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In training, and alone on a checkpoint; not where it is off."""
    caplog.set_level("INFO", logger="tcm_d2")
    trained = with_evaluation(make_experiment(tmp_path, model=AnsweringDetector(), ema_decay=0.9))
    results = train(trained, resume=False)
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    ap = {key: 3 * final[key]["head.bias"].item() for key in ("model", EMA_KEY)}
    assert abs(ap["model"] - ap[EMA_KEY]) > 1e-3
    assert results["dota"]["AP50"] == pytest.approx(ap[EMA_KEY])
    assert trained.model.head.bias.item() * 3 == pytest.approx(ap["model"])

    def evaluate_file(path: Path, ema_decay: float) -> float:
        experiment = make_experiment(
            tmp_path, model=AnsweringDetector(), weights=str(path), ema_decay=ema_decay
        )
        return float(evaluate_only(with_evaluation(experiment), resume=False)["dota"]["AP50"])

    assert evaluate_file(tmp_path / "model_final.pth", 0.9) == results["dota"]["AP50"]
    assert "evaluating the moving average of the weights" in caplog.text
    assert evaluate_file(tmp_path / "model_final.pth", 0.0) == pytest.approx(ap["model"])
    torch.save({"model": final["model"]}, tmp_path / "plain.pth")
    assert evaluate_file(tmp_path / "plain.pth", 0.9) == pytest.approx(ap["model"])
    assert "plain.pth holds no 'model_ema'" in caplog.text


def test_resuming_without_an_average_or_with_a_bad_one_says_so(tmp_path: Path) -> None:
    train(make_experiment(tmp_path), resume=False)
    with pytest.raises(ValueError, match="no 'model_ema' state to resume from"):
        train(make_experiment(tmp_path, ema_decay=0.9, max_iter=12), resume=True)
    average = WeightAverage(TinyDetector(), decay=0.9)
    state = average.state_dict()
    del state["head.bias"]
    with pytest.raises(ValueError, match=r"model_ema: expected 'head\.bias' of shape \(1,\)"):
        average.load_state_dict(state)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"SOLVER\.EMA_DECAY: expected a number from 0"):
        Experiment(nn.Linear(1, 1), "", None, (), "", decay)
