"""Trainings killed again and again, with checkpoints damaged between: the same weights in the end.

    python -m tests.faults.killed_runs --minutes 2

starts a small training in a child process, kills it (SIGKILL) at a random moment, now and then
damages the newest checkpoint, and resumes, until the training is done. Its final weights must be
those of an uninterrupted one to the bit, and nothing half-written may be left; else the exit status
is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tcm_d2.engine.loop import train
from tcm_d2.engine.run_folder import prepared_folder
from tests.engine.tiny_run import make_experiment

_NUM_ITERATIONS = 30
_CHANCE_OF_DAMAGE = 0.2


class Survived(NamedTuple):
    """What was tried, and the faults found."""

    num_runs: int
    num_kills: int
    num_damaged: int
    faults: list[str]


def run_campaign(folder: Path, *, seed: int, seconds: float, max_kills: int) -> Survived:
    """Kill and resume runs until the time or the kills are over."""
    rng = np.random.default_rng(seed)
    started = time.monotonic()
    exit_code = _in_child(folder / "whole", life_s=None)
    longest_s = time.monotonic() - started
    faults = [f"the whole run: exit code {exit_code}"] if exit_code else []
    num_runs = num_kills = num_damaged = 0
    deadline = time.monotonic() + seconds

    def is_over() -> bool:
        return time.monotonic() > deadline or num_kills >= max_kills

    while not faults and not is_over():
        run = folder / f"run{num_runs}"
        # What has begun is let come to its end.
        while exit_code := _in_child(
            run, life_s=None if is_over() else rng.uniform(0.02, longest_s)
        ):
            if exit_code != -signal.SIGKILL:
                return Survived(num_runs, num_kills, num_damaged, [f"exit code {exit_code}"])
            num_kills += 1
            # Without any whole one a run would rightly stop.
            if len(list(run.glob("model_*.pth"))) > 2 and rng.random() < _CHANCE_OF_DAMAGE:
                num_damaged += _damage_newest(run, rng)
        num_runs += 1
        faults += [f"{run.name}: {fault}" for fault in _differences(folder / "whole", run)]
    return Survived(num_runs, num_kills, num_damaged, faults)


def _in_child(folder: Path, *, life_s: float | None) -> int | None:
    """Train, resuming where there is something; return the exit code, 0 for the end."""
    child = multiprocessing.get_context("fork").Process(target=_train, args=(folder,))
    child.start()
    child.join(life_s)
    child.kill()
    child.join()
    return child.exitcode


def _train(folder: Path) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        with prepared_folder(str(folder), for_training=True):
            experiment = make_experiment(folder, max_iter=_NUM_ITERATIONS, period=1)
            train(experiment, resume=True)


def _damage_newest(folder: Path, rng: np.random.Generator) -> bool:
    tag = folder / "last_checkpoint"
    path = folder / tag.read_text() if tag.is_file() else folder
    if not path.is_file():
        return False
    content = bytearray(path.read_bytes())
    where = int(rng.integers(0, len(content) - 64))
    content[where : where + 64] = b"\xff" * 64
    path.write_bytes(content)
    return True


def _differences(whole: Path, run: Path) -> list[str]:
    expected, got = (
        torch.load(path / "model_final.pth", weights_only=True)["model"] for path in (whole, run)
    )
    faults = [name for name, value in expected.items() if not torch.equal(value, got[name])]
    return faults + [path.name for path in run.glob(".*")]


def main() -> int:
    """Run the campaign and print what was survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        survived = run_campaign(
            Path(folder), seed=args.seed, seconds=60 * args.minutes, max_kills=10**9
        )
    print(
        f"{survived.num_runs} runs, {survived.num_kills} kills, {survived.num_damaged} damaged "
        f"checkpoints, {len(survived.faults)} faults"
    )
    for fault in survived.faults:
        print("FAULT", fault)
    return 1 if survived.faults or not survived.num_runs else 0


if __name__ == "__main__":
    sys.exit(main())
