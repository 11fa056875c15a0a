"""Evaluations on the way: the best weights are kept, runs without progress end; resumed too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tcm_d2.engine.experiment import Evaluation, Experiment
from tcm_d2.engine.loop import evaluate_only, train
from tests.engine.tiny_run import AnsweringDetector, DiesAt, make_experiment, map_record

# AP after iterations 1, 3, 5, 7.
RISING_AND_FALLING = {1: 10.0, 3: 30.0, 5: 20.0, 7: 25.0}


class _Scripted:
    """An evaluator whose AP stands in a list by the number of steps the weights have had."""

    def __init__(self, experiment: Experiment, scores: dict[int, float], *, dies_at: int) -> None:
        self._experiment, self._scores, self._dies_at = experiment, scores, dies_at

    def reset(self) -> None: ...

    def process(self, inputs: Any, outputs: Any) -> None: ...

    def evaluate(self) -> dict[str, dict[str, float]]:
        assert self._experiment.training is not None
        (steps,) = {int(s["step"]) for s in self._experiment.training.optimizer.state.values()}
        if steps - 1 == self._dies_at:
            raise KeyboardInterrupt
        return {"dota": {"AP50": self._scores[steps - 1], "AP50-plane": 99.0}}


def _experiment(
    folder: Path, scores: dict[int, float], *, dies_at: int = -1, **changes: Any
) -> Experiment:
    torch.manual_seed(3)
    plain = make_experiment(folder, model=AnsweringDetector(), eval_period=2, **changes)
    inputs = [[map_record({"index": 0})]]
    evaluation = Evaluation(
        "val", lambda: inputs, lambda: _Scripted(plain, scores, dies_at=dies_at)
    )
    return replace(plain, evaluations=(evaluation,))


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def _assert_same_bits(a: Path, b: Path) -> None:
    mine, other = _weights(a), _weights(b)
    assert [name for name in mine if not torch.equal(mine[name], other[name])] == []


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    train(_experiment(tmp_path, RISING_AND_FALLING), resume=False)
    # Checkpoints stand at 3 and 7; the best evaluation was after 3, the last after 7.
    _assert_same_bits(tmp_path / "model_best.pth", tmp_path / "model_0000003.pth")
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["value"] == 30.0
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    rows = json.loads((tmp_path / "evaluations.json").read_text())
    assert [(row["iteration"], row["value"]) for row in rows] == list(RISING_AND_FALLING.items())
    metrics = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [row["dota/AP50"] for row in metrics if "dota/AP50" in row][-1] == 25.0


@pytest.mark.parametrize("dies_at", [3, 5])
def test_a_resumed_run_remembers_the_best(tmp_path: Path, dies_at: int) -> None:
    """Cut off in the evaluation after 3, right after its checkpoint; or in the one after 5."""
    whole = train(_experiment(tmp_path / "whole", RISING_AND_FALLING), resume=False)
    with pytest.raises(KeyboardInterrupt):
        train(_experiment(tmp_path / "cut", RISING_AND_FALLING, dies_at=dies_at), resume=False)
    assert (tmp_path / "cut/last_checkpoint").read_text() == "model_0000003.pth"
    resumed = train(_experiment(tmp_path / "cut", RISING_AND_FALLING), resume=True)
    assert resumed == whole
    for name in ("model_best.pth", "model_final.pth"):
        _assert_same_bits(tmp_path / "whole" / name, tmp_path / "cut" / name)
    files = [tmp_path / name / "evaluations.json" for name in ("whole", "cut")]
    assert files[0].read_text() == files[1].read_text()


def test_training_ends_without_progress(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="tcm_d2")
    scores = {1: 30.0, 3: 20.0, 5: 30.0, 7: 90.0}
    results = train(_experiment(tmp_path, scores, patience=2), resume=False)
    assert results["dota"]["AP50"] == 30.0
    assert "no better evaluation in the last 2: training ends after iteration 5 of 8" in caplog.text
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["trainer"]["iteration"] == 5 and final["iteration"] == 5
    # Again, it is over at once; with more patience it goes on as if it had not ended.
    train(_experiment(tmp_path, scores, patience=2), resume=True)
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 5
    train(_experiment(tmp_path, scores, patience=3), resume=True)
    train(_experiment(tmp_path / "whole", scores), resume=False)
    _assert_same_bits(tmp_path / "whole/model_final.pth", tmp_path / "model_final.pth")
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["value"] == 90.0


def test_a_cut_between_evaluations_repeats_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(_experiment(tmp_path, RISING_AND_FALLING, mapper=DiesAt(5 * 4)), resume=False)
    scores = {5: 20.0, 7: 25.0}  # an evaluation after 3 would find no number
    train(_experiment(tmp_path, scores), resume=True)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 3


def test_a_damaged_list_of_evaluations_counts_as_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(_experiment(tmp_path, RISING_AND_FALLING, max_iter=4), resume=False)
    (tmp_path / "evaluations.json").write_text('[{"iteration": 1')
    train(_experiment(tmp_path, RISING_AND_FALLING), resume=True)
    assert "evaluations.json' cannot be read and counts as empty" in caplog.text


def test_best_and_last_name_the_files_of_the_folder(tmp_path: Path) -> None:
    def answer(weights: str) -> float:
        plain = make_experiment(tmp_path, model=AnsweringDetector(), weights=weights, seed=11)
        evaluation = Evaluation("val", lambda: [[map_record({"index": 0})]], _Answer)
        return evaluate_only(replace(plain, evaluations=(evaluation,)), resume=False)["bias"]

    for word in ("best", "last"):
        with pytest.raises(FileNotFoundError, match=f"MODEL.WEIGHTS '{word}': no "):
            answer(word)
    train(_experiment(tmp_path, RISING_AND_FALLING), resume=False)
    for word, name in (("best", "model_best.pth"), ("last", "model_final.pth")):
        assert answer(word) == _weights(tmp_path / name)["head.bias"].item()
    assert answer("best") != answer("last")
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS 'best': names a checkpoint of OUTPUT_D"):
        train(make_experiment(tmp_path, weights="best"), resume=False)


class _Answer:
    """Returns what the model answers."""

    def reset(self) -> None: ...

    def process(self, inputs: Any, outputs: Any) -> None:
        self.answer = outputs[0]

    def evaluate(self) -> dict[str, float]:
        return {"bias": self.answer}


def test_one_evaluation_at_the_end_makes_no_best(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path, {7: 1.0})
    assert experiment.training is not None
    train(replace(experiment, training=replace(experiment.training, eval_period=0)), resume=False)
    assert not (tmp_path / "model_best.pth").exists()
    assert not (tmp_path / "evaluations.json").exists()


def test_patience_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"EARLY_STOP_PATIENCE: .* got 3 with a period of 0"):
        make_experiment(tmp_path, patience=3)
