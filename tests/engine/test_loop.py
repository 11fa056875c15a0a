"""The training loop on a tiny model: same bits again, resume, guards, what it writes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tcm_d2.engine.experiment import Experiment
from tcm_d2.engine.loop import evaluate, evaluate_only, train
from tcm_d2.engine.non_finite import NonFiniteLossError
from tests.engine.tiny_run import (
    AnsweringDetector,
    DiesAt,
    TinyDetector,
    make_experiment,
    map_record,
    with_evaluation,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _train(folder: Path, *, resume: bool = False, **changes: Any) -> dict[str, Tensor]:
    experiment = make_experiment(folder, **changes)
    train(experiment, resume=resume)
    return {k: v.clone() for k, v in experiment.model.state_dict().items()}


def _assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_second_run_gives_the_same_bits(tmp_path: Path) -> None:
    first = _train(tmp_path / "a")
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    _assert_same_bits(first, _train(tmp_path / "b"))
    other = _train(tmp_path / "c", seed=4)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_continues_bit_for_bit(tmp_path: Path, num_workers: int) -> None:
    """Cut off in iteration 6, two iterations after a checkpoint; data, dropout, AdamW, BN, lr."""
    whole = _train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "cut", mapper=DiesAt(6 * 4))
    assert (tmp_path / "cut/last_checkpoint").read_text() == "model_0000003.pth"
    resumed = _train(tmp_path / "cut", resume=True, num_workers=num_workers)
    _assert_same_bits(whole, resumed)
    final = torch.load(tmp_path / "cut/model_final.pth", weights_only=True)
    _assert_same_bits(whole, final["model"])
    assert final["trainer"]["iteration"] == 7


def test_resume_without_checkpoint_starts_anew_and_after_the_end_does_nothing(
    tmp_path: Path,
) -> None:
    whole = _train(tmp_path / "a")
    _assert_same_bits(whole, _train(tmp_path / "b", resume=True))
    _assert_same_bits(whole, _train(tmp_path / "b", resume=True))


def test_resume_from_plain_weights_says_so(tmp_path: Path) -> None:
    torch.save({"model": TinyDetector().state_dict()}, tmp_path / "w.pth")
    (tmp_path / "last_checkpoint").write_text("w.pth")
    with pytest.raises(ValueError, match="no 'trainer' state to resume from"):
        _train(tmp_path, resume=True)


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    _train(tmp_path)
    names = {p.name.split(".")[0] for p in tmp_path.iterdir()}
    assert {"model_0000003", "model_0000007", "model_final", "last_checkpoint"} <= names
    assert {"metrics", "events"} <= names
    assert not list(tmp_path.glob(".*"))  # no temporary file
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == list(range(8))
    assert rows[0]["total_loss"] == pytest.approx(rows[0]["loss_a"] + rows[0]["loss_b"])
    # The head is in the largest group: warm-up from a third in 3 iterations, a tenth from 6.
    wanted = [0.01 / 3, 0.05 / 9, 0.07 / 9, 0.01, 0.01, 0.01, 0.001, 0.001]
    tower_or_rest = [row["lr"] for row in rows]
    scale = tower_or_rest[3] / 0.01
    assert scale in (pytest.approx(1.0), pytest.approx(0.3))
    assert tower_or_rest == pytest.approx([scale * lr for lr in wanted])


def test_nan_loss_names_the_batch(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, mapper=partial(map_record, nan_index=7))
    before = {k: v.clone() for k, v in experiment.model.named_parameters()}
    with pytest.raises(NonFiniteLossError, match=r"iteration \d+: the loss.*image7\.png"):
        train(experiment, resume=False)
    (dump,) = tmp_path.glob("non_finite_iter*_rank0.json")
    (tensors,) = tmp_path.glob("non_finite_iter*_rank0.pth")
    facts = json.loads(dump.read_text())
    assert "image7.png" in [sample["file_name"] for sample in facts["batch"]]
    assert facts["losses"]["loss_a"] == "nan"
    samples = torch.load(tensors, weights_only=True)
    assert [s["file_name"] for s in samples] == [s["file_name"] for s in facts["batch"]]
    assert samples[0]["image"].shape == (3, 8, 8)
    assert all(bool(p.isfinite().all()) for p in experiment.model.parameters())
    assert before.keys() == dict(experiment.model.named_parameters()).keys()


class _InfiniteGradient(TinyDetector):
    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        losses = super().forward(batch)
        # sqrt has an infinite slope at 0 while its value is fine.
        return {**losses, "loss_c": (self.head.weight * 0).abs().sqrt().sum()}


def test_non_finite_gradient_names_the_batch_and_keeps_the_weights(tmp_path: Path) -> None:
    model = _InfiniteGradient()
    before = model.head.weight.detach().clone()
    with pytest.raises(
        NonFiniteLossError, match=r"gradient of head\.weight \(1 in all\) is.*image\d\.png"
    ):
        train(make_experiment(tmp_path, model=model), resume=False)
    assert torch.equal(model.head.weight, before)


def test_exception_in_the_model_is_logged_with_its_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(TinyDetector):
        def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        train(make_experiment(tmp_path, model=Failing()), resume=False)
    assert "iteration 0 failed on: image" in caplog.text


def test_skipped_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _train(tmp_path, mapper=partial(map_record, bad_index=2), num_workers=2)
    assert "skipped 1 unusable images" in caplog.text and "image2.png" in caplog.text


def test_bfloat16_runs_on_the_cpu(tmp_path: Path) -> None:
    full, half = _train(tmp_path / "a"), _train(tmp_path / "b", amp_dtype=torch.bfloat16)
    assert all(bool(v.isfinite().all()) for v in half.values())
    assert not torch.equal(full["head.weight"], half["head.weight"])
    assert half["head.weight"].dtype == torch.float32


def test_evaluation_at_the_end_is_reproduced_by_eval_only(tmp_path: Path) -> None:
    trained = with_evaluation(make_experiment(tmp_path, model=AnsweringDetector()))
    results = train(trained, resume=False)
    assert results["dota"]["AP50"] == pytest.approx(3 * trained.model.head.bias.item())
    assert trained.model.training
    # NaN is no JSON.
    text = (tmp_path / "metrics.json").read_text()
    assert "AP50" in text and "NaN" not in text
    fresh = with_evaluation(
        make_experiment(
            tmp_path, model=AnsweringDetector(), weights=str(tmp_path / "model_final.pth"), seed=11
        )
    )
    assert evaluate_only(fresh, resume=False)["dota"]["AP50"] == results["dota"]["AP50"]


def test_eval_only_wants_every_parameter(tmp_path: Path) -> None:
    state = TinyDetector().state_dict()
    del state["head.bias"]
    torch.save(state, tmp_path / "w.pth")
    experiment = make_experiment(tmp_path, weights=str(tmp_path / "w.pth"))
    with pytest.raises(ValueError, match=r"1 parameters of the model.*head\.bias"):
        evaluate_only(with_evaluation(experiment), resume=False)


def test_nothing_to_evaluate_or_train_is_an_error(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with pytest.raises(ValueError, match=r"DATASETS\.TEST"):
        evaluate(experiment)
    untrainable = Experiment(nn.Linear(1, 1), "", None, (), str(tmp_path), 0.0)
    with pytest.raises(ValueError, match="training part"):
        train(untrainable, resume=False)
