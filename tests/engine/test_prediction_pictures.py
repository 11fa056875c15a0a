"""Pictures of predictions while training: they appear, and change nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import train
from tcm_d2.engine.prediction_pictures import NUM_PICTURES, load_samples
from tests.engine.small_detector import DATASET_NAME, SIZE_PX, make_patches, small_config


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield make_patches(tmp_path_factory.mktemp("data"))
    DatasetCatalog.remove(DATASET_NAME)
    MetadataCatalog.remove(DATASET_NAME)


def run(folder: Path, patches: Path, period: int, *more: str) -> dict[str, torch.Tensor]:
    places = ["DATASETS.PATCH_DIRS", repr([f"{DATASET_NAME}={patches}"])]
    places += ["OUTPUT_DIR", str(folder), "VIS_PERIOD", str(period)]
    places += ["SOLVER.MAX_ITER", "4"]
    cfg = small_config(folder, *places, *more)
    train(build_experiment(cfg, for_training=True), resume=False)
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_pictures_appear_and_weights_stay(tmp_path: Path, patches: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    ema = ("SOLVER.EMA_DECAY", "0.9")
    plain = run(tmp_path / "without", patches, 0, *ema)
    drawn = run(tmp_path / "with", patches, 2, *ema)
    assert all(torch.equal(plain[name], drawn[name]) for name in plain)

    def images(folder: str) -> dict[str, list[int]]:
        events = accumulators.EventAccumulator(str(tmp_path / folder), {"images": 0})
        events.Reload()
        return {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}

    assert images("without") == {}
    with_pictures = images("with")
    assert len(with_pictures) == NUM_PICTURES
    assert all(tag.startswith("predictions/P") for tag in with_pictures)
    assert all(steps == [1, 3] for steps in with_pictures.values())


def test_samples_are_spread_and_leave_randomness_alone() -> None:
    records = [
        {"image_id": f"P{i}", "file_name": "x.png", "annotations": [{}] if i % 2 else []}
        for i in range(30)
    ]

    def mapper(record: dict) -> dict:
        np.random.random(3)  # noqa: NPY002
        return {"image": torch.zeros(3, SIZE_PX, SIZE_PX)}

    np.random.seed(4)  # noqa: NPY002
    samples = load_samples(records, mapper)
    assert [s.record["image_id"] for s in samples] == ["P1", "P9", "P19", "P29"]
    after = np.random.random()  # noqa: NPY002
    np.random.seed(4)  # noqa: NPY002
    assert np.random.random() == after  # noqa: NPY002
    assert len(load_samples(records[:1], mapper)) == 1


def test_negative_periods_are_refused(tmp_path: Path, patches: Path) -> None:
    with pytest.raises(ValueError, match="VIS_PERIOD: expected"):
        run(tmp_path, patches, -1)
