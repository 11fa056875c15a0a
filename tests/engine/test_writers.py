"""The writers of docs/training.md as they stand there, on fakes of the libraries they call."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from detectron2.engine import HookBase

from tcm_d2.engine.loop import train
from tests.docs.blocks import ROOT, read_blocks
from tests.engine.tiny_run import AnsweringDetector, DiesAt, make_experiment, with_evaluation


class _Recorder(ModuleType):
    """Stands for wandb and mlflow: keeps the calls that the writers make."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> SimpleNamespace:
            self.calls.append((name, args, options))
            return SimpleNamespace(log=self.log, finish=self.finish)

        return call


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the document's file defines; wandb and mlflow are recorders."""
    (text,) = [
        block.text
        for block in read_blocks(ROOT / "docs/training.md")
        if block.text.startswith("# my_writers.py")
    ]
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, _Recorder(name))
    names: dict[str, Any] = {}
    exec(compile(text, "my_writers.py", "exec"), names)
    return names


def test_each_writer_gets_each_number_once(tmp_path: Path, shown: dict[str, Any]) -> None:
    path = tmp_path / "numbers.csv"
    writers = [shown["CsvWriter"](path), shown["WandbWriter"]("ships"), shown["MlflowWriter"]()]
    experiment = with_evaluation(make_experiment(tmp_path / "out", model=AnsweringDetector()))
    results = train(experiment, resume=False, writers=writers)
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    losses = [row for row in rows if row[1] == "total_loss"]
    assert [int(row[0]) for row in losses] == list(range(8))
    (last,) = [row for row in rows if row[1] == "dota/AP50"]
    assert float(last[2]) == results["dota"]["AP50"]
    for name, method in (("wandb", "log"), ("mlflow", "log_metrics")):
        calls = sys.modules[name].calls
        logged = [(o["step"], a[0]) for called, a, o in calls if called == method]
        by_step = {step: values for step, values in logged if "total_loss" in values}
        assert list(by_step) == list(range(8))
        assert [v["dota/AP50"] for _, v in logged if "dota/AP50" in v] == [results["dota"]["AP50"]]
        assert calls[-1][0] in ("finish", "end_run")
    assert sys.modules["wandb"].calls[0][2]["project"] == "ships"


class _Counter(HookBase):
    """Counts steps, over a resume too, and says so to the writers."""

    def __init__(self) -> None:
        self.num_steps = 0

    def after_step(self) -> None:
        self.num_steps += 1
        self.trainer.storage.put_scalar("num_steps", self.num_steps, smoothing_hint=False)

    def state_dict(self) -> dict[str, int]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.num_steps = state["num_steps"]


def test_a_hook_is_called_and_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(make_experiment(tmp_path, mapper=DiesAt(6 * 4)), resume=False, hooks=[_Counter()])
    counter = _Counter()
    train(make_experiment(tmp_path), resume=True, hooks=[counter])
    assert counter.num_steps == 8
    assert '"num_steps": ' in (tmp_path / "metrics.json").read_text()
