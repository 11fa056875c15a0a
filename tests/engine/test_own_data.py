"""--data: a run on one description of own data, from YAML and Python configurations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from tcm_d2 import Detector
from tcm_d2.config.run import Run, open_config
from tcm_d2.data.preparation import PreparedData, PreparedSplit
from tcm_d2.engine.command import run_command
from tcm_d2.engine.datasets import usual_size_px
from tcm_d2.engine.options import parse_arguments
from tcm_d2.engine.own_data import apply_data, with_own_data
from tests.conftest import REPO_DIR
from tests.data.own_data import write_yolo
from tests.engine.small_detector import write_config


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    deterministic, known = torch.are_deterministic_algorithms_enabled(), DatasetCatalog.list()
    yield
    torch.use_deterministic_algorithms(deterministic)
    for name in set(DatasetCatalog.list()) - set(known):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_from_a_data_yaml_to_an_ap_and_a_detector(tmp_path: Path) -> None:
    """The names are typed once, in data.yaml; the configuration knows two other classes."""
    data, out = write_yolo(tmp_path / "harbour"), tmp_path / "out"
    data.write_text(data.read_text().replace("1: ship", "1: ship, 2: crane"))
    options = ["--config-file", str(write_config(tmp_path)), "--data", str(data)]
    overrides = ["SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(out), "TEST.EVAL_PERIOD", "1"]
    overrides += ["TEST.DOTA.ANALYSIS", "none"]
    run_command(parse_arguments([*options, *overrides]))
    copy = open_config(out / "config.yaml")
    assert copy.num_classes == 3 and copy.prompts == ["small vehicle", "ship", "crane"]
    assert copy.dataloader.classes == ["small-vehicle", "ship", "crane"]
    scored = json.loads((out / "inference/harbour_val/ap.json").read_text())
    assert {k: v["num_ground_truths"] for k, v in scored["classes"].items()} == {
        "small-vehicle": 1,
        "ship": 1,
        "crane": 0,
    }
    detector = Detector.from_pretrained(out, device="cpu")
    assert detector.classes == ("small-vehicle", "ship", "crane")
    assert detector.config.window_px == 64
    run_command(parse_arguments([*options, "--eval-only", *overrides, "MODEL.WEIGHTS", "best"]))
    with pytest.raises(SystemExit, match="holds a run"):
        run_command(parse_arguments([*options, *overrides]))


def _data(folder: Path) -> PreparedData:
    splits = {name: PreparedSplit(folder / name, folder / "labels") for name in ("train", "val")}
    return PreparedData(("big-ship", "crane"), 512, splits)


@pytest.mark.parametrize(
    "name", ["tcm_fcos", "tcm_atss", "tcm_s2anet", "atss_no_tcm", "tcm_fcos_fast"]
)
def test_both_kinds_of_configuration_become_one_run(tmp_path: Path, name: str) -> None:
    runs = [
        apply_data(open_config(REPO_DIR / path), _data(tmp_path), name="mine")
        for path in (f"configs/{name}.yaml", f"configs/lazy/{name}.py")
    ]
    assert yaml.safe_load(runs[0].text) == yaml.safe_load(runs[1].text)
    run = runs[0]
    assert run.num_classes == 2 and run.dataloader.train.mapper["num_classes"] == 2
    assert run.dataloader.train.names == ["mine_train"] and run.dataloader.test.names == [
        "mine_val"
    ]
    assert run.prompts in (None, ["big ship", "crane"])
    assert "num_classes: 15" not in run.text and run.dataloader.train.patch_size_px == 512


def test_prompts_of_ones_own_stay(tmp_path: Path) -> None:
    run = open_config(REPO_DIR / "configs/tcm_fcos.yaml", ["MODEL.TCM.CLASS_NAMES", "['a','b']"])
    assert apply_data(run, _data(tmp_path), name="mine", keeps_prompts=True).prompts == ["a", "b"]


def test_options_without_data_are_refused(tmp_path: Path) -> None:
    options = ["--config-file", str(write_config(tmp_path)), "--patch-size", "64"]
    with pytest.raises(SystemExit, match="--patch-size, --data-cache: only with --data"):
        run_command(parse_arguments(options))


@pytest.mark.parametrize("override", [("DATASETS.TEST", "()"), ("dataloader.classes=[a]",)])
def test_what_follows_from_data_is_not_replaced_without_a_word(
    tmp_path: Path, override: tuple[str, ...]
) -> None:
    options = ["--config-file", str(write_config(tmp_path)), "--data", "x", *override]
    run, args = open_config(write_config(tmp_path)), parse_arguments(options)
    with pytest.raises(ValueError, match=r": follows from --data; leave it out"):
        with_own_data(run, args)


def test_a_detector_takes_windows_of_its_training_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A detector trained at 512 px was asked in windows of 256 px, its positional embedding's."""
    run: Run = open_config(write_config(tmp_path)).with_patch_size(512)
    torch.save({"model": run.build_model().state_dict()}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(run.text)
    assert Detector.from_pretrained(tmp_path, device="cpu").config.window_px == 512
    assert Detector.from_pretrained(tmp_path, device="cpu", window_px=640).config.window_px == 640
    assert "windows of 640 px, while the images it was trained on have 512" in caplog.text
    assert run.with_patch_size(64).dataloader.train.patch_size_px == 512


def test_the_usual_size_of_training_images() -> None:
    records = [{"height": 500, "width": 300}] * 3 + [{"height": 4000, "width": 4000}]
    assert usual_size_px(records) == 512
    assert usual_size_px([{}]) == 0
