"""From a YAML file and a folder of patches to an AP, and what bad input is answered with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from tcm_d2.config import load_config
from tcm_d2.config.device import usable_device
from tcm_d2.config.run import open_config
from tcm_d2.data.dota.split import SplitConfig, SplitSource, split_dataset
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import evaluate_only, train

REPO_DIR = Path(__file__).resolve().parents[2]
CONFIG = """
MODEL:
  META_ARCHITECTURE: "TCMRotatedFCOS"
  DEVICE: "cpu"
  CLIP: {NAME: "custom", EMBED_DIM: 32, VISION_LAYERS: [1, 1, 1, 1], VISION_WIDTH: 16,
         TEXT_WIDTH: 32, TEXT_HEADS: 1, TEXT_LAYERS: 1, POSITION_IMAGE_SIZE_PX: 128}
  TCM: {CLASS_NAMES: ["plane", "ship"], DECODER_WIDTH: 32, DECODER_HEADS: 2, DECODER_LAYERS: 1}
  ROTATED_FPN: {OUT_CHANNELS: 32}
  ROTATED_HEAD: {NUM_CLASSES: 2, CHANNELS: 64, NUM_CONVS: 1, SCORE_THRESH: 0.001}
DATASETS: {CLASSES: ["plane", "ship"], TRAIN: ["tiny_run_a"], TEST: ["tiny_run_a"]}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 0.001, MAX_EPOCHS: 2, STEP_EPOCHS: [1], WARMUP_ITERS: 1,
         CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: "full_model", CLIP_VALUE: 1.0}}
LOG_PERIOD: 1
SEED: 1
"""


def _write_image(folder: Path, image_id: str, rng: np.random.Generator, *, empty: bool) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labelTxt").mkdir(exist_ok=True)
    image = rng.integers(60, 90, (128, 128, 3), dtype=np.uint8)
    lines = []
    for class_name, colour in (("plane", 255), ("ship", 0)):
        x, y = (int(v) for v in rng.integers(10, 80, 2))
        if not empty:
            cv2.rectangle(image, (x, y), (x + 30, y + 15), (colour,) * 3, -1)
            corners = f"{x} {y} {x + 30} {y} {x + 30} {y + 15} {x} {y + 15}"
            lines.append(f"{corners} {class_name} 0\n")
    cv2.imwrite(str(folder / "images" / f"{image_id}.png"), image)
    (folder / "labelTxt" / f"{image_id}.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patches with two objects each and one without, under <root>/split."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index in range(5):
        _write_image(root / "whole", f"P{index:04d}", rng, empty=index == 4)
    split_dataset(
        [SplitSource(root / "whole/images", root / "whole/labelTxt")],
        root / "split",
        config=SplitConfig(patch_size_px=128, gap_px=32),
        classes=["plane", "ship"],
        num_workers=1,
        show_progress=False,
    )
    return root


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    for name in ("tiny_run_a", "tiny_run_b"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)


def _config(folder: Path, patches: Path, *overrides: str) -> CfgNode:
    (folder / "c.yaml").write_text(CONFIG)
    entry = f"tiny_run_a={patches / 'split'}={patches / 'whole/labelTxt'}"
    common = ["DATASETS.PATCH_DIRS", repr([entry]), "OUTPUT_DIR", str(folder / "out")]
    return load_config(folder / "c.yaml", [*common, *overrides])


def _experiment(folder: Path, patches: Path, *overrides: str, **options: Any) -> Any:
    options.setdefault("for_training", True)
    return build_experiment(_config(folder, patches, *overrides), **options)


def test_eval_only_reproduces_the_ap_after_training(tmp_path: Path, patches: Path) -> None:
    experiment = _experiment(tmp_path, patches)
    # 4 images with objects in batches of 2, 2 epochs.
    assert experiment.training.max_iter == 4
    results = train(experiment, resume=False)
    assert set(results["dota"]) == {"AP50", "AP50-plane", "AP50-ship"}
    result_dir = tmp_path / "out/inference/tiny_run_a"
    assert (result_dir / "ap.json").is_file()
    detections = {p.name: p.read_text() for p in (result_dir / "Task1").iterdir()}
    assert all(detections.values())  # an untrained detector still gives something to compare
    again = _experiment(
        tmp_path,
        patches,
        *("MODEL.WEIGHTS", str(tmp_path / "out/model_final.pth"), "SEED", "9"),
        *("MODEL.CLIP.WEIGHTS", "/nowhere/RN50.pt"),  # not needed with whole weights
        for_training=False,
    )
    assert again.training is None
    assert evaluate_only(again, resume=False) == results
    assert {p.name: p.read_text() for p in (result_dir / "Task1").iterdir()} == detections


def test_python_configuration_trains_to_the_same_weights(tmp_path: Path, patches: Path) -> None:
    entry = _config(tmp_path, patches).DATASETS.PATCH_DIRS[0]
    clip = "name=custom embed_dim=32 vision_layers=[1,1,1,1] vision_width=16 text_width=32"
    clip += " text_heads=1 text_layers=1 position_image_size_px=128"
    overrides = [f"model.backbone.{item}" for item in clip.split()]
    overrides += ["model.class_text.class_names=[plane,ship]"]
    overrides += ["model.tcm.decoder_width=32", "model.tcm.decoder_heads=2"]
    overrides += ["model.tcm.decoder_layers=1", "model.neck.out_channels=32"]
    head = "num_classes=2 channels=64 num_convs=1 score_threshold=0.001"
    overrides += [f"model.head.{item}" for item in head.split()]
    overrides += [f"dataloader.patch_dirs=['{entry}']", "dataloader.classes=[plane,ship]"]
    overrides += [f"dataloader.{part}.names=[tiny_run_a]" for part in ("train", "test")]
    overrides += [f"dataloader.{part}.num_workers=0" for part in ("train", "test")]
    overrides += ["dataloader.train.total_batch_size=2", "optimizer.lr=0.001"]
    overrides += ["optimizer.clip_max_norm=1", "lr_multiplier.warmup_iters=1"]
    overrides += ["lr_multiplier.warmup_factor=0.001"]
    train_keys = "device=cpu seed=1 log_period=1 max_epochs=2 step_epochs=[1]"
    overrides += [f"train.{item}" for item in train_keys.split()]
    overrides += [f"train.output_dir='{tmp_path / 'lazy'}'"]
    run = open_config(REPO_DIR / "configs/lazy/tcm_fcos.py", overrides)
    lazy = build_experiment(run, for_training=True)
    lazy_results = train(lazy, resume=False)
    results = train(_experiment(tmp_path, patches), resume=False)
    assert results == lazy_results
    weights = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("out", "lazy")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_training_builds_from_the_keys(tmp_path: Path, patches: Path) -> None:
    overrides = ["SOLVER.MAX_EPOCHS", "0", "SOLVER.MAX_ITER", "7", "SOLVER.STEPS", "(3, 5)"]
    overrides += ["SOLVER.AMP.ENABLED", "True", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"]
    training = _experiment(tmp_path, patches, *overrides).training
    assert training.max_iter == 7 and training.amp_dtype is torch.bfloat16
    assert [training.lr_multiplier(i / 7) for i in (1, 3, 5)] == pytest.approx([1, 0.1, 0.01])
    batch = next(iter(training.loader))
    assert len(batch) == 2 and batch[0]["image"].shape == (3, 128, 128)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("DATASETS.TRAIN", "('tiny_run_aa',)"), r"unknown data set 'tiny_run_aa'.*tiny_run_a"),
        (("DATASETS.TRAIN", "()"), r"DATASETS\.TRAIN: expected at least one"),
        (("MODEL.ROTATED_HEAD.NUM_CLASSES", "15"), r"NUM_CLASSES: expected 2.*got 15"),
        (("MODEL.TCM.CLASS_NAMES", "['plane']"), r"CLASS_NAMES: expected the 2 classes"),
        (("MODEL.TCM.CLASS_NAMES", "['ship', 'plane']"), r"CLASS_NAMES\[0\]: expected 'plane'"),
        (("DATASETS.PATCH_DIRS", "['split']"), r"PATCH_DIRS: expected 'name=patch_dir'"),
        (("SOLVER.OPTIMIZER", "ADAM"), r"SOLVER\.OPTIMIZER"),
        (("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"), r"CLIP_TYPE: expected 'full_model'"),
        (("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"), r"expected SAMPLER_TRAIN"),
        (("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "half"), r"AMP\.DTYPE: expected"),
    ],
)
def test_keys_that_do_not_fit(
    tmp_path: Path, patches: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _experiment(tmp_path, patches, *overrides)


def test_missing_root_of_the_data_is_named(tmp_path: Path, patches: Path) -> None:
    missing = f"['tiny_run_b={tmp_path / 'nowhere'}']"
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        _experiment(
            tmp_path,
            patches,
            *("DATASETS.PATCH_DIRS", missing, "DATASETS.TRAIN", "('tiny_run_b',)"),
            *("DATASETS.TEST", "()"),
        )


def test_only_empty_patches_are_an_error(tmp_path: Path, patches: Path) -> None:
    rng = np.random.default_rng(0)
    _write_image(tmp_path / "whole", "P0", rng, empty=True)
    split_dataset(
        [SplitSource(tmp_path / "whole/images", tmp_path / "whole/labelTxt")],
        tmp_path / "split",
        config=SplitConfig(patch_size_px=128, gap_px=32),
        classes=None,
        num_workers=1,
        show_progress=False,
    )
    entry = f"['tiny_run_b={tmp_path / 'split'}']"
    names = ("DATASETS.TRAIN", "('tiny_run_b',)", "DATASETS.TEST", "()")
    with pytest.raises(ValueError, match="no image with objects to train on"):
        _experiment(tmp_path, patches, "DATASETS.PATCH_DIRS", entry, *names)


def test_classes_without_objects_are_a_warning(
    tmp_path: Path, patches: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = "['plane', 'ship', 'harbor']"
    overrides = ["DATASETS.CLASSES", names, "MODEL.TCM.CLASS_NAMES", names]
    _experiment(tmp_path, patches, *overrides, "MODEL.ROTATED_HEAD.NUM_CLASSES", "3")
    assert "1 of 3 classes have no object to train on: harbor" in caplog.text


def test_prompts_may_be_worded_freely(
    tmp_path: Path, patches: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = "['jet on an apron', 'ship']"
    _experiment(tmp_path, patches, "MODEL.TCM.CLASS_NAMES", prompts, for_training=False)
    assert "'jet on an apron' for 'plane'" in caplog.text


def test_unreadable_image_ends_or_is_skipped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        _write_image(tmp_path / "whole", f"P{index}", rng, empty=False)
    split_dataset(
        [SplitSource(tmp_path / "whole/images", tmp_path / "whole/labelTxt")],
        tmp_path / "split",
        config=SplitConfig(patch_size_px=128, gap_px=32),
        classes=None,
        num_workers=1,
        show_progress=False,
    )
    bad = sorted((tmp_path / "split/images").iterdir())[1]
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(Exception, match=bad.name):
        train(_experiment(tmp_path, tmp_path, "DATASETS.TEST", "()"), resume=False)
    skip = ["INPUT.ON_BAD_IMAGE", "skip", "DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", "1"]
    experiment = _experiment(tmp_path, tmp_path, *skip)
    train(experiment, resume=False, overwrite=True)
    assert (tmp_path / "out/model_final.pth").is_file()


def test_a_device_that_is_named_is_there_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_device(None) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device: 'cuda:1' asked for, but torch"):
        usable_device("cuda:1")
    with pytest.raises(ValueError, match=r"device: expected 'cuda', .* got 'gpu'"):
        usable_device("gpu")


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/train_net.py", *arguments],
        cwd=REPO_DIR,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_command_line_trains_with_two_processes(tmp_path: Path, patches: Path) -> None:
    cfg = _config(tmp_path, patches)
    entry = cfg.DATASETS.PATCH_DIRS[0]
    options = ["--config-file", str(tmp_path / "c.yaml"), "--num-gpus", "2"]
    overrides = ["DATASETS.PATCH_DIRS", repr([entry]), "OUTPUT_DIR", str(tmp_path / "two")]
    done = _command(*options, *overrides, "SOLVER.MAX_EPOCHS", "1", "SOLVER.STEP_EPOCHS", "[]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "AP of tiny_run_a" in done.stdout
    for name in ("model_final.pth", "config.yaml", "log.txt", "log.txt.rank1"):
        assert (tmp_path / "two" / name).is_file()


@pytest.mark.slow
def test_command_line_errors_are_one_sentence(tmp_path: Path) -> None:
    done = _command("--config-file", "configs/tcm_fcos.yaml", "SOLVER.BASE_LRR", "1")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "unknown key 'SOLVER.BASE_LRR'; near matches: SOLVER.BASE_LR" in done.stderr
