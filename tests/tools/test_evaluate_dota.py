"""The command line of tools/evaluate_dota.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tcm_d2.cli.main import run_command
from tests.conftest import REPO_DIR

SCRIPT = REPO_DIR / "tools" / "evaluate_dota.py"


@pytest.fixture
def task(tmp_path: Path) -> tuple[Path, Path]:
    """Return (results, labels): two planes, one found; Windows line ends."""
    results, labels = tmp_path / "Task1", tmp_path / "labelTxt"
    results.mkdir()
    labels.mkdir()
    (labels / "P1.txt").write_bytes(b"gsd:0.2\r\n0 0 10 0 10 10 0 10 plane 0\r\n")
    (labels / "P2.txt").write_bytes(b"0 0 10 0 10 10 0 10 plane 0\r\n5 5 9 5 9 9 5 9 ship 1\r\n")
    (results / "Task1_plane.txt").write_bytes(
        b"P1 0.9 0 0 10 0 10 10 0 10\r\nP2 1e-05 50 50 60 50 60 60 50 60\r\n"
    )
    (results / "Task1_ship.txt").write_bytes(b"")
    return results, labels


def arguments(task: tuple[Path, Path], *more: str) -> list[str]:
    return ["--detections", str(task[0]), "--labels", str(task[1]), *more]


def test_runs_as_a_script(task: tuple[Path, Path], tmp_path: Path) -> None:
    report = tmp_path / "out" / "ap.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments(task, "--metric", "area", "--json", str(report))],
        capture_output=True,
        text=True,
        cwd=REPO_DIR,
        env={**os.environ, "PYTHONPATH": str(REPO_DIR)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "plane" in done.stdout and "50.00" in done.stdout
    content = json.loads(report.read_text())
    assert content["mean_ap"] == 0.5 and len(content["classes"]) == 15
    plane = content["classes"]["plane"]
    assert (plane["ap"], plane["num_ground_truths"], plane["num_detections"]) == (0.5, 2, 2)
    assert content["classes"]["ship"]["ap"] is None
    assert content["classes"]["ship"]["num_difficult"] == 1


def test_zip_gives_the_same(task: tuple[Path, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        for path in task[0].iterdir():
            archive.write(path, f"results/{path.name}")
    reports = []
    for index, source in enumerate((task[0], tmp_path / "up.zip")):
        out = tmp_path / f"{index}.json"
        assert run_command("evaluate", arguments((source, task[1]), "--json", str(out))) == 0
        reports.append(json.loads(out.read_text()))
    assert reports[0] == reports[1]


def test_options_reach_the_score(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, image_list = tmp_path / "ap.json", tmp_path / "list.txt"
    image_list.write_text("P1\r\n")
    more = ["--image-list", str(image_list), "--classes", "plane", "--json", str(out)]
    assert run_command("evaluate", arguments(task, *more)) == 1
    error = capsys.readouterr().err
    assert "1 detections of 1 unknown images: P2" in error
    assert (
        run_command(
            "evaluate", arguments(task, *more, "--allow-unknown-images", "--iou-threshold", "0.75")
        )
        == 0
    )
    content = json.loads(out.read_text())
    assert list(content["classes"]) == ["plane"] and content["num_images"] == 1
    assert content["mean_ap"] == pytest.approx(1.0) and content["iou_threshold"] == 0.75
    assert run_command("evaluate", arguments(task, "--difficult", "count", "--json", str(out))) == 0
    assert json.loads(out.read_text())["classes"]["ship"]["num_ground_truths"] == 1


def test_analysis_and_protocols_reach_the_files(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "analysis"
    more = ["--output", str(out), "--no-pictures", "--size-edges", "0", "20", "inf"]
    assert run_command("evaluate", arguments(task, *more, "--protocol", "mmrotate")) == 0
    assert (
        "Task 1, mmrotate's rules, IoU >= 0.5, 11point, difficult: count" in capsys.readouterr().out
    )
    content = json.loads((out / "evaluation.json").read_text())
    assert content["protocol"] == "mmrotate" and content["difficult"] == "count"
    assert [entry["high"] for entry in content["mean_by_size"]] == [20.0, None]
    assert (out / "matches.json").is_file() and not list(out.glob("*.png"))
    assert run_command("evaluate", arguments(task, "--size-edges", "5", "5")) == 1
    assert "--size-edges: expected at least two increasing" in capsys.readouterr().err


def test_upright_boxes(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (task[0] / "Task2_plane.txt").write_text("P1 0.9 0 0 10 10\nP2 0.8 0 0 10.5 10\n")
    out = tmp_path / "ap.json"
    assert run_command("evaluate", arguments(task, "--task", "2", "--json", str(out))) == 0
    content = json.loads(out.read_text())
    assert content["task"] == 2 and content["classes"]["plane"]["ap"] == pytest.approx(1.0)
    # Inclusive pixels, 11 against 11.5 px wide: IoU 0.957, above all overlaps of the sweep.
    assert content["mean_ap_50_95"] == pytest.approx(1.0)


def test_bad_input_is_an_error_without_traceback(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        ((tmp_path / "absent", task[1]), [], "expected a folder or a zip"),
        ((task[0], tmp_path / "absent"), [], "expected a folder with DOTA label files"),
        (task, ["--iou-threshold", "1.0"], "iou_threshold: expected a number in [0, 1)"),
        (task, ["--image-list", str(tmp_path / "absent")], "absent"),
    ]
    for source, more, message in cases:
        assert run_command("evaluate", arguments(source, *more)) == 1
        assert message in capsys.readouterr().err
    (task[0] / "Task1_ship.txt").write_text("P1 0.5 0 0 1 0 1 1 0 1\nP1 nan 0 0 1 0 1 1 0 1\n")
    assert run_command("evaluate", arguments(task)) == 1
    assert "Task1_ship.txt:2: expected a finite number, got 'nan'" in capsys.readouterr().err


def test_the_table_is_printed_before_files_are_written(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert run_command("evaluate", arguments(task, "--output", str(tmp_path / "file"))) == 1
    shown = capsys.readouterr()
    assert "mean over 1 classes" in shown.out and str(tmp_path / "file") in shown.err
