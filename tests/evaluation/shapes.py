"""Small quads and label files for the evaluation tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tcm_d2.structures.arrays import FloatArray
from tcm_d2.structures.detections import ClassDetections


def upright_quad(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """Return the corners of an upright rectangle with its top left corner at x, y."""
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def random_rectangles(
    rng: np.random.Generator, num: int, *, extent_px: float = 100.0
) -> FloatArray:
    """Return rotated rectangles (num, 4, 2)."""
    center = rng.uniform(0, extent_px, (num, 1, 2))
    half = rng.uniform(2, 20, (num, 2))
    angle = rng.uniform(0, np.pi, num)
    along = np.stack([half[:, 0] * np.cos(angle), half[:, 0] * np.sin(angle)], -1)[:, None]
    across = np.stack([-half[:, 1] * np.sin(angle), half[:, 1] * np.cos(angle)], -1)[:, None]
    signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    return center + signs[:, :1] * along + signs[:, 1:] * across


def class_rows(rows: Sequence[tuple[str, float, Sequence[Sequence[float]]]]) -> ClassDetections:
    """Return Task1 rows of one class from (image id, score, corners)."""
    return ClassDetections(
        [image_id for image_id, _, _ in rows],
        np.array([score for _, score, _ in rows], dtype=np.float64),
        np.array([quad for _, _, quad in rows], dtype=np.float64).reshape(-1, 4, 2),
    )


def write_labels(
    folder: Path, labels: dict[str, Sequence[tuple[Sequence[Sequence[float]], str, int]]]
) -> Path:
    """Write label files {image id: [(corners, class name, difficult)]} and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for image_id, objects in labels.items():
        lines = ["imagesource:GoogleEarth", "gsd:0.2"]
        for quad, class_name, difficult in objects:
            numbers = " ".join(f"{v:.1f}" for point in quad for v in point)
            lines.append(f"{numbers} {class_name} {difficult}")
        (folder / f"{image_id}.txt").write_text("\n".join(lines) + "\n")
    return folder
