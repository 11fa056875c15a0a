"""Fast by default on the CPU, plain where asked for, and plain without the folder of fast parts."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tcm_d2 import Detector
from tcm_d2.cpu.fast_modules import FastModule
from tcm_d2.inference.bundled import DEFAULT_NAME
from tcm_d2.inference.speed import keep_memory, make_fast
from tests.conftest import REPO_DIR


def is_fast(network: nn.Module) -> bool:
    return any(isinstance(module, FastModule) for module in network.modules())


def bundled_detector() -> Detector:
    return Detector.from_pretrained(DEFAULT_NAME, device="cpu", score_threshold=0.05)


def test_a_detector_is_fast_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    fast = bundled_detector()
    monkeypatch.setenv("TCM_D2_ACCELERATE", "0")
    plain = bundled_detector()
    assert is_fast(fast.model) and not is_fast(plain.model)
    ours, theirs = fast(image), plain(image)
    assert len(ours.scores) == len(theirs.scores)
    np.testing.assert_allclose(np.sort(ours.scores), np.sort(theirs.scores), atol=1e-4)


def test_networks_on_other_devices_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU())
    make_fast(network.to("meta"))
    assert not is_fast(network)
    make_fast(network.to_empty(device="cpu"))
    assert is_fast(network)


_WITHOUT_THE_FOLDER = """
import sys
sys.modules["tcm_d2.cpu"] = None  # importing it fails, as if it were not there
import numpy as np
from tcm_d2 import Detector
from tcm_d2.inference.bundled import DEFAULT_NAME
from tcm_d2.inference.speed import keep_memory
import tcm_d2.engine.build_experiment, tcm_d2.export.files, tcm_d2.model_zoo
keep_memory("cpu")
detector = Detector.from_pretrained(DEFAULT_NAME, device="cpu")
detector(np.zeros((64, 64, 3), np.uint8))
assert not [name for name in sys.modules if name.startswith("tcm_d2.cpu.")]
"""


def test_the_library_works_without_the_folder() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WITHOUT_THE_FOLDER],
        cwd=REPO_DIR,
        env={**os.environ, "PYTHONPATH": str(REPO_DIR)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_memory_is_kept_for_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("tcm_d2.cpu.keep_freed_memory", lambda: calls.append(1))
    keep_memory("cuda")
    assert not calls
    keep_memory(torch.device("cpu"))
    assert calls
    monkeypatch.setenv("TCM_D2_ACCELERATE", "0")
    keep_memory("cpu")
    assert len(calls) == 1
