from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import (
    DotaLabel,
    DotaObject,
    LabelError,
    LabelProblems,
    list_labels,
    read_label,
    write_label,
)
from tcm_d2.structures.quads import order_quads_around_center, quads_cross_themselves, signed_areas

GOOD = "1 2 11 2 11 8 1 8 ship 0"


def _write(path: Path, *lines: str) -> Path:
    path.write_bytes("\n".join(lines).encode())
    return path


def test_reads_head_lines_decimals_missing_flag_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "P0001.txt"
    path.write_bytes(
        b"\xef\xbb\xbfimagesource:GoogleEarth\r\ngsd:0.25\r\n"
        b"1.5 2 11 2 11 8.25 1 8 small-vehicle 1  \r\n\r\n"
        b"-3 0 5 0 5 4 -3 4 plane\r\n   \r\n"
    )
    label = read_label(path, classes=DOTA_V1_CLASSES)
    assert label.image_source == "GoogleEarth"
    assert label.gsd == 0.25
    assert label.objects == [
        DotaObject((1.5, 2, 11, 2, 11, 8.25, 1, 8), "small-vehicle", 1),
        DotaObject((-3, 0, 5, 0, 5, 4, -3, 4), "plane", 0),
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"imagesource:GF\r\ngsd:null\r\n"])
def test_files_without_objects_are_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    label = read_label(path)
    assert label.objects == []
    assert label.gsd is None


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("direction", [1, -1])
def test_corners_are_kept_in_the_order_given(tmp_path: Path, start: int, direction: int) -> None:
    corners = np.array([[1, 2], [11, 3], [10, 8], [0, 7]], dtype=float)
    corners = np.roll(corners[::direction], start, axis=0)
    numbers = " ".join(str(v) for v in corners.reshape(-1))
    label = read_label(_write(tmp_path / "a.txt", f"{numbers} ship 0"))
    assert label.objects[0].quad == tuple(corners.reshape(-1))


BAD_LINES = [
    ("1 2 11 2 11 8 1 8", r"expected 9 or 10 fields .*got 8"),
    (f"{GOOD} 7", r"expected 9 or 10 fields .*got 11"),
    ("1 2 11 2 11 8 1 x8 ship 0", r"expected 8 numbers .*got 'x8'"),
    ("1 2 11 2 11 8 1 nan ship 0", r"expected finite coordinates"),
    ("1 2 11 2 11 8 1 inf ship 0", r"expected finite coordinates"),
    ("1 2 11 2 11 8 1 8 shp 0", r"unknown class 'shp'; near matches: ship"),
    ("1 2 11 2 11 8 1 8 zeppelin 0", r"unknown class 'zeppelin'; known: plane"),
    ("1 2 11 2 11 8 1 8 ship easy", r"difficult flag .*got 'easy'"),
    ("1 2 11 2 11 2 1 2 ship 0", r"expected a quad with an area, got 1 2 11 2 11 2 1 2"),
    ("4 4 4 4 4 4 4 4 ship 0", r"expected a quad with an area"),
    ("1 2 11 8 11 2 1 8 ship 0", r"self-crossing 1 2 11 8 11 2 1 8"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_bad_lines_are_named_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = _write(tmp_path / "P0009.txt", "gsd:1", GOOD, line, GOOD)
    with pytest.raises(LabelError, match=rf"P0009\.txt:3: .*{message}"):
        read_label(path, classes=DOTA_V1_CLASSES)


def test_bad_lines_are_skipped_and_counted_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path / "a.txt", GOOD, *(line for line, _ in BAD_LINES), GOOD)
    problems = LabelProblems()
    label = read_label(path, classes=DOTA_V1_CLASSES, on_error="skip", problems=problems)
    assert len(label.objects) == 2
    assert sum(problems.counts.values()) == len(BAD_LINES)
    assert problems.counts["unknown class"] == 2
    assert problems.counts["self-crossing quad"] == 1
    assert "a.txt:2: expected 9 or 10 fields" in problems.summary()
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        read_label(path, classes=DOTA_V1_CLASSES, on_error="skip")
    assert f"{len(BAD_LINES)} bad lines" in caplog.text


def test_repair_orders_the_corners_of_a_self_crossing_quad(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", GOOD, "1 2 11 8 11 2 1 8 ship 1", "4 4 4 4 4 4 4 4 ship 0")
    problems = LabelProblems()
    label = read_label(path, on_error="repair", problems=problems)
    assert len(label.objects) == 2
    quad = np.array(label.objects[1].quad).reshape(1, 4, 2)
    assert abs(signed_areas(quad)[0]) == 60
    assert label.objects[1].difficult == 1
    assert problems.counts == {"self-crossing quad": 1, "quad without area": 1}


def test_crossing_is_found_in_exactly_the_bow_tie_orders() -> None:
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=float)
    orders = [(0, 1, 2, 3), (3, 2, 1, 0), (0, 2, 1, 3), (0, 1, 3, 2), (2, 0, 1, 3)]
    quads = np.stack([square[list(order)] for order in orders])
    assert quads_cross_themselves(quads).tolist() == [False, False, True, True, True]
    assert (np.abs(signed_areas(order_quads_around_center(quads))) == 16).all()


def test_a_picture_instead_of_a_label_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\x00")
    with pytest.raises(LabelError, match=r"a\.txt: expected a UTF-8 text file"):
        read_label(path)


def test_unknown_choice_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_error: expected one of"):
        read_label(tmp_path / "a.txt", on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        read_label(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match="label folder"):
        list_labels(tmp_path / "nothing")


def test_write_and_read_give_the_same_label(tmp_path: Path) -> None:
    label = DotaLabel(
        [
            DotaObject((0.125, 2, 11, 2, 11, 8, -0.00001, 8), "ship", 0),
            DotaObject((1e5, 0, 1e5 + 3, 0, 1e5 + 3, 2.5, 1e5, 2.5), "harbor", 2),
        ],
        "GoogleEarth",
        0.146343590398,
    )
    path = tmp_path / "out.txt"
    write_label(path, label)
    assert path.read_text().splitlines()[2] == "0.125 2.0 11.0 2.0 11.0 8.0 0.0 8.0 ship 0"
    back = read_label(path)
    assert (back.image_source, back.gsd) == (label.image_source, label.gsd)
    for ours, theirs in zip(back.objects, label.objects):
        assert ours.class_name == theirs.class_name
        assert ours.difficult == theirs.difficult
        np.testing.assert_allclose(ours.quad, theirs.quad, atol=5e-5)


def test_a_failing_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "a.txt", GOOD)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_label(path, DotaLabel())
    assert path.read_text() == GOOD
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.realdata
def test_all_real_labels_are_read(realdata_dir: Path) -> None:
    problems = LabelProblems()
    num_objects = 0
    files = sorted(realdata_dir.glob("dota/**/labelTxt/*.txt"))
    assert files
    for path in files:
        # Whole-image labels are clean; the crops of other tools hold boxes cut down to a line.
        is_crop = "crops" in path.parts or "halfscale_patches" in path.parts
        label = read_label(
            path,
            classes=DOTA_V1_CLASSES,
            on_error="skip" if is_crop else "raise",
            problems=problems,
        )
        num_objects += len(label.objects)
    assert problems.counts == {"quad without area": 4}
    assert num_objects > 2500
