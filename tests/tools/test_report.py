from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.modeling import build_model

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tests.conftest import REPO_DIR
from tests.engine.small_detector import small_config
from tests.report.scene import NAMES, write_scene


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("report_tool", REPO_DIR / "tools" / "report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def arguments(folder: Path, *more: object) -> list[str]:
    given = ["--detections", folder / "results", "--labels", folder / "labelTxt", "--output"]
    given += [folder / "out" / "report.html", *more, "--classes", *NAMES]
    return [str(argument) for argument in given]


def data_of(folder: Path) -> dict:
    page = (folder / "out" / "report.html").read_text()
    found = re.search(r'id="data">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def test_page_of_an_evaluation(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_scene(tmp_path)
    assert tool.main(arguments(folder, "--images", folder / "images", "--num-pictures", 2)) == 0
    assert "2 pictures" in capsys.readouterr().out
    data = data_of(folder)
    assert [image["id"] for image in data["images"]] == ["P3", "P1"]
    assert data["title"] == "Report on results"


def test_page_without_pictures(tool: ModuleType, tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    assert tool.main(arguments(folder, "--title", "Mine")) == 0
    assert data_of(folder)["images"] == [] and data_of(folder)["title"] == "Mine"


def write_run(folder: Path, *, metric: str = "area", iou_threshold: float = 0.6) -> Path:
    """Write the scene with an ap.json beside Task1/; return the run."""
    write_scene(folder)
    classes: dict[str, dict] = {name: {} for name in NAMES}
    rules = {"classes": classes, "metric": metric, "iou_threshold": iou_threshold}
    (folder / "results" / "ap.json").write_text(json.dumps(rules))
    return folder / "results"


def test_a_run_says_classes_and_rules_itself(tool: ModuleType, tmp_path: Path) -> None:
    run = write_run(tmp_path)
    args = tool.parse_arguments(["--run", str(run), "--labels", str(tmp_path / "labelTxt")])
    tool.complete_from_run(args)
    assert args.classes == NAMES and (args.metric, args.iou_threshold) == ("area", 0.6)
    given = ["--run", str(run), "--labels", str(tmp_path / "labelTxt"), "--iou-threshold", "0.5"]
    assert tool.main([*given, "--output", str(tmp_path / "out" / "report.html")]) == 0
    assert data_of(tmp_path)["title"] == "Report on results"


def test_results_and_their_defaults_stay(tool: ModuleType) -> None:
    args = tool.parse_arguments(["--detections", "somewhere", "--labels", "labelTxt"])
    tool.complete_from_run(args)
    assert args.classes == list(DOTA_V1_CLASSES) and (args.metric, args.iou_threshold) == (
        "11point",
        0.5,
    )


@pytest.mark.parametrize(
    ("remove", "message"), [("Task1", "found no Task1/"), ("ap.json", "no such file")]
)
def test_an_incomplete_run_gets_one_sentence(
    tool: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    remove: str,
    message: str,
) -> None:
    run = write_run(tmp_path)
    (run / remove).rename(tmp_path / "elsewhere")
    assert tool.main(["--run", str(run), "--labels", str(tmp_path / "labelTxt")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_another_json_is_refused(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, metric="coco")
    assert tool.main(["--run", str(run), "--labels", str(tmp_path / "labelTxt")]) == 1
    assert "got 3 classes and 'coco'" in capsys.readouterr().err
    (run / "ap.json").write_text("[]")
    assert tool.main(["--run", str(run), "--labels", str(tmp_path / "labelTxt")]) == 1
    assert "expected the JSON of an evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("--detections", "Task1"), ("--labels", "label folder"), ("--images", "folder")],
)
def test_missing_folders_get_one_sentence(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    folder = write_scene(tmp_path)
    assert tool.main(arguments(folder, name, folder / "nowhere")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "nowhere" in error and message in error


def test_score_maps_of_a_detector_with_the_report_s_classes(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_scene(tmp_path)
    model = build_model(small_config(tmp_path))
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    detector = ["--images", folder / "images", "--num-pictures", 1, "--device", "cpu"]
    detector += ["--config-file", tmp_path / "small.yaml", "--weights", tmp_path / "w.pth"]
    assert tool.main(arguments(folder, *detector)) == 1
    assert "the detector has 2 classes, the report 3" in capsys.readouterr().err
    assert tool.main([*arguments(folder, *detector), "--classes", "plane", "ship"]) == 0
    assert len(data_of(folder)["images"]) == 1


def test_score_maps_need_config_and_weights(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        tool.main(arguments(write_scene(tmp_path), "--weights", "model.pth"))
