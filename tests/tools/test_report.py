from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from tcm_d2.cli import report as report_command
from tcm_d2.cli.main import run_command
from tcm_d2.cli.options.report import parse_arguments
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tests.engine.small_detector import small_config
from tests.report.scene import NAMES, write_scene


def arguments(folder: Path, *more: object) -> list[str]:
    given = ["--detections", folder / "results", "--labels", folder / "labelTxt", "--output"]
    given += [folder / "out" / "report.html", *more, "--classes", *NAMES]
    return [str(argument) for argument in given]


def data_of(folder: Path) -> dict:
    page = (folder / "out" / "report.html").read_text()
    found = re.search(r'id="data">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def test_page_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_scene(tmp_path)
    assert (
        run_command("report", arguments(folder, "--images", folder / "images", "--num-pictures", 2))
        == 0
    )
    assert "2 pictures" in capsys.readouterr().out
    data = data_of(folder)
    assert [image["id"] for image in data["images"]] == ["P3", "P1"]
    assert data["title"] == "Report on results"


def test_page_without_pictures(tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    assert run_command("report", arguments(folder, "--title", "Mine")) == 0
    assert data_of(folder)["images"] == [] and data_of(folder)["title"] == "Mine"


def write_run(folder: Path, *, metric: str = "area", iou_threshold: float = 0.6) -> Path:
    """Write the scene with an ap.json beside Task1/; return the run."""
    write_scene(folder)
    classes: dict[str, dict] = {name: {} for name in NAMES}
    rules = {"classes": classes, "metric": metric, "iou_threshold": iou_threshold}
    (folder / "results" / "ap.json").write_text(json.dumps(rules))
    return folder / "results"


def test_a_run_says_classes_and_rules_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    args = parse_arguments(["--run", str(run), "--labels", str(tmp_path / "labelTxt")])
    report_command.complete_from_run(args)
    assert args.classes == NAMES and (args.metric, args.iou_threshold) == ("area", 0.6)
    given = ["--run", str(run), "--labels", str(tmp_path / "labelTxt"), "--iou-threshold", "0.5"]
    assert run_command("report", [*given, "--output", str(tmp_path / "out" / "report.html")]) == 0
    assert data_of(tmp_path)["title"] == "Report on results"


def test_results_and_their_defaults_stay() -> None:
    args = parse_arguments(["--detections", "somewhere", "--labels", "labelTxt"])
    report_command.complete_from_run(args)
    assert args.classes == list(DOTA_V1_CLASSES) and (args.metric, args.iou_threshold) == (
        "11point",
        0.5,
    )


@pytest.mark.parametrize(
    ("remove", "message"), [("Task1", "found no Task1/"), ("ap.json", "no such file")]
)
def test_an_incomplete_run_gets_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    remove: str,
    message: str,
) -> None:
    run = write_run(tmp_path)
    (run / remove).rename(tmp_path / "elsewhere")
    assert run_command("report", ["--run", str(run), "--labels", str(tmp_path / "labelTxt")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_another_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, metric="coco")
    assert run_command("report", ["--run", str(run), "--labels", str(tmp_path / "labelTxt")]) == 1
    assert "got 3 classes and 'coco'" in capsys.readouterr().err
    (run / "ap.json").write_text("[]")
    assert run_command("report", ["--run", str(run), "--labels", str(tmp_path / "labelTxt")]) == 1
    assert "expected the JSON of an evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("--detections", "Task1"), ("--labels", "label folder"), ("--images", "folder")],
)
def test_missing_folders_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    folder = write_scene(tmp_path)
    assert run_command("report", arguments(folder, name, folder / "nowhere")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "nowhere" in error and message in error


def test_score_maps_of_a_detector_with_the_report_s_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_scene(tmp_path)
    model = build_model(small_config(tmp_path))
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    detector = ["--images", folder / "images", "--num-pictures", 1, "--device", "cpu"]
    detector += ["--config-file", tmp_path / "small.yaml", "--weights", tmp_path / "w.pth"]
    assert run_command("report", arguments(folder, *detector)) == 1
    assert "the detector has 2 classes, the report 3" in capsys.readouterr().err
    assert run_command("report", [*arguments(folder, *detector), "--classes", "plane", "ship"]) == 0
    assert len(data_of(folder)["images"]) == 1


def test_score_maps_need_config_and_weights(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run_command("report", arguments(write_scene(tmp_path), "--weights", "model.pth"))
