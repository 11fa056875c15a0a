"""NaN and infinity: skipped steps change nothing and are counted; the loss scale's do not."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tcm_d2.engine import non_finite
from tcm_d2.engine.loop import train
from tcm_d2.engine.non_finite import NonFiniteLossError
from tests.engine.tiny_run import TinyDetector, make_experiment, map_record


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


class _WatchedDetector(TinyDetector):
    """Remembers the state before each forward pass, and which batch had the bad image."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[dict[str, Tensor]] = []
        self.had_nan: list[bool] = []

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        self.states.append({k: v.clone() for k, v in self.state_dict().items()})
        self.had_nan.append(any(sample["target"] != sample["target"] for sample in batch))
        return super().forward(batch)


def test_skipped_step_leaves_everything_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = _WatchedDetector()
    mapper = partial(map_record, nan_index=7)
    train(
        make_experiment(tmp_path, model=model, mapper=mapper, on_non_finite="skip", ema_decay=0.5),
        resume=False,
    )
    model.states.append(model.state_dict())
    for before, after, skipped in zip(
        model.states[:-1], model.states[1:], model.had_nan, strict=True
    ):
        same = all(torch.equal(before[k], after[k]) for k in before)  # BatchNorm's buffers too
        assert same == skipped
    num_skipped = sum(model.had_nan)
    assert 0 < num_skipped < len(model.had_nan) == 8
    rows = _rows(tmp_path)
    assert rows[-1]["num_skipped_steps"] == num_skipped
    assert sum("total_loss" in row for row in rows) == 8 - num_skipped
    assert len(list(tmp_path.glob("non_finite_iter*.json"))) == num_skipped
    assert f"skipped, {num_skipped} in all so far: the loss is not finite" in caplog.text
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert final["trainer"]["non_finite"]["num_skipped"] == num_skipped
    assert all(v.isfinite().all() for v in final["model_ema"].values() if v.is_floating_point())


def test_number_of_dumps_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(non_finite, "MAX_DUMPS", 1)
    mapper = partial(map_record, nan_index=7)
    train(make_experiment(tmp_path, mapper=mapper, on_non_finite="skip"), resume=False)
    assert _rows(tmp_path)[-1]["num_skipped_steps"] > 1
    assert len(list(tmp_path.glob("non_finite_iter*.json"))) == 1


def test_too_many_skips_in_a_row_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(non_finite, "MAX_SUCCESSIVE_SKIPS", 3)
    model = TinyDetector()
    nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(NonFiniteLossError, match="iteration 3: 4 steps in a row without a finite"):
        train(make_experiment(tmp_path, model=model, on_non_finite="skip"), resume=False)


class _InfiniteGradient(TinyDetector):
    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        losses = super().forward(batch)
        # sqrt has an infinite slope at 0 while its value is fine.
        factor = 0.0 if any(sample["index"] == 7 for sample in batch) else 1.0
        return {**losses, "loss_c": (self.head.weight * factor).abs().sqrt().sum()}


def test_step_with_an_infinite_gradient_is_skipped_too(tmp_path: Path) -> None:
    model = _InfiniteGradient()
    train(make_experiment(tmp_path, model=model, on_non_finite="skip"), resume=False)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert _rows(tmp_path)[-1]["num_skipped_steps"] > 0
    assert all(row["grad_norm"] > 0 for row in _rows(tmp_path) if "grad_norm" in row)


def test_unknown_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"SOLVER\.ON_NON_FINITE: expected one of .*'ignore'"):
        make_experiment(tmp_path, on_non_finite="ignore")


class _HalfDetector(TinyDetector):
    """Its gradient in float16 overflows until the loss scale has come down."""

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        losses = super().forward(batch)
        return {name: 100 * loss for name, loss in losses.items()}


def test_loss_scale_too_high_costs_a_few_steps_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The scaler's own skips neither stop the run nor count as bad steps."""
    caplog.set_level("INFO", logger="tcm_d2")
    experiment = make_experiment(
        tmp_path, model=_HalfDetector(dropout=0.0), amp_dtype=torch.float16, max_iter=20
    )
    train(experiment, resume=False)
    assert "no step, the loss scale was too high" in caplog.text
    rows = _rows(tmp_path)
    scales = [row["grad_scale"] for row in rows]
    assert scales[0] == 65536.0 and scales[-1] < scales[0]
    num_lowered = sum(a > b for a, b in pairwise(scales))
    steps = [int(s["step"]) for s in experiment.training.optimizer.state_dict()["state"].values()]
    assert set(steps) == {20 - num_lowered} != {20}
    assert sum("total_loss" in row for row in rows) == 20 - num_lowered
    assert not list(tmp_path.glob("non_finite*"))


def test_clipping_and_the_norm_see_the_unscaled_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fused optimizer unscales in its own kernel, after the clipping."""
    # A scale at which the very first step does not overflow.
    scaler = partial(torch.amp.GradScaler, init_scale=256.0)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    norms = []
    for folder, dtype in ((tmp_path / "full", None), (tmp_path / "half", torch.float16)):
        torch.manual_seed(0)
        experiment = make_experiment(
            folder, model=TinyDetector(dropout=0.0), amp_dtype=dtype, max_iter=1
        )
        train(experiment, resume=False)
        norms.append(_rows(folder)[0]["grad_norm"])
        # After one step AdamW's first moment is a tenth of the clipped gradient.
        state = experiment.training.optimizer.state_dict()["state"].values()
        first_moment = torch.cat([s["exp_avg"].flatten() for s in state])
        assert first_moment.norm().item() == pytest.approx(0.1 * 0.1, rel=1e-3)
    assert norms[1] == pytest.approx(norms[0], rel=0.02) and norms[0] > 0.1


class _RaisesOnNan(TinyDetector):
    """torch's binary_cross_entropy, and on CUDA an assertion that ends the process, do so."""

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        losses = super().forward(batch)
        score = losses["loss_a"].detach().clamp(0, 1)
        return {**losses, "loss_c": nn.functional.binary_cross_entropy(score, torch.ones(()))}


def test_loss_that_raises_on_nan_is_skipped(tmp_path: Path) -> None:
    mapper = partial(map_record, nan_index=7)
    train(
        make_experiment(tmp_path, model=_RaisesOnNan(), mapper=mapper, on_non_finite="skip"),
        resume=False,
    )
    assert _rows(tmp_path)[-1]["num_skipped_steps"] > 0
    assert len(list(tmp_path.glob("non_finite_iter*.pth"))) > 0


def test_loss_that_raises_on_nan_stops_with_a_dump(tmp_path: Path) -> None:
    mapper = partial(map_record, nan_index=7)
    with pytest.raises(NonFiniteLossError, match="all elements of input should be between 0 and 1"):
        train(make_experiment(tmp_path, model=_RaisesOnNan(), mapper=mapper), resume=False)
    assert len(list(tmp_path.glob("non_finite_iter*.json"))) == 1


def test_other_errors_of_the_model_are_raised_as_they_are(tmp_path: Path) -> None:
    class Broken(TinyDetector):
        def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        train(make_experiment(tmp_path, model=Broken(), on_non_finite="skip"), resume=False)
