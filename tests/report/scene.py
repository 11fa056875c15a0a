"""A small evaluation with known outcomes, as files and as an analysis."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tcm_d2.evaluation.files.task_files import read_task1, write_task1
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.report.analysis import Analysis, analyze
from tcm_d2.structures.detections import ClassDetections

NAMES = ["plane", "ship", "harbor"]
IMAGE_IDS = ["P1", "P2", "P3"]


def square(x: float, y: float, side: float = 20.0) -> list[list[float]]:
    """Return the corners of an upright square around a place."""
    half = side / 2
    return [[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]]


# Class, image, place, side, difficult.
OBJECTS = [
    ("plane", "P1", (40, 40), 20, 0),
    ("plane", "P1", (100, 40), 20, 0),
    ("plane", "P2", (40, 40), 40, 0),
    ("plane", "P2", (120, 120), 20, 1),
    ("ship", "P1", (40, 120), 20, 0),
    ("ship", "P3", (60, 60), 20, 0),
]
# Class, image, score, place, side; the comment says what becomes of it.
DETECTIONS = [
    ("plane", "P1", 0.9, (40, 40), 20),  # hit
    ("plane", "P1", 0.8, (41, 40), 20),  # false: second on the same object
    ("plane", "P2", 0.7, (40, 40), 40),  # hit
    ("plane", "P2", 0.6, (120, 120), 20),  # on a difficult object
    ("plane", "P1", 0.35, (100, 40), 20),  # hit
    ("plane", "P1", 0.2, (150, 150), 20),  # false: nothing there
    ("plane", "P3", 0.5, (60, 60), 20),  # false: a ship is there
    ("ship", "P1", 0.55, (40, 120), 20),  # hit
    ("ship", "P3", 0.45, (20, 20), 20),  # false
]


def write_scene(folder: Path, *, size_hw: tuple[int, int] = (200, 240)) -> Path:
    """Write images, labelTxt and results/Task1 into the folder and return it."""
    for name in ("images", "labelTxt", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, image_id in enumerate(IMAGE_IDS):
        image = np.full((*size_hw, 3), 60 + 40 * number, np.uint8)
        image[::8] += 10
        assert cv2.imwrite(str(folder / "images" / f"{image_id}.png"), image)
        lines = [
            " ".join(f"{v}" for point in square(*place, side) for v in point) + f" {cls} {hard}"
            for cls, where, place, side, hard in OBJECTS
            if where == image_id
        ]
        (folder / "labelTxt" / f"{image_id}.txt").write_text("".join(f"{x}\n" for x in lines))
    by_class = {}
    for name in NAMES:
        rows = [row for row in DETECTIONS if row[0] == name]
        by_class[name] = ClassDetections(
            [row[1] for row in rows],
            np.array([row[2] for row in rows], dtype=np.float64),
            np.array([square(*row[3], row[4]) for row in rows], dtype=np.float64).reshape(-1, 4, 2),
        )
    write_task1(folder / "results" / "Task1", by_class, classes=NAMES)
    return folder


def analyze_scene(folder: Path) -> Analysis:
    """Return the analysis of the written scene."""
    return analyze(
        read_task1(folder / "results" / "Task1"),
        read_annotations(folder / "labelTxt", image_ids=IMAGE_IDS, classes=NAMES),
        iou_threshold=0.5,
        metric="11point",
    )
