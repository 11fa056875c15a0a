"""The lint of submissions: one case per rule, each naming file and line, and what to do."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tcm_d2.evaluation.files.lint import lint_results, lint_task1
from tcm_d2.evaluation.files.lint_rules import RULES

CLASSES = ("plane", "small-vehicle")
ROW = "P0001 0.5 0 0 10 0 10 10 0 10"
BOX = "P0001 0.5 0 0 10 10"

# Rule: (bad row or file, part of the message); a row is the third line of Task1_plane.txt.
BAD_ROWS = {
    "field-count": ("P0001 0.5 0 0 10 0 10 10 0", "expected 10 fields"),
    "not-a-number": ("P0001 x 0 0 10 0 10 10 0 10", "expected a number, got 'x'; correct"),
    "non-finite": ("P0001 0.5 0 0 inf 0 10 10 0 10", "got 'inf'; drop such detections"),
    "patch-name": ("P0001__1024__0___824 0.5 0 0 10 0 10 10 0 10", "merge them first"),
    "unknown-image": ("P0002 0.5 0 0 10 0 10 10 0 10", "correct the names or the list"),
    "degenerate-quad": ("P0001 0.5 0 0 10 0 10 0 0 0", "boxes without area match nothing; drop"),
    "non-convex-quad": ("P0001 0.5 0 0 10 0 2 2 0 10", "put them in order"),
}
# Rule: (path in the zip, content, part of the message).
BAD_FILES = {
    "file-name": ("plane.txt", ROW, "expected a name like Task1_<class>.txt, got 'plane.txt'"),
    "nested-folder": ("mine/Task1_plane.txt", ROW, "pack the files without their folder"),
    "extra-file": ("__MACOSX/._Task1_plane.txt", "\x00", "pack without it"),
    "unknown-class": ("Task1_small_vehicle.txt", ROW, "near matches: small-vehicle"),
    "not-text": ("Task1_plane.txt", b"P\xff 0.5 0 0 1 0 1 1 0 1", "expected UTF-8 text"),
}


def pack(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_good_files_have_no_problems(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"Task1_plane.txt": ROW, "Task1_small-vehicle.txt": ROW}
    path = pack(tmp_path / "a.zip", files)
    assert lint_task1(path, classes=CLASSES, image_ids=["P0001"]) == []
    boxes: dict[str, str | bytes] = {"Task2_plane.txt": BOX, "Task2_small-vehicle.txt": BOX}
    path = pack(tmp_path / "b.zip", boxes)
    assert lint_results(path, classes=CLASSES, image_ids=["P0001"], task=2) == []


@pytest.mark.parametrize("rule", BAD_ROWS)
def test_bad_row(tmp_path: Path, rule: str) -> None:
    row, message = BAD_ROWS[rule]
    (tmp_path / "Task1_plane.txt").write_text(f"{ROW}\n\n{row}\n{ROW}\n{row}\n")
    (tmp_path / "Task1_small-vehicle.txt").write_text(ROW)
    (problem,) = lint_task1(tmp_path, classes=CLASSES, image_ids=["P0001"])
    assert problem.rule == rule and message in problem.message
    assert problem.where == f"{tmp_path}/Task1_plane.txt:3"
    assert "2 " in problem.message  # two such rows


@pytest.mark.parametrize("rule", BAD_FILES)
def test_bad_file(tmp_path: Path, rule: str) -> None:
    name, content, message = BAD_FILES[rule]
    files = {"Task1_plane.txt": ROW, "Task1_small-vehicle.txt": ROW, name: content}
    if "/" in name and "MACOSX" not in name:
        del files["Task1_plane.txt"]
    path = pack(tmp_path / "up.zip", files)
    (problem,) = lint_task1(path, classes=CLASSES)
    assert problem.rule == rule and message in problem.message
    assert problem.where == f"{path}/{name}"


def test_second_file_of_a_class(tmp_path: Path) -> None:
    files = {f"{folder}/Task1_{name}.txt": ROW for folder in "ab" for name in CLASSES[:1]}
    path = pack(tmp_path / "up.zip", {**files, "Task1_small-vehicle.txt": ROW})
    problems = lint_task1(path, classes=CLASSES)
    assert [problem.rule for problem in problems].count("duplicate-class") == 1
    duplicate = next(problem for problem in problems if problem.rule == "duplicate-class")
    assert duplicate.where.endswith("b/Task1_plane.txt") and "keep one" in duplicate.message


def test_missing_class(tmp_path: Path) -> None:
    (tmp_path / "Task1_plane.txt").write_text(ROW)
    (problem,) = lint_task1(tmp_path, classes=CLASSES)
    assert problem.rule == "missing-class" and problem.where == str(tmp_path)
    assert "Task1_small-vehicle.txt, got none; add it" in problem.message


def test_no_rows_at_all(tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / f"Task1_{name}.txt").write_text("\n")
    (problem,) = (p for p in lint_task1(tmp_path, classes=CLASSES) if not p.is_note)
    assert problem.rule == "no-rows" and "were the results written?" in problem.message


def test_a_class_file_without_rows_is_noted(tmp_path: Path) -> None:
    (tmp_path / "Task1_plane.txt").write_text("")
    (tmp_path / "Task1_small-vehicle.txt").write_text(ROW)
    (note,) = lint_task1(tmp_path, classes=CLASSES)
    assert note.is_note and note.rule == "empty-file"
    assert note.where == f"{tmp_path}/Task1_plane.txt"
    assert "the devkit's evaluation stops" in note.message


def test_self_crossing_quads_are_not_convex(tmp_path: Path) -> None:
    (tmp_path / "Task1_plane.txt").write_text("P0001 0.5 0 0 10 15 10 0 0 10")
    assert [p.rule for p in lint_task1(tmp_path, classes=CLASSES[:1])] == ["non-convex-quad"]


def test_upright_boxes_the_wrong_way_round(tmp_path: Path) -> None:
    (tmp_path / "Task2_plane.txt").write_text(f"{BOX}\nP0001 0.5 10 10 0 0\n")
    (problem,) = lint_results(tmp_path, classes=CLASSES[:1], task=2)
    assert problem.rule == "degenerate-quad" and problem.where.endswith("Task2_plane.txt:2")
    assert "expected x1 < x2 and y1 < y2" in problem.message


def test_every_rule_is_tested() -> None:
    others = {"duplicate-class", "missing-class", "no-rows", "empty-file"}
    assert set(RULES) == set(BAD_ROWS) | set(BAD_FILES) | others


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder or a zip"):
        lint_task1(tmp_path / "absent.zip", classes=CLASSES)
    (tmp_path / "bad.zip").write_text("no zip")
    with pytest.raises(ValueError, match="expected a zip that can be read"):
        lint_task1(tmp_path / "bad.zip", classes=CLASSES)
