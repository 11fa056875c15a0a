"""A few kills of trainings; python -m tests.faults.killed_runs is the long run."""

from __future__ import annotations

from pathlib import Path

from tests.faults.killed_runs import run_campaign


def test_killed_runs_end_with_the_same_weights(tmp_path: Path) -> None:
    survived = run_campaign(tmp_path, seed=5, seconds=5, max_kills=3)
    assert not survived.faults
    assert survived.num_runs > 0
