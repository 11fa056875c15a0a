"""Image ids with blanks and of any script go through result files and come back the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcm_d2.evaluation.files.escapes import (
    decode_file_part,
    decode_image_id,
    describe_escaped_ids,
    encode_file_part,
    encode_image_id,
    match_image_id,
    read_image_list,
)
from tcm_d2.evaluation.files.task_files import read_task1, write_submission, write_task1
from tcm_d2.structures.detections import ClassDetections
from tests.evaluation.shapes import upright_quad

# What file names of POSIX can hold, bytes that are not UTF-8 included.
FILE_NAMES = st.binary(min_size=1, max_size=12).map(
    lambda raw: raw.replace(b"/", b"_").replace(b"\0", b" ").decode("utf-8", "surrogateescape")
)
NAMES = FILE_NAMES | st.text("%2 0aF\u3000\u6e2f\x85", min_size=1, max_size=12)


@given(NAMES)
def test_ids_become_one_word_and_come_back(name: str) -> None:
    word = encode_image_id(name)
    assert word.split() == [word] and word.splitlines() == [word]
    word.encode("utf-8")
    assert decode_image_id(word) == name


@pytest.mark.parametrize(
    "name", ["P0001", "P0001__1024__0___0", "\u6e2f\u53e3.v2", "100%", "a%zz", "caf\u00e9-(1)"]
)
def test_ordinary_ids_stand_as_they_are(name: str) -> None:
    assert encode_image_id(name) == name == decode_image_id(name)
    assert describe_escaped_ids([name]) == ""


def test_names_of_other_tools_that_look_like_escapes() -> None:
    assert decode_image_id("a%41") == "a%41"
    assert encode_image_id("my scene%20") == "my%20scene%2520"
    # Downloaded as it is spelled in the address, and listed so by another tool.
    assert match_image_id(decode_image_id("my%20scene"), {"my%20scene"}) == "my%20scene"
    assert match_image_id(decode_image_id("my%20scene"), {"my scene"}) == "my scene"


def test_result_files_hold_images_with_blanks_in_their_names(tmp_path: Path) -> None:
    names = ["my image (1)", "\u6e2f\u53e3 1.v2", "tab\tand\u3000more", "P1"]
    quads = np.array([upright_quad(0, 0, 9, 9)] * 4, dtype=np.float64).reshape(4, 4, 2)
    write_task1(tmp_path, {"ship": ClassDetections(names, np.ones(4), quads)}, classes=["ship"])
    text = (tmp_path / "Task1_ship.txt").read_text(encoding="utf-8")
    assert text.startswith("my%20image%20(1) 1 0.00") and {
        len(r.split()) for r in text.splitlines()
    } == {10}
    assert read_task1(tmp_path)["ship"].image_ids == names
    said = describe_escaped_ids(names)
    assert said.startswith("3 image names hold") and "'my image (1)' as my%20image%20(1)" in said


def test_image_lists_have_one_id_a_line(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\ufeffmy scene\r\n\nP1 \n", encoding="utf-8")
    assert read_image_list(tmp_path / "list.txt") == ["my scene", "P1"]
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"none\.txt: expected image ids, one per line"):
        read_image_list(tmp_path / "none.txt")


@given(st.text("%2Ff/\\ .\n\x85\udcff\u6e2f", min_size=1, max_size=12))
def test_class_names_become_parts_of_file_names_and_come_back(name: str) -> None:
    part = encode_file_part(name)
    assert not set("/\\\n\x85\udcff") & set(part) and decode_file_part(part) == name


def test_a_class_called_car_or_van_has_its_own_file(tmp_path: Path) -> None:
    rows = ClassDetections(["P1"], np.array([0.5]), np.array([upright_quad(0, 0, 9, 9)]))
    classes = ["car/van", "..\\..", "large vehicle", "100%"]
    path = write_submission(tmp_path, {"car/van": rows}, classes=classes)
    names = {file.name for file in (tmp_path / "Task1").iterdir()}
    assert names == {
        "Task1_car%2Fvan.txt",
        "Task1_..%5C...txt",
        "Task1_large vehicle.txt",
        "Task1_100%.txt",
    }
    for source in (tmp_path / "Task1", path):
        again = read_task1(source)
        assert set(again) == set(classes) and again["car/van"].image_ids == ["P1"]


def test_class_names_too_long_for_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"result file of class 'aaa.*at most 255 bytes"):
        write_task1(tmp_path, {}, classes=["a" * 300])
    assert not list(tmp_path.iterdir())
