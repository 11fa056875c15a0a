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
from tests.engine.launch_targets import fail_on_rank_one, write_place

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


def test_childs_error_is_shown() -> None:
    with pytest.raises(Exception, match="the reason is written here"):
        launch(fail_on_rank_one, 2, args=("",), use_cuda=False)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _run_together(folder: Path, calls: list[tuple[dict[str, object], str]]) -> list[list[int]]:
    """Run ``launch(write_place, 1, <options>)`` at once in fresh processes.

    Args:
        folder: for the result.
        calls: variables of each process's environment, and more arguments of its call.

    Returns:
        What `write_place` says: rank, world size, local rank, local size of each.
    """
    started = []
    for variables, options in calls:
        code = IMPORTS.format("write_place") + "if __name__ == '__main__':\n"
        code += f"    launch(write_place, 1, args=(sys.argv[1],), use_cuda=False{options})\n"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        environment |= {"PYTHONPATH": str(REPO_DIR), **{k: str(v) for k, v in variables.items()}}
        command = [sys.executable, "-c", code, str(folder)]
        started.append(subprocess.Popen(command, env=environment, cwd=REPO_DIR))
    assert [process.wait(timeout=120) for process in started] == [0] * len(calls)
    places: list[list[int]] = json.loads((folder / "place.json").read_text())
    return places


def test_torchrun_variables_are_used(tmp_path: Path) -> None:
    calls: list[tuple[dict[str, object], str]] = []
    port = _free_port()
    for rank in range(2):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        calls.append(({**variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}, ""))
    assert _run_together(tmp_path, calls) == [[0, 2, 0, 2], [1, 2, 1, 2]]


def test_slurm_variables_are_used(tmp_path: Path) -> None:
    """Two tasks of one machine, as srun starts them; address and port by ourselves."""
    common = {"SLURM_NTASKS": 2, "SLURM_TASKS_PER_NODE": "2", "SLURM_NODELIST": "localhost"}
    # A job number that leads to a free port.
    common |= {"SLURM_JOB_ID": _free_job_id(), "SLURM_STEP_ID": 0}
    calls: list[tuple[dict[str, object], str]] = [
        ({**common, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}, "") for rank in range(2)
    ]
    assert _run_together(tmp_path, calls) == [[0, 2, 0, 2], [1, 2, 1, 2]]


def _free_job_id() -> int:
    for job_id in range(os.getpid(), os.getpid() + 100):
        with socket.socket() as candidate:
            if candidate.connect_ex(("127.0.0.1", 20000 + job_id % 10000)) != 0:
                return job_id
    raise AssertionError("no free port")


def test_two_machines_train_together(tmp_path: Path) -> None:
    """Detectron2's arguments; each "machine" is a launcher that starts one process."""
    url = f"tcp://127.0.0.1:{_free_port()}"
    calls: list[tuple[dict[str, object], str]] = [
        ({}, f", num_machines=2, machine_rank={rank}, dist_url={url!r}") for rank in range(2)
    ]
    assert _run_together(tmp_path, calls) == [[0, 2, 0, 1], [1, 2, 0, 1]]


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
