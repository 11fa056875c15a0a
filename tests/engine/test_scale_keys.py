"""The keys of training at scale reach the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.experiment import Experiment
from tests.engine.small_detector import DATASET_NAME, SIZE_PX, make_patches, small_config


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield make_patches(tmp_path_factory.mktemp("data"))
    DatasetCatalog.remove(DATASET_NAME)
    MetadataCatalog.remove(DATASET_NAME)


def _build(folder: Path, patches: Path, **solver: object) -> Experiment:
    pairs = [text for key, value in solver.items() for text in (f"SOLVER.{key}", str(value))]
    places = ["DATASETS.PATCH_DIRS", repr([f"{DATASET_NAME}={patches}"])]
    places += ["OUTPUT_DIR", str(folder / "out")]
    return build_experiment(small_config(folder, *places, *pairs), for_training=True)


def test_defaults_change_nothing(tmp_path: Path, patches: Path) -> None:
    experiment = _build(tmp_path, patches)
    assert experiment.training.accumulation_steps == 1
    assert experiment.training.on_non_finite == "stop"
    assert experiment.ema_decay == 0
    assert experiment.training.patch_size_px == SIZE_PX  # measured


def test_keys_are_read(tmp_path: Path, patches: Path) -> None:
    experiment = _build(
        tmp_path, patches, ACCUMULATION_STEPS=2, ON_NON_FINITE="skip", EMA_DECAY=0.99
    )
    assert experiment.training.accumulation_steps == 2
    assert experiment.training.on_non_finite == "skip"
    assert experiment.ema_decay == 0.99


def test_all_groups_follow_the_reference_batch_size(tmp_path: Path, patches: Path) -> None:
    """Batches of 2 for a rate meant for 8."""
    plain = _build(tmp_path, patches).training.optimizer.param_groups
    scaled = _build(tmp_path, patches, REFERENCE_BATCH_SIZE=8).training.optimizer.param_groups
    assert [g["lr"] / 4 for g in plain] == pytest.approx([g["lr"] for g in scaled])
    assert len({g["lr"] for g in scaled}) == 2


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ACCUMULATION_STEPS", 3, r"IMS_PER_BATCH: expected a multiple of 1 processes x 3 passes"),
        ("ON_NON_FINITE", "ignore", r"ON_NON_FINITE: expected one of"),
        ("EMA_DECAY", 1.5, r"EMA_DECAY: expected a number from 0"),
        ("REFERENCE_BATCH_SIZE", -1, r"REFERENCE_BATCH_SIZE: expected a number of images"),
    ],
)
def test_values_that_do_not_fit(
    tmp_path: Path, patches: Path, key: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _build(tmp_path, patches, **{key: value})


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_norms_of_the_image_tower(tmp_path: Path, norm: str) -> None:
    model = build_model(small_config(tmp_path, "MODEL.CLIP.NORM", norm))
    kinds = {"BN": "BatchNorm2d", "FrozenBN": "FrozenBatchNorm2d", "SyncBN": "SyncBatchNorm2d"}
    assert type(model.backbone.bn1).__name__ == kinds[norm]
    assert model.backbone.bn1.weight.requires_grad == (norm != "FrozenBN")
