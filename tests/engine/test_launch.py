"""Starting several processes on a machine without CUDA, by ourselves and under torchrun."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tcm_d2.engine.launch import launch
from tests.engine.launch_targets import fail_on_rank_one, train_tiny, write_place

REPO_DIR = Path(__file__).resolve().parents[2]
IMPORTS = """
import sys
from tests.engine.launch_targets import {}
from tcm_d2.engine.launch import launch
"""


def test_one_process_runs_in_place(tmp_path: Path) -> None:
    for num_gpus in (0, 1):
        launch(write_place, num_gpus, args=(str(tmp_path),), use_cuda=False)
        assert json.loads((tmp_path / "place.json").read_text()) == [[0, 1, 0, 1]]
    assert not torch.distributed.is_initialized()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """2 x batch 2 sees the samples of 1 x batch 4, and the mean loss and gradient are its own."""
    launch(train_tiny, 1, args=(str(tmp_path / "one"),), use_cuda=False)
    launch(train_tiny, 2, args=(str(tmp_path / "two"),), use_cuda=False)
    runs = []
    for name in ("one", "two"):
        lines = (tmp_path / name / "metrics.json").read_text().splitlines()
        runs.append([json.loads(line)["total_loss"] for line in lines])
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)
    one, two = (
        torch.load(tmp_path / n / "model_final.pth", weights_only=True)["model"]
        for n in ("one", "two")
    )
    for name, value in one.items():
        # AdamW divides by the gradient's size, which lifts rounding where it is small.
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


def test_childs_error_is_shown() -> None:
    with pytest.raises(Exception, match="the reason is written here"):
        launch(fail_on_rank_one, 2, args=("",), use_cuda=False)


def test_torchrun_variables_are_used(tmp_path: Path) -> None:
    code = IMPORTS.format("write_place")
    code += "launch(write_place, 1, args=(sys.argv[1],), use_cuda=False)\n"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": REPO_DIR}
        environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
        command = [sys.executable, "-c", code, str(tmp_path)]
        started.append(subprocess.Popen(command, env=environment, cwd=REPO_DIR))
    assert [process.wait(timeout=60) for process in started] == [0, 0]
    assert json.loads((tmp_path / "place.json").read_text()) == [[0, 2, 0, 2], [1, 2, 1, 2]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's prctl")
def test_children_die_with_the_parent(tmp_path: Path) -> None:
    code = IMPORTS.format("sleep_long") + "if __name__ == '__main__':\n"
    code += "    launch(sleep_long, 2, args=(sys.argv[1],), use_cuda=False)\n"
    environment = {**os.environ, "PYTHONPATH": str(REPO_DIR)}
    script = tmp_path / "script.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    files = [tmp_path / f"pid{rank}" for rank in range(2)]
    _wait_until(lambda: all(f.is_file() and f.read_text() for f in files), 60)
    pids = [int(f.read_text()) for f in files]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), 20)


def _wait_until(condition: object, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--machine-rank: expected 0 \.\. 0"):
        launch(write_place, 1, machine_rank=1, use_cuda=False)
    with pytest.raises(ValueError, match="--dist-url"):
        launch(write_place, 1, num_machines=2, use_cuda=False)


def test_torchrun_variable_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(ValueError, match="RANK: expected an integer, got 'x'"):
        launch(write_place, 1, use_cuda=False)
