from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from tcm_d2.cli.main import run_command
from tcm_d2.visualize.palette import FALSE_COLOR, HIT_COLOR, MISSED_COLOR
from tests.engine.small_detector import small_config
from tests.report.scene import NAMES, write_scene


def has_color(path: Path, color: tuple[int, int, int]) -> bool:
    picture = cv2.imread(str(path))[..., ::-1].astype(int)
    return bool((np.abs(picture - np.array(color)).max(2) < 40).any())


def run(folder: Path, *more: object) -> int:
    given = ["--images", folder / "images", "--detections", folder / "results"]
    given += ["--output", folder / "pictures", *more, "--classes", *NAMES]
    return run_command("draw", [str(argument) for argument in given])


def test_detections_alone(tmp_path: Path) -> None:
    assert run(write_scene(tmp_path), "--num", 2, "--headings") == 0
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["P1.png", "P2.png"]


def test_against_the_truth(tmp_path: Path) -> None:
    assert run(write_scene(tmp_path), "--labels", tmp_path / "labelTxt") == 0
    assert has_color(tmp_path / "pictures" / "P1.png", HIT_COLOR)
    third = tmp_path / "pictures" / "P3.png"
    assert has_color(third, FALSE_COLOR) and has_color(third, MISSED_COLOR)


def test_score_maps(tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    model = build_model(small_config(tmp_path))
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    arguments = ["--images", folder / "images" / "P1.png", "--score-maps", "--map-classes", "ship"]
    arguments += ["--config-file", tmp_path / "small.yaml", "--weights", tmp_path / "w.pth"]
    arguments += ["--output", tmp_path / "pictures", "--classes", "plane", "ship"]
    assert run_command("draw", [str(argument) for argument in arguments]) == 0
    (sheet,) = (tmp_path / "pictures").iterdir()
    assert sheet.name == "P1_score_maps.jpg"
    assert cv2.imread(str(sheet)).shape[1] == 2 * 406 + 6


@pytest.mark.parametrize("name", ["--images", "--detections", "--labels"])
def test_missing_files_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(write_scene(tmp_path), name, tmp_path / "nowhere") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "nowhere" in error


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    for more in ([], ["--score-maps"]):
        with pytest.raises(SystemExit):
            run_command("draw", ["--images", str(tmp_path), *more])
