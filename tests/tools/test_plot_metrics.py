from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from tests.conftest import REPO_DIR


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = REPO_DIR / "tools" / "plot_metrics.py"
    spec = importlib.util.spec_from_file_location("plot_metrics", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def write_run(folder: Path, values: list[tuple[int, float]], tail: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"iteration": i, "total_loss": v, "lr": 0.1}) for i, v in values]
    (folder / "metrics.json").write_text("\n".join(lines) + "\n" + tail)
    return folder


def test_two_runs_make_one_picture(tool: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first = write_run(tmp_path / "a", [(i, 2.0 / (i + 1)) for i in range(60)])
    second = write_run(tmp_path / "b", [(i, 1.0) for i in range(60)])
    out = tmp_path / "new" / "curves.png"
    assert tool.main([str(first), f"other={second}", "--output", str(out)]) == 0
    picture = cv2.imread(str(out))
    blue, vermilion = (np.abs(picture[..., ::-1].astype(int) - c).max(2) < 30 for c in
                       ((0, 114, 178), (213, 94, 0)))  # fmt: skip
    assert blue.sum() > 200 and vermilion.sum() > 100


def test_later_values_and_whole_lines_count(tool: ModuleType, tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [(0, 1.0), (1, 2.0), (1, 3.0)], tail='{"iteration": 2, "tot')
    with (run / "metrics.json").open("a") as stream:
        stream.write('\n{"iteration": 3, "total_loss": NaN}\n')
    assert tool.read_metrics(run)["total_loss"] == [(0.0, 1.0), (1.0, 3.0)]


def test_smoothing_is_a_median(tool: ModuleType) -> None:
    values = np.array([1.0, 9.0, 2.0, 3.0, 2.0])
    assert tool.smooth(values, 3).tolist() == [5.0, 2.0, 3.0, 2.0, 2.5]
    assert tool.smooth(values, 1).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such file"),
        (["a", "a"], "two are called 'a'"),
        (["a", "--keys", "AP*"], "nothing matches"),
        (["empty"], "found none"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", [(0, 1.0)])
    write_run(tmp_path / "empty", [])
    assert tool.main([*arguments, "--output", str(tmp_path / "x.png")]) == 1
    assert message in capsys.readouterr().err
