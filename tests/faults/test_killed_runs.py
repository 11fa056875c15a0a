"""A few kills of trainings; python -m tests.faults.killed_runs is the long run."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPO_DIR


def test_killed_runs_end_with_the_same_weights() -> None:
    # In a process of its own: it forks, which torch cannot once it has computed gradients.
    command = [sys.executable, "-m", "tests.faults.killed_runs", "--minutes", "0.08", "--seed", "5"]
    done = subprocess.run(command, cwd=REPO_DIR, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 kills" not in done.stdout
