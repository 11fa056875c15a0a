"""What people who know Detectron2 write works as they expect."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.modeling import build_model
from detectron2.utils.visualizer import Visualizer

from tcm_d2 import Detector
from tcm_d2.config import get_tcm_config
from tcm_d2.config.registries import EVALUATOR_REGISTRY
from tcm_d2.config.run import run_from_cfg
from tcm_d2.engine import default_trainer
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import evaluate_only
from tcm_d2.structures.angles import canonicalize_boxes
from tests.engine.small_detector import (
    DATASET_NAME,
    SIZE_PX,
    make_patches,
    small_config,
    write_config,
)
from tests.inference.small_run import noise_image, write_run

REPO_DIR = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_patches(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    if DATASET_NAME in DatasetCatalog.list():
        DatasetCatalog.remove(DATASET_NAME)
        MetadataCatalog.remove(DATASET_NAME)


def _config(folder: Path, patches: Path, *overrides: str) -> CfgNode:
    entry = f"{DATASET_NAME}={patches}={patches.parent / 'labelTxt'}"
    places = ["DATASETS.PATCH_DIRS", repr([entry]), "DATASETS.TEST", f"('{DATASET_NAME}',)"]
    return small_config(folder, *places, "OUTPUT_DIR", str(folder / "out"), *overrides)


def test_build_model_needs_no_other_import(tmp_path: Path) -> None:
    program = f"""
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from tcm_d2.config import add_tcm_config

cfg = get_cfg()
add_tcm_config(cfg)
cfg.merge_from_file({str(write_config(tmp_path))!r})
print(type(build_model(cfg)).__name__)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO_DIR, check=False)
    assert done.returncode == 0, done.stderr
    assert "RotatedOneStageDetector" in done.stdout


def test_default_predictor_gives_the_boxes_of_detector(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "out")
    cfg = get_tcm_config()
    cfg.merge_from_file(str(run_dir / "config.yaml"))
    cfg.MODEL.WEIGHTS = str(run_dir / "model_final.pth")
    image = noise_image(SIZE_PX, SIZE_PX)
    found = DefaultPredictor(cfg)(image[:, :, ::-1])["instances"]
    detector = Detector.from_pretrained(run_dir, device="cpu", score_threshold=0.0)
    detections = detector(image)
    assert len(found) == len(detections) > 10
    boxes = canonicalize_boxes(found.pred_boxes.tensor).numpy()
    np.testing.assert_allclose(boxes, detections.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores.numpy(), detections.scores, atol=1e-6)


def test_detection_checkpointer_saves_and_loads(tmp_path: Path) -> None:
    cfg = small_config(tmp_path)
    model, other = build_model(cfg), build_model(cfg)
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    theirs = other.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


class Trainer(DefaultTrainer):  # type: ignore[misc]
    """As docs/training.md shows."""

    build_optimizer = staticmethod(default_trainer.build_optimizer)
    build_lr_scheduler = staticmethod(default_trainer.build_lr_scheduler)
    build_train_loader = staticmethod(default_trainer.build_train_loader)
    build_test_loader = staticmethod(default_trainer.build_test_loader)
    build_evaluator = staticmethod(default_trainer.build_evaluator)


def test_default_trainer_trains_and_evaluates(tmp_path: Path, patches: Path) -> None:
    cfg = _config(tmp_path, patches, "SOLVER.MAX_ITER", "3")
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert set(Trainer.test(cfg, trainer.model)["dota"]) == {"AP50", "AP50-plane", "AP50-ship"}
    assert (tmp_path / "out/model_final.pth").is_file()
    lines = (tmp_path / "out/metrics.json").read_text().splitlines()
    assert "loss_score_map" in json.loads(lines[0])


def test_default_trainer_refuses_epochs(tmp_path: Path, patches: Path) -> None:
    cfg = _config(tmp_path, patches, "SOLVER.MAX_EPOCHS", "2")
    with pytest.raises(ValueError, match=r"MAX_EPOCHS: expected 0, got 2: .* set SOLVER\.MAX_ITER"):
        Trainer(cfg)


def test_lazy_model_is_instantiated_as_it_is() -> None:
    config = LazyConfig.load(str(REPO_DIR / "configs/lazy/fcos_no_tcm.py"))
    model = instantiate(config.model)
    assert type(model).__name__ == "RotatedOneStageDetector" and model.tcm is None


def test_visualizer_draws_our_data_sets(tmp_path: Path, patches: Path) -> None:
    build_experiment(_config(tmp_path, patches), for_training=False)
    item = DatasetCatalog.get(DATASET_NAME)[0]
    image = np.zeros((SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    drawn = Visualizer(image, MetadataCatalog.get(DATASET_NAME)).draw_dataset_dict(item)
    assert drawn.get_image().any()


def test_rotated_coco_evaluator_scores_our_data_sets(tmp_path: Path, patches: Path) -> None:
    coco = pytest.importorskip("pycocotools")
    assert coco is not None
    from detectron2.evaluation import RotatedCOCOEvaluator, inference_on_dataset

    cfg = _config(tmp_path, patches)
    experiment = build_experiment(cfg, for_training=False)
    evaluator = RotatedCOCOEvaluator(
        DATASET_NAME, tasks=("bbox",), distributed=False, output_dir=str(tmp_path / "coco")
    )
    loader = experiment.evaluations[0].open_loader()
    results = inference_on_dataset(experiment.model.eval(), loader, evaluator)
    assert "AP50" in results["bbox"]


def test_evaluator_of_another_type_is_one_that_is_registered(tmp_path: Path, patches: Path) -> None:
    experiment = build_experiment(_config(tmp_path, patches), for_training=False)
    MetadataCatalog.pop(DATASET_NAME)
    MetadataCatalog.get(DATASET_NAME).set(
        evaluator_type="counting", thing_classes=["plane", "ship"]
    )
    with pytest.raises(ValueError, match=r"evaluator type 'counting', expected one of dota"):
        evaluate_only(experiment, resume=False)

    class counting:
        def __init__(self, dataset_name: str, output_dir: str, distributed: bool) -> None:
            self.name = dataset_name

        def reset(self) -> None:
            self.count = 0

        def process(self, inputs: list[Any], outputs: list[Any]) -> None:
            self.count += len(outputs)

        def evaluate(self) -> dict[str, Any]:
            return {"images": {"count": float(self.count)}}

    EVALUATOR_REGISTRY.register(counting)
    try:
        assert evaluate_only(experiment, resume=False) == {"images": {"count": 6.0}}
    finally:
        del EVALUATOR_REGISTRY._obj_map["counting"]


def test_rotated_retinanet_of_detectron2_opens_as_a_run(tmp_path: Path) -> None:
    """A foreign meta-architecture gets the whole CfgNode, and keys of MODEL count as its own."""
    cfg = get_tcm_config()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "RetinaNet", "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    model = run_from_cfg(cfg).build_model(device="cpu")
    assert type(model).__name__ == "RetinaNet"
