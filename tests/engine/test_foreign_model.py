"""A Python configuration whose model is any detector that takes Detectron2's inputs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tcm_d2 import Detector
from tcm_d2.cli.main import run_command
from tcm_d2.config.run import Run, open_config
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import evaluate_only, train
from tests.engine.small_detector import DATASET_NAME, SIZE_PX, make_patches

REPO_DIR = Path(__file__).resolve().parents[2]
DETECTOR = """
import torch
from detectron2.structures import Instances, RotatedBoxes
from torch import nn


class MiddleDetector(nn.Module):
    '''Finds one box of each class in the middle of every image.'''

    def __init__(self, num_classes):
        super().__init__()
        self.sides = nn.Parameter(torch.full((num_classes, 2), 20.0))

    def forward(self, batched_inputs):
        if self.training:
            boxes = [inputs["instances"].gt_boxes.tensor for inputs in batched_inputs]
            return {"loss_sides": (self.sides - torch.cat(boxes)[:, 2:4].mean(0)).abs().mean()}
        return [{"instances": self.find(inputs["image"])} for inputs in batched_inputs]

    def find(self, image):
        height, width = image.shape[-2:]
        boxes = self.sides.new_tensor([[width / 2, height / 2, 0, 0, 0]]).repeat(len(self.sides), 1)
        boxes[:, 2:4] = self.sides.detach()
        found = Instances((height, width))
        found.pred_boxes = RotatedBoxes(boxes)
        found.scores = torch.linspace(0.9, 0.8, len(boxes))
        found.pred_classes = torch.arange(len(boxes))
        return found
"""
CONFIG = """
from detectron2.config import LazyCall as L
from middle_detector import MiddleDetector

from .lazy.common.data import dataloader
from .lazy.common.optim import lr_multiplier, optimizer
from .lazy.common.train import train

model = L(MiddleDetector)(num_classes=2)
for part in (dataloader.train, dataloader.test):
    part.num_workers = 0
    part.mapper.num_classes = "${model.num_classes}"
    part.mapper.with_class_masks = False
    part.mapper.mask_stride_px = 1
dataloader.classes = ["plane", "ship"]
dataloader.train.total_batch_size = 2
train.max_epochs, train.max_iter, train.steps, train.checkpoint_period = 0, 4, [], 2
train.log_period, train.seed = 1, 1
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "middle_detector.py").write_text(DETECTOR)
    (tmp_path / "c.py").write_text(CONFIG)
    (tmp_path / "lazy").symlink_to(REPO_DIR / "configs/lazy")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("middle_detector", None)
    if DATASET_NAME in DatasetCatalog.list():
        DatasetCatalog.remove(DATASET_NAME)
        MetadataCatalog.remove(DATASET_NAME)


def _run(folder: Path, patches: Path, *overrides: str) -> Run:
    entry = f"{DATASET_NAME}={patches}={patches.parent / 'labelTxt'}"
    names = [f"dataloader.{part}.names=[{DATASET_NAME}]" for part in ("train", "test")]
    places = [f"dataloader.patch_dirs=['{entry}']", f"train.output_dir='{folder / 'out'}'", *names]
    return open_config(folder / "c.py", ["train.device=cpu", *places, *overrides])


def test_it_trains_resumes_is_evaluated_and_detects(folder: Path) -> None:
    patches = make_patches(folder / "data")
    run = _run(folder, patches)
    assert run.num_classes == 2 and run.prompts is None
    train(build_experiment(run, for_training=True), resume=False)
    longer = _run(folder, patches, "train.max_iter=6")
    results = train(build_experiment(longer, for_training=True, resume=True), resume=True)
    checkpoint = torch.load(folder / "out/model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 5
    named = _run(folder, patches, f"train.init_checkpoint='{folder / 'out/model_final.pth'}'")
    again = evaluate_only(build_experiment(named, for_training=False), resume=False)
    assert again == results and set(again["dota"]) == {"AP50", "AP50-plane", "AP50-ship"}
    detector = Detector.from_pretrained(
        folder / "c.py", weights=folder / "out/model_final.pth", device="cpu"
    )
    assert detector.classes == ("plane", "ship")
    found = detector(np.zeros((SIZE_PX, SIZE_PX, 3), dtype=np.uint8))
    assert len(found) == 2


def test_what_it_cannot_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_config(folder / "c.py")
    torch.save({"model": run.build_model(device="cpu").state_dict()}, folder / "w.pth")
    options = ["--weights", str(folder / "w.pth"), "--output", str(folder / "m.pt2")]
    assert run_command("export", ["--config-file", str(folder / "c.py"), *options]) == 1
    assert "a MiddleDetector cannot be exported" in capsys.readouterr().err
    with pytest.raises(ValueError, match="prompts: a MiddleDetector has no class names to set"):
        Detector.from_pretrained(folder / "c.py", weights=folder / "w.pth", prompts=["a", "b"])
    # Its copy names a class that nobody has registered.
    (folder / "config.yaml").write_text(run.text)
    with pytest.raises(ValueError, match=r"refused to build 'middle_detector\.MiddleDetector'"):
        open_config(folder / "config.yaml").build_model(device="cpu")
