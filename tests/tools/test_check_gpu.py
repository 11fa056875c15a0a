"""The check of a GPU: its steps' code on the CPU, and what it says where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import check_gpu
import pytest
import torch

from benchmarks.gpu import agreement, runs, speed

ROOT = Path(__file__).resolve().parents[2]
STEPS = {**agreement.STEPS, **runs.STEPS, **speed.STEPS}
# Inductor compiles for a minute; TRAIN.COMPILE and TEST.COMPILE are tried in tests/modeling.
TRIED_HERE = sorted(STEPS.keys() - {"compiled"})


@pytest.mark.parametrize("name", TRIED_HERE)
def test_steps_run_on_the_cpu(name: str) -> None:
    found = STEPS[name](torch.device("cpu"), True)
    assert found["problems"] == []
    assert json.loads(json.dumps(found)) == found


def test_every_step_of_its_own_is_listed() -> None:
    listed = {step.name for step in check_gpu.STEPS if "benchmarks.gpu" in step.command}
    assert listed == STEPS.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_step_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "check_gpu.py"), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == check_gpu.NO_GPU, done.stderr
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {step["outcome"] for step in steps} == {"no GPU"}
    assert len(steps) == len(check_gpu.STEPS)
    assert "# No GPU" in (tmp_path / "gpu.md").read_text()


def test_a_step_that_fails_or_hangs_is_told_apart() -> None:
    facts = {"device": "a GPU", "capability": "9.0"}
    failing = check_gpu.Step("failing", 20, (sys.executable, "-c", "print('{\"a\": 1}'); 1 / 0"))
    hanging = check_gpu.Step("hanging", 2, (sys.executable, "-c", "import time; time.sleep(60)"))
    missing = check_gpu.Step("missing", 9, ("no-such-program",))
    good = check_gpu.Step("good", 20, (sys.executable, "-c", "print('{\"a\": 1}')"))
    outcomes = [check_gpu.run_step(s, facts, 60)["outcome"] for s in (failing, hanging, missing)]
    assert outcomes == ["failed", "timeout", "missing"]
    assert check_gpu.run_step(good, facts, 60)["found"] == {"a": 1}
    assert check_gpu.run_step(good, facts, 1)["outcome"] == "no time"
