from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.cli import plot_metrics
from tcm_d2.cli.main import run_command


def write_run(folder: Path, values: list[tuple[int, float]], tail: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"iteration": i, "total_loss": v, "lr": 0.1}) for i, v in values]
    (folder / "metrics.json").write_text("\n".join(lines) + "\n" + tail)
    return folder


def test_two_runs_make_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first = write_run(tmp_path / "a", [(i, 2.0 / (i + 1)) for i in range(60)])
    second = write_run(tmp_path / "b", [(i, 1.0) for i in range(60)])
    out = tmp_path / "new" / "curves.png"
    assert run_command("plot-metrics", [str(first), f"other={second}", "--output", str(out)]) == 0
    picture = cv2.imread(str(out))
    blue, vermilion = (np.abs(picture[..., ::-1].astype(int) - c).max(2) < 30 for c in
                       ((0, 114, 178), (213, 94, 0)))  # fmt: skip
    assert blue.sum() > 200 and vermilion.sum() > 100


def test_later_values_and_whole_lines_count(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [(0, 1.0), (1, 2.0), (1, 3.0)], tail='{"iteration": 2, "tot')
    with (run / "metrics.json").open("a") as stream:
        stream.write('\n{"iteration": 3, "total_loss": NaN}\n')
    assert plot_metrics.read_metrics(run)["total_loss"] == [(0.0, 1.0), (1.0, 3.0)]


def test_smoothing_is_a_median() -> None:
    values = np.array([1.0, 9.0, 2.0, 3.0, 2.0])
    assert plot_metrics.smooth(values, 3).tolist() == [5.0, 2.0, 3.0, 2.0, 2.5]
    assert plot_metrics.smooth(values, 1).tolist() == values.tolist()


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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", [(0, 1.0)])
    write_run(tmp_path / "empty", [])
    assert run_command("plot-metrics", [*arguments, "--output", str(tmp_path / "x.png")]) == 1
    assert message in capsys.readouterr().err
