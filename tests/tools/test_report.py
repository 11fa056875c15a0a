from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import REPO_DIR
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
    given = ["--results", folder / "results", "--labels", folder / "labelTxt", "--out"]
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


@pytest.mark.parametrize(
    ("name", "message"),
    [("--results", "Task1"), ("--labels", "label folder"), ("--images", "folder")],
)
def test_missing_folders_get_one_sentence(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    folder = write_scene(tmp_path)
    assert tool.main(arguments(folder, name, folder / "nowhere")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "nowhere" in error and message in error


def test_score_maps_need_config_and_weights(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        tool.main(arguments(write_scene(tmp_path), "--weights", "model.pth"))
