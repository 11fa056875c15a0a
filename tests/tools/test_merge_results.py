"""The command line of tools/merge_results.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tcm_d2.cli.main import run_command
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.files.task_files import read_task1
from tcm_d2.evaluation.merge import save_patch_detections
from tcm_d2.structures.detections import BoxDetections, PatchDetections


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "Task1_ship.txt").write_text(
        "P1__1024__0___0 0.6 900 0 940 0 940 20 900 20\n"
        "P1__1024__824___0 0.8 76 0 116 0 116 20 76 20\n"
        "P1__1024__824___0 0.7 500 0 540 0 540 20 500 20\n"
    )
    return folder


def test_rows_are_merged_and_packed(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_command("merge", ["--detections", str(patches), "--output", str(out)]) == 0
    assert "3 rows on patches -> 2 rows on 1 images" in capsys.readouterr().out
    for source in (out / "Task1", out / "Task1.zip"):
        rows = read_task1(source)
        assert set(rows) == set(DOTA_V1_CLASSES)
        assert rows["ship"].image_ids == ["P1", "P1"]
        assert rows["ship"].scores.tolist() == [0.8, 0.7]
        assert rows["ship"].quads[0, 0].tolist() == [900.0, 0.0]


def test_names_can_be_read_as_rates(patches: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--patch-names", "rate", "--iou-threshold", "0.3"]
    assert run_command("merge", ["--detections", str(patches), "--output", str(out), *more]) == 0
    assert read_task1(out / "Task1")["ship"].quads.max() < 2.0


def test_lint_warns_about_unknown_images(
    patches: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "list.txt").write_text("P2\n")
    more = ["--image-list", str(tmp_path / "list.txt")]
    arguments = ["--detections", str(patches), "--output", str(tmp_path / "out"), *more]
    assert run_command("merge", arguments) == 0
    assert "unknown-image" in caplog.text


def test_strict_lint_is_an_error(patches: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("P2\n")
    more = ["--image-list", str(tmp_path / "list.txt"), "--strict"]
    arguments = ["--detections", str(patches), "--output", str(tmp_path / "out"), *more]
    assert run_command("merge", arguments) == 1
    assert (tmp_path / "out" / "Task1.zip").is_file()


def test_predictions_of_an_evaluation_and_task_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "patch_detections.npz", tmp_path / "out"
    save_patch_detections(
        source,
        PatchDetections(
            patch_ids=["P1__0", "P1__1"],
            image_ids=["P1", "P1"],
            origins_xy=np.array([[0.0, 0.0], [824.0, 0.0]]),
            scales=np.ones(2),
            patch_index=np.array([0, 1]),
            found=BoxDetections(
                boxes=np.array([[920, 10, 40, 20, 0], [96, 10, 40, 20, 0]], np.float32),
                scores=np.array([0.6, 0.8], np.float32),
                class_ids=np.array([1, 1]),
            ),
        ),
    )
    arguments = ["--detections", str(source), "--output", str(out), "--task", "2"]
    assert run_command("merge", [*arguments, "--classes", "plane", "ship"]) == 0
    assert "2 rows on patches -> 1 rows on 1 images" in capsys.readouterr().out
    text = (out / "Task2" / "Task2_ship.txt").read_text()
    assert text == "P1 0.800000012 900.00 0.00 940.00 20.00\n"
    assert run_command("merge", [*arguments, "--classes", "plane"]) == 1
    assert "--classes: expected at least 2 names" in capsys.readouterr().err


def test_lint_tool_prints_file_line_and_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Task1_ship.txt").write_text("P1__1__0___0 0.6 900 0 940 0 940 20 900 20\n")
    arguments = ["--detections", str(tmp_path), "--classes", "ship"]
    assert run_command("lint", arguments) == 1
    printed = capsys.readouterr().out
    assert "Task1_ship.txt:1: patch-name: " in printed and "merge them first" in printed
    (tmp_path / "Task1_ship.txt").write_text("P1 0.6 900 0 940 0 940 20 900 20\n")
    assert run_command("lint", arguments) == 0
    assert run_command("lint", ["--detections", str(tmp_path / "absent")]) == 2


def test_image_names_are_refused(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (patches / "Task1_ship.txt").write_text("P1 0.6 900 0 940 0 940 20 900 20\n")
    assert (
        run_command("merge", ["--detections", str(patches), "--output", str(tmp_path / "out")]) == 1
    )
    assert "results already named by image need no merging" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
