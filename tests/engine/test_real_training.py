"""Training on real DOTA images, from label files to a falling loss: the README's run, shortened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO_DIR

NUM_ITERATIONS = 120


@pytest.mark.realdata
@pytest.mark.slow
def test_loss_on_real_images_falls_by_half(realdata_dir: Path, tmp_path: Path) -> None:
    source = realdata_dir / "dota" / "DOTA_devkit_YOLO"
    # Patches go where register_dota looks for the training split.
    split_dir = tmp_path / "DOTA_split" / "train"
    run_tool(
        "split_dota.py",
        *("--image-dirs", str(source / "images"), "--label-dirs", str(source / "labelTxt")),
        *("--out", str(split_dir), "--size", "256", "--gap", "0", "--drop-empty"),
        # One label file there belongs to an image that is not part of the sample.
        *("--on-missing", "skip", "--quiet"),
    )
    run_tool(
        *("train_net.py", "--config-file", str(REPO_DIR / "configs" / "small_tcm_fcos.yaml")),
        *("DATASETS.TRAIN", "('dota_v1_train',)", "DATASETS.TEST", "()"),
        *("SOLVER.MAX_EPOCHS", "0", "SOLVER.MAX_ITER", str(NUM_ITERATIONS), "SOLVER.STEPS", "()"),
        *("SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0", "LOG_PERIOD", "5"),
        *("OUTPUT_DIR", str(tmp_path / "out")),
        datasets_dir=tmp_path,
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").open()]
    losses = [row["total_loss"] for row in rows if "total_loss" in row]
    assert sum(losses[-3:]) / 3 < 0.5 * losses[0], losses


def run_tool(script: str, *arguments: str, datasets_dir: Path | None = None) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPO_DIR), "OMP_NUM_THREADS": "2"}
    if datasets_dir is not None:
        environment["DETECTRON2_DATASETS"] = str(datasets_dir)
    done = subprocess.run(
        [sys.executable, str(REPO_DIR / "tools" / script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
