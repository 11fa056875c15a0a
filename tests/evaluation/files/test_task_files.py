"""Task1 files: what is written is read back; each kind of bad input is named with its line."""

from __future__ import annotations

import random
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tcm_d2.evaluation.files.task_files import (
    looks_like_patch_name,
    read_results,
    read_task1,
    write_results,
    write_submission,
    write_task1,
    write_task1_zip,
)
from tcm_d2.structures.detections import ClassDetections
from tests.evaluation.shapes import class_rows, random_rectangles, upright_quad

CLASSES = ("plane", "small-vehicle")
ROW = "P0001 0.5 0 0 10 0 10 10 0 10"


def write_text(folder: Path, class_name: str, text: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"Task1_{class_name}.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_written_rows_are_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(50).astype(np.float32).astype(np.float64)
    scores[0] = np.float32(1e-5)
    rows = ClassDetections([f"P{i:04d}" for i in range(50)], scores, random_rectangles(rng, 50))
    paths = write_task1(tmp_path / "Task1", {"plane": rows}, classes=CLASSES)
    assert [path.name for path in paths] == ["Task1_plane.txt", "Task1_small-vehicle.txt"]
    for source in (tmp_path / "Task1", write_task1_zip(tmp_path / "Task1.zip", paths)):
        again = read_task1(source)
        assert list(again) == list(CLASSES) and len(again["small-vehicle"].scores) == 0
        assert again["plane"].image_ids == rows.image_ids
        # Scores are float32 numbers and keep their order exactly.
        np.testing.assert_array_equal(again["plane"].scores.astype(np.float32), scores)
        np.testing.assert_allclose(again["plane"].quads, rows.quads, atol=0.00501)


def test_upright_boxes_are_written_and_read_as_bounds(tmp_path: Path) -> None:
    tilted = [[5.0, 0], [10, 5], [5, 10], [0, 5]]
    rows = {"plane": class_rows([("P1", 0.5, tilted)])}
    (path, _) = write_results(tmp_path, rows, classes=CLASSES, task=2)
    assert path.name == "Task2_plane.txt"
    assert path.read_text() == "P1 0.5 0.00 0.00 10.00 10.00\n"
    again = read_results(tmp_path, task=2)
    assert again["plane"].quads[0].tolist() == upright_quad(0, 0, 10, 10)
    path.write_text("P1 0.5 0 0 10\n")
    with pytest.raises(ValueError, match=r"Task2_plane.txt:1: expected 6 fields .*, got 5"):
        read_results(tmp_path, task=2)
    with pytest.raises(ValueError, match=r"expected files named Task1_<class>\.txt"):
        read_task1(tmp_path)


def test_numbers_only_python_knows_keep_their_place(tmp_path: Path) -> None:
    write_text(tmp_path, "plane", f"A 0.5 0 0 1_0 0 10 10 0 10\n{ROW}\nB 1_0 0 0 9 0 9 9 0 9\n")
    rows = read_task1(tmp_path)["plane"]
    assert rows.image_ids == ["A", "P0001", "B"] and rows.scores.tolist() == [0.5, 0.5, 10.0]
    assert rows.quads[0].tolist() == upright_quad(0, 0, 10, 10)


def test_zip_holds_plain_files_and_is_the_same_each_time(tmp_path: Path) -> None:
    rows = {"plane": class_rows([("P1", 0.5, upright_quad(0, 0, 1, 1))])}
    paths = write_task1(tmp_path / "a", rows, classes=CLASSES)
    first = write_task1_zip(tmp_path / "1.zip", paths).read_bytes()
    second = write_task1_zip(tmp_path / "2.zip", reversed(paths)).read_bytes()
    assert first == second
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.namelist() == ["Task1_plane.txt", "Task1_small-vehicle.txt"]
        assert archive.testzip() is None
        for path in paths:
            assert archive.read(path.name) == path.read_bytes()


def test_other_tools_unpack_the_zip(tmp_path: Path) -> None:
    rows = {"plane": class_rows([("P1", 0.5, upright_quad(0, 0, 1, 1))] * 1000)}
    path = write_submission(tmp_path, rows, classes=["plane", "\u00e4"])
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["Task1_plane.txt", "Task1_\u00e4.txt"]
        assert all(entry.external_attr >> 16 == 0o100644 for entry in archive.infolist())
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert path.stat().st_size < 2000
    shutil.unpack_archive(path, tmp_path / "unpacked")
    for file in (tmp_path / "Task1").iterdir():
        assert (tmp_path / "unpacked" / file.name).read_bytes() == file.read_bytes()


def test_rows_are_written_as_python_rounds(tmp_path: Path) -> None:
    rng = random.Random(1)
    values = [0.125, 0.375, -0.125, 2.5, 0.005, 1.005, -0.001, -0.0, 1e15, 3e300, 99999.995]
    scores = [0.0, 1.0, 0.1, 0.99999999995, 1e-4, 9.9999e-5, 1e-9, 12.5, -0.3, 1e30, 0.5]
    quads = [[rng.choice(values) for _ in range(8)] for _ in scores]
    rows = ClassDetections(["\u00e4"] * 11, np.array(scores), np.array(quads).reshape(-1, 4, 2))
    (path,) = write_task1(tmp_path, {"plane": rows}, classes=["plane"])
    expected = "".join(
        f"\u00e4 {score:.9g} {' '.join(f'{value:.2f}' for value in quad)}\n"
        for score, quad in zip(scores, quads)
    )
    assert path.read_bytes() == expected.encode()


def test_a_zip_holds_the_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"plane": class_rows([("P1", 0.5, upright_quad(0, 0, 1, 1))])}
    write_text(tmp_path / "Task1", "ship", ROW)
    (tmp_path / "Task1" / "notes.txt").write_text("mine")
    path = write_submission(tmp_path, rows, classes=CLASSES)
    assert path == tmp_path / "Task1.zip" and read_task1(path).keys() == set(CLASSES)
    kept = {"Task1_plane.txt", "Task1_small-vehicle.txt", "notes.txt"}
    assert {file.name for file in (tmp_path / "Task1").iterdir()} == kept
    before = path.read_bytes()
    bad = {"plane": rows["plane"]._replace(scores=np.array([np.inf]))}
    with pytest.raises(ValueError, match="expected finite numbers"):
        write_submission(tmp_path, bad, classes=CLASSES)
    assert path.read_bytes() == before  # refused before anything is touched

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tcm_d2.evaluation.files.task_files._pack_zip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_submission(tmp_path, {}, classes=CLASSES)
    assert not path.exists()


def test_writing_refuses_unknown_classes_and_non_finite_rows(tmp_path: Path) -> None:
    rows = class_rows([("P1", 0.5, upright_quad(0, 0, 1, 1))])
    with pytest.raises(ValueError, match=r"unknown classes \['ship'\]; known: plane"):
        write_task1(tmp_path, {"ship": rows}, classes=CLASSES)
    with pytest.raises(ValueError, match=r"class 'plane', row 0 \(image P1\)"):
        write_task1(tmp_path, {"plane": rows._replace(scores=np.array([np.nan]))}, classes=CLASSES)
    with pytest.raises(ValueError, match="class 'plane': image id: expected a name"):
        write_task1(tmp_path, {"plane": rows._replace(image_ids=[""])}, classes=CLASSES)


def test_windows_line_ends_whole_numbers_and_exponents_are_taken(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfP1 1e-05 0 0 10 0 10 10 0 10\r\n\r\n  P2\t1 0 0 1e1 0 10. 10 0 +10 \r\n"
    write_text(tmp_path, "plane", text)
    rows = read_task1(tmp_path)["plane"]
    assert rows.image_ids == ["P1", "P2"] and rows.scores.tolist() == [1e-5, 1.0]
    assert rows.quads[0].tolist() == rows.quads[1].tolist() == upright_quad(0, 0, 10, 10)


def test_empty_files_hold_no_rows(tmp_path: Path) -> None:
    write_text(tmp_path, "plane", "")
    write_text(tmp_path, "small-vehicle", "\n\n")
    for rows in read_task1(tmp_path).values():
        assert rows.image_ids == [] and rows.quads.shape == (0, 4, 2)


def test_zip_with_a_folder_and_macos_shadows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "upload.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("my results/Task1_plane.txt", ROW)
        archive.writestr("__MACOSX/my results/._Task1_plane.txt", b"\x00\xff")
        archive.writestr("__MACOSX/Task1_plane.txt", b"\x00\xff")
        archive.writestr("my results/readme.txt", "hello")
    assert list(read_task1(path)) == ["plane"]


@pytest.mark.parametrize(
    ("bad_row", "message"),
    [
        ("P1 0.5 0 0 10 0 10 10 0", r"expected 10 fields .*, got 9"),
        ("P1 0.5 0 0 10 0 10 10 0 10 0", r"expected 10 fields .*, got 11"),
        ("P1 high 0 0 10 0 10 10 0 10", "expected a number, got 'high'"),
        ("P1 nan 0 0 10 0 10 10 0 10", "expected a finite number, got 'nan'"),
        ("P1 0.5 0 0 inf 0 10 10 0 10", "expected a finite number, got 'inf'"),
    ],
)
def test_bad_rows_are_refused_with_file_and_line(
    tmp_path: Path, bad_row: str, message: str
) -> None:
    path = write_text(tmp_path, "plane", f"{ROW}\n\n{bad_row}\n{ROW}\n")
    with pytest.raises(ValueError, match=message) as caught:
        read_task1(tmp_path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_a_short_and_a_long_row_do_not_make_up_for_each_other(tmp_path: Path) -> None:
    write_text(tmp_path, "plane", "100 0.5 0 0 10 0 10 10 0\n10 101 0.5 0 0 10 0 10 10 0 10\n")
    with pytest.raises(ValueError, match=r"Task1_plane.txt:1: expected 10 fields"):
        read_task1(tmp_path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder or a zip"):
        read_task1(tmp_path / "absent")
    (tmp_path / "plane.txt").write_text(ROW)
    with pytest.raises(ValueError, match=r"expected files named Task1_<class>\.txt"):
        read_task1(tmp_path)
    truncated = tmp_path / "t.zip"
    path = write_text(tmp_path / "d", "plane", ROW * 100)
    truncated.write_bytes(write_task1_zip(tmp_path / "ok.zip", [path]).read_bytes()[:-30])
    with pytest.raises(ValueError, match="expected a zip that can be read"):
        read_task1(truncated)
    write_text(tmp_path / "binary", "plane", b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="expected UTF-8 text"):
        read_task1(tmp_path / "binary")
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("a/Task1_plane.txt", ROW)
        archive.writestr("b/Task1_plane.txt", ROW)
    with pytest.raises(ValueError, match="a second file for class 'plane'"):
        read_task1(twice)


def test_a_small_zip_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Task1_plane.txt", b"\n" * (1 << 25))
    with pytest.raises(ValueError, match=r"bomb.zip/Task1_plane.txt: .* unpack to 33554432"):
        read_task1(path)


def test_patch_names_are_recognised() -> None:
    assert looks_like_patch_name("P0706__1.0__0___0")
    assert looks_like_patch_name("P0001__1024__824___1648")
    assert not looks_like_patch_name("P0001") and not looks_like_patch_name("100000006")
