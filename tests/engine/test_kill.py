"""Killed with -9, while it trains or while it writes a checkpoint, a run goes on bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tcm_d2.engine.loop import train
from tests.conftest import REPO_DIR
from tests.engine.small_detector import DATASET_NAME, make_patches, write_config
from tests.engine.tiny_run import make_experiment

NUM_ITERATIONS = 12


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO_DIR)}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPO_DIR,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A group of its own: the loading processes are killed with it.
        start_new_session=True,
    )


def _kill_when(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def _losses(folder: Path) -> dict[int, dict[str, float]]:
    """Return the losses by iteration; what was done again after the kill comes last."""
    found = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        row = json.loads(line)
        found[row["iteration"]] = {k: v for k, v in row.items() if "loss" in k or k == "grad_norm"}
    return found


def test_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """The real detector by the command line: dropout, AdamW, BatchNorm, average, two loaders."""
    config = write_config(tmp_path)
    entry = f"{DATASET_NAME}={make_patches(tmp_path / 'data')}"

    def command(name: str, *options: str) -> list[str]:
        overrides = {
            "DATASETS.PATCH_DIRS": repr([entry]),
            "DATALOADER.NUM_WORKERS": "2",
            "INPUT.ROTATION_PROB": "0.5",
            "MODEL.META_ARCHITECTURE": "TCMRotatedATSS",
            "OUTPUT_DIR": str(tmp_path / name),
            "SOLVER.CHECKPOINT_PERIOD": "3",
            "SOLVER.EMA_DECAY": "0.9",
            "SOLVER.MAX_ITER": str(NUM_ITERATIONS),
        }
        pairs = [text for pair in overrides.items() for text in pair]
        return ["tools/train_net.py", "--config-file", str(config), *options, *pairs]

    whole = _start(command("whole"))
    cut = _start(command("cut"))
    metrics = tmp_path / "cut/metrics.json"
    # Two iterations after the second checkpoint, before the third.
    _kill_when(cut, lambda: metrics.is_file() and metrics.read_text().count("\n") >= 8)
    last = (tmp_path / "cut/last_checkpoint").read_text()
    assert last in ("model_0000005.pth", "model_0000008.pth")  # it may go on until the signal
    resumed = _start(command("cut", "--resume"))
    assert whole.wait() == 0 and resumed.wait() == 0
    assert len(_losses(tmp_path / "whole")) == NUM_ITERATIONS
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    states = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)
        for name in ("whole", "cut")
    ]
    for key in ("model", "model_ema"):
        assert states[0][key].keys() == states[1][key].keys()
        for name, value in states[0][key].items():
            assert torch.equal(value, states[1][key][name]), name


DIES_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import torch
from tcm_d2.engine.loop import train
from tests.engine.tiny_run import make_experiment

torch.set_num_threads(1)
save, calls = torch.save, []

def save_half(content, stream):
    calls.append(stream)
    start = stream.tell()
    save(content, stream)
    if len(calls) == 2:
        stream.truncate(start + (stream.tell() - start) // 2)
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save_half
train(make_experiment(Path(sys.argv[1])), resume=False)
"""


def test_killed_while_it_writes_a_checkpoint(tmp_path: Path) -> None:
    """The half-written file is not seen, the checkpoint before it is used, no rest stays."""
    process = _start(["-c", DIES_WHILE_SAVING, str(tmp_path / "cut")])
    assert process.wait() == -signal.SIGKILL
    assert len(list((tmp_path / "cut").glob(".model_0000007.pth.*.tmp"))) == 1
    assert (tmp_path / "cut/last_checkpoint").read_text() == "model_0000003.pth"
    train(make_experiment(tmp_path / "cut"), resume=True)
    train(make_experiment(tmp_path / "whole"), resume=False)
    whole, cut = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("whole", "cut")
    )
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    assert not list((tmp_path / "cut").glob(".*.tmp"))
