"""Two processes over gloo against one: losses, weights, norms, and leaving a step together."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tcm_d2.engine.launch import launch
from tests.engine.parallel_jobs import run_all


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of what one process and what two processes left."""
    root = tmp_path_factory.mktemp("runs")
    launch(run_all, 1, args=(str(root / "one"), 4), use_cuda=False)
    launch(run_all, 2, args=(str(root / "two"), 2), use_cuda=False)
    return root / "one", root / "two"


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def _assert_trained_alike(one: Path, two: Path) -> None:
    losses = [[row["total_loss"] for row in _rows(folder)] for folder in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    states = [
        torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (one, two)
    ]
    for name, value in states[0].items():
        # Each process has its own running statistics, of the images it saw.
        if "running" not in name and "num_batches" not in name:
            # AdamW divides by the gradient's size, which lifts rounding where it is small.
            torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-5)


def test_two_processes_train_as_one(runs: tuple[Path, Path]) -> None:
    """2 x batch 2 sees the samples of 1 x batch 4, and the mean loss and gradient are its own."""
    _assert_trained_alike(*(run / "plain" for run in runs))


def test_passes_equal_processes(runs: tuple[Path, Path]) -> None:
    """4 passes in one process are 2 passes in each of 2, dropout and batch statistics included."""
    _assert_trained_alike(*(run / "passes" for run in runs))


def test_processes_skip_together(runs: tuple[Path, Path]) -> None:
    """One image is bad, mostly in one of two processes: both leave the step out, stay alike."""
    folder = runs[1] / "skip"
    hashes = [(folder / f"parameters{rank}").read_text() for rank in range(2)]
    assert hashes[0] == hashes[1]
    skipped = _rows(folder)[-1]["num_skipped_steps"]
    dumps = [p.name.split("_rank") for p in folder.glob("non_finite_iter*.json")]
    iterations = [iteration for iteration, _ in dumps]
    assert skipped == len(set(iterations)) < 8
    # Some steps were left out by a process that saw nothing itself.
    assert min(Counter(iterations).values()) == 1
    assert skipped == _rows(runs[0] / "skip")[-1]["num_skipped_steps"]


def test_processes_stop_together_with_one_reason(runs: tuple[Path, Path]) -> None:
    reasons = [(runs[1] / "stop" / f"error{rank}").read_text() for rank in range(2)]
    assert reasons[0] == reasons[1]
    assert "the loss is not finite" in reasons[0] and "image7.png" in reasons[0]


def _ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in range(2)]


# float32 against float64: values of size 100 have 7 digits.
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 1e-5)])
def test_synchronised_norm_is_one_norm_over_all_images(
    runs: tuple[Path, Path], dtype: str, rtol: float
) -> None:
    """Parts of 3 and 1 images, against torch's own BatchNorm on all 4 in float64."""
    wanted = torch.load(runs[0] / "norm/rank0.pth", weights_only=True)["float64"]
    ranks = [rank[dtype] for rank in _ranks(runs[1] / "norm")]
    for name, value in wanted.items():
        if name in ("grad_input", "evaluated"):
            found = torch.cat([rank[name] for rank in ranks])
            torch.testing.assert_close(found.double(), value, rtol=rtol, atol=rtol)
        else:
            for rank in ranks:
                torch.testing.assert_close(rank[name].double(), value, rtol=rtol, atol=rtol)


def test_score_map_loss_is_normalised_over_all_processes(runs: tuple[Path, Path]) -> None:
    wanted = torch.load(runs[0] / "score_map/rank0.pth", weights_only=True)
    ranks = _ranks(runs[1] / "score_map")
    torch.testing.assert_close(torch.cat([rank["grad"] for rank in ranks]), wanted["grad"])
    torch.testing.assert_close((ranks[0]["loss"] + ranks[1]["loss"]) / 2, wanted["loss"])


def test_processes_end_a_run_without_progress_together(runs: tuple[Path, Path]) -> None:
    """The main process's evaluations decide; the others see better and better ones."""
    for folder in (run / "early" for run in runs):
        scores = json.loads((folder / "evaluations.json").read_text())
        assert [(row["iteration"], row["value"]) for row in scores] == [(1, 49), (3, 48), (5, 47)]
        final, best = (
            torch.load(folder / f"model_{name}.pth", weights_only=True)["iteration"]
            for name in ("final", "best")
        )
        assert (final, best) == (5, 1)
    assert (runs[1] / "early/ended1").is_file()
