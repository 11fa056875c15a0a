"""An output folder as a training leaves it, of an untrained tiny detector, and a picture for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model

from tcm_d2.structures.detections import BoxDetections
from tests.engine.small_detector import small_config

CLASSES = ("plane", "ship")
# An untrained head answers with its prior of 0.01.
ALL_SCORES = 0.0


def write_run(folder: Path, *overrides: str) -> Path:
    """Write config.yaml and model_final.pth; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    # With 32 channels a group of the norm has one value where the coarsest level has one cell: all
    # windows would answer the same there, and rounding would decide which of them is kept.
    cfg = small_config(folder / "source", "MODEL.ROTATED_HEAD.CHANNELS", "64", *overrides)
    torch.manual_seed(4)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def noise_image(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Return smooth coloured noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


def find_bright_pieces(windows: list[np.ndarray]) -> list[BoxDetections]:
    """Stand in for a model: find bright upright rectangles, as far as each window shows them.

    The score is the grey value / 255 of the rectangle, so that each object has its own; a piece
    scores higher than the whole, which is what a seam rule must cope with.
    """
    found = []
    for window in windows:
        grey = window[..., 0]
        boxes, scores = [], []
        for value in np.unique(grey[grey > 0]):
            ys, xs = np.nonzero(grey == value)
            x1, x2, y1, y2 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
            boxes.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.0])
            scores.append(0.9 - 1e-5 * (x2 - x1) * (y2 - y1))
        found.append(
            BoxDetections(
                np.array(boxes, dtype=np.float64).reshape(-1, 5),
                np.array(scores),
                np.zeros(len(boxes), dtype=np.int64),
            )
        )
    return found
