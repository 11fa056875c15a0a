"""One file outside of the package brings a backbone, a head, a loss and a data set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO_DIR = Path(__file__).resolve().parents[2]
CONFIG = """
MODEL:
  META_ARCHITECTURE: "RotatedOneStageDetector"
  DEVICE: "cpu"
  BACKBONE: {NAME: "ThreeConvolutions"}
  RESNETS: {STEM_OUT_CHANNELS: 8}
  TCM: {ENABLED: False}
  ROTATED_FPN: {OUT_CHANNELS: 32}
  ROTATED_HEAD: {NAME: "PatientHead", NUM_CLASSES: 2, CHANNELS: 32, NUM_CONVS: 1,
                 SCORE_THRESH: 0.001, BOX_LOSS: "PowerLoss"}
  BOX_LOSS: {PowerLoss: {POWER: 1.5}}
DATASETS: {CLASSES: ["plane", "ship"], TRAIN: ["rectangles"], TEST: ["rectangles"]}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 0.001, MAX_EPOCHS: 0, MAX_ITER: 3, STEPS: [], WARMUP_ITERS: 1}
LOG_PERIOD: 1
SEED: 1
OUTPUT_DIR: "out"
"""
PROJECT = "rectangle_project.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).with_name("outside_project.py"), tmp_path / PROJECT)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


def _call(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(REPO_DIR),
            "OMP_NUM_THREADS": "1",
            "RECTANGLES_DIR": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _tool(folder: Path, name: str, *options: str) -> str:
    script = str(REPO_DIR / "tools" / name)
    return _call(folder, script, "--import", PROJECT, *options)


def test_it_trains_evaluates_exports_and_reloads(folder: Path) -> None:
    _tool(folder, "train_net.py", "--config-file", "c.yaml")
    copy = (folder / "out/config.yaml").read_text()
    assert "_target_: rectangle_project.PatientHead" in copy
    assert "_target_: rectangle_project.PowerLoss" in copy and "power: 1.5" in copy
    weights = "out/model_final.pth"
    again = _tool(
        folder, "train_net.py", "--config-file", "c.yaml", "--eval-only", "MODEL.WEIGHTS", weights
    )
    assert "AP of rectangles" in again
    # The copy in the run's folder is as good as the file, where the parts are registered.
    _tool(
        folder,
        *("export_model.py", "--config-file", "out/config.yaml", "--weights", weights),
        *("--output", "m.pt2", "--size", "64", "64", "--check"),
    )
    found = _tool(folder, "demo.py", "--weights", "out", "--input", "P0.png", "--output", "found")
    assert "P0" in found and any((folder / "found").iterdir())


def test_its_own_command_and_started_processes_import_it(folder: Path) -> None:
    (folder / "run.py").write_text(
        "from tcm_d2.engine import main\n\n"
        'if __name__ == "__main__":\n'
        f'    main(["--import", "{Path(PROJECT).stem}", "--config-file", "c.yaml", '
        '"--num-gpus", "2"])\n'
    )
    _call(folder, "run.py")
    assert (folder / "out/model_final.pth").is_file()


def test_without_it_the_names_are_unknown(folder: Path) -> None:
    command = [str(REPO_DIR / "tools/train_net.py"), "--config-file", "c.yaml"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPO_DIR)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "unknown key 'MODEL.BOX_LOSS.PowerLoss'" in done.stderr
