"""The parts of the demo that are its own; every step it runs is tested as a tool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.cli import demo
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.files.task_files import read_task1
from tests.conftest import REPO_DIR

SCRIPT = REPO_DIR / "tools" / "demo_embedded.py"


@pytest.fixture
def task1_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "Task1"
    folder.mkdir()
    rows = "P0000 0.9 10 10 50 10 50 30 10 30\nP0001 0.8 0 0 9 0 9 9 0 9\n"
    (folder / "Task1_ship.txt").write_text(rows)
    (folder / "Task1_plane.txt").write_text("P0000 0.2 60 60 80 60 80 80 60 80\n")
    return folder


def test_boxes_of_one_image(task1_dir: Path) -> None:
    boxes, scores, classes = demo.boxes_of_image(read_task1(task1_dir), "P0000")
    order = np.argsort(-scores)
    assert scores[order].tolist() == [0.9, 0.2]
    assert [DOTA_V1_CLASSES[c] for c in classes[order]] == ["ship", "plane"]
    np.testing.assert_allclose(boxes[order][0], [30, 20, 40, 20, 0], atol=1e-4)


def test_pictures_are_drawn_for_each_image(task1_dir: Path, tmp_path: Path) -> None:
    for name in ("images", "labelTxt"):
        (tmp_path / name).mkdir()
    for image_id in ("P0000", "P0001"):
        cv2.imwrite(str(tmp_path / "images" / f"{image_id}.png"), np.zeros((96, 96, 3), np.uint8))
        label = "10 10 50 10 50 30 10 30 ship 0\n"
        (tmp_path / "labelTxt" / f"{image_id}.txt").write_text(label)
    overview = demo.draw_pictures(tmp_path, task1_dir, tmp_path / "pictures")
    assert {p.name for p in overview.parent.iterdir()} == {"P0000.png", "P0001.png", "overview.png"}
    assert cv2.imread(str(tmp_path / "pictures" / "P0000.png")).any()


def test_ap_table_marks_classes_without_ground_truth(tmp_path: Path) -> None:
    row = {"num_ground_truths": 4, "num_detections": 9}
    classes = {"ship": {"ap": 0.5, **row}, "plane": {"ap": None, **row, "num_ground_truths": 0}}
    path = tmp_path / "ap.json"
    path.write_text(json.dumps({"mean_ap": 0.5, "classes": classes}))
    table = demo.ap_table(path)
    assert "| ship | 50.0 | 4 | 9 |" in table
    assert "| plane | - | 0 | 9 |" in table
    assert "| **mean** | **50.0** |" in table


def test_unknown_model_is_named_with_the_known_ones(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", "tcm_fcso", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "no embedded configuration for 'tcm_fcso'; known: atss_no_tcm" in done.stderr
