"""Small detectors of the embedded data set: make it, train on it, score what they found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import list_labels
from tcm_d2.evaluation.analysis.result import EvaluationResult, analyze_evaluation
from tcm_d2.evaluation.files.task_files import read_task1
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.evaluation.scoring.protocols import Rules, prepare_evaluation
from tcm_d2.packaged_configs import config_folder
from tcm_d2.structures.detections import ClassDetections

# Learning rates fall at these parts of a run, as in configs/Base-Embedded.yaml.
STEPS = (2 / 3, 0.9)


def train_detector(
    run_dir: Path,
    data: Path,
    *,
    model: str,
    iterations: int,
    seed: int,
    overrides: Sequence[str] = (),
    val_patches: str = "val_patches",
) -> None:
    """Train and evaluate one detector, unless that is done; an interrupted run goes on.

    Args:
        run_dir: its output folder.
        data: from ``tcm_d2.cli.demo.make_data``.
        model: stem of ``configs/embedded_*.yaml``.
        iterations: of the training.
        seed: of weights and samples.
        overrides: ``KEY VALUE`` pairs.
        val_patches: folder in ``data`` to evaluate on.
    """
    if result_path(run_dir).is_file():
        return
    patch_dirs = [
        f"embedded_{split}={data / patches}={data / split / 'labelTxt'}"
        for split, patches in (("train", "train_patches"), ("val", val_patches))
    ]
    command = [
        *(sys.executable, "-m", "tcm_d2", "train", "--resume"),
        *("--config-file", str(config_folder() / f"embedded_{model}.yaml")),
        *("DATASETS.PATCH_DIRS", repr(patch_dirs), "DATASETS.TRAIN", "('embedded_train',)"),
        *("DATASETS.TEST", "('embedded_val',)", "SEED", str(seed)),
        *("SOLVER.MAX_ITER", str(iterations)),
        *("SOLVER.STEPS", repr(tuple(round(part * iterations) for part in STEPS))),
        *("OUTPUT_DIR", str(run_dir), *overrides),
    ]
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "output.txt").open("a") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)


def result_path(run_dir: Path) -> Path:
    """Return the file that a finished run leaves."""
    return run_dir / "inference" / "embedded_val" / "ap.json"


def evaluate(run_dir: Path, data: Path) -> EvaluationResult:
    """Return the score of a finished run's result files."""
    return score_detections(read_task1(result_path(run_dir).parent / "Task1"), data)


def score_detections(detections: dict[str, ClassDetections], data: Path) -> EvaluationResult:
    """Return the score of detections in the held-out images."""
    label_dir = data / "val" / "labelTxt"
    annotations = read_annotations(
        label_dir, image_ids=list(list_labels(label_dir)), classes=DOTA_V1_CLASSES
    )
    rules = Rules()
    prepared = prepare_evaluation(detections, annotations, rules=rules)
    return analyze_evaluation(prepared, iou_threshold=0.5, rules=rules)
