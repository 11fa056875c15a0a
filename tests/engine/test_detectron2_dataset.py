"""A data set registered as Detectron2 users do it trains and is evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import train
from tests.engine.small_detector import SIZE_PX, small_config

NAME = "detectron2_style"


def _dicts(folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    found = []
    for index in range(4):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8))
        annotations = [
            {"bbox": [30, 34, 30, 14, 25], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0},
            {"bbox": [2, 2, 20, 12], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1},
            {"segmentation": [[40, 5, 60, 5, 60, 15, 40, 15]], "category_id": 1},
            {"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 1, "iscrowd": 1},
        ]
        size = {"height": SIZE_PX, "width": SIZE_PX}
        found.append(
            {"file_name": str(path), "image_id": index, **size, "annotations": annotations}
        )
    return found


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[None]:
    DatasetCatalog.register(NAME, lambda: _dicts(tmp_path))
    MetadataCatalog.get(NAME).set(thing_classes=["plane", "ship"])
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_detectron2_style_data_set_trains_and_is_scored(tmp_path: Path, registered: None) -> None:
    cfg = small_config(
        tmp_path,
        *("DATASETS.TRAIN", f"('{NAME}',)", "DATASETS.TEST", f"('{NAME}',)"),
        *("SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path / "out")),
        *("TEST.DOTA.ANALYSIS", "none"),
    )
    train(build_experiment(cfg, for_training=True), resume=False)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").open()]
    assert [row["iteration"] for row in rows if "total_loss" in row] == [0, 1]
    (report,) = (tmp_path / "out").rglob("ap.json")
    classes = json.loads(report.read_text())["classes"]
    assert {name: classes[name]["num_ground_truths"] for name in classes} == {"plane": 4, "ship": 8}
