"""The contract of annotation formats: all are found, documented, and one comes from outside."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.data.conversion import convert_annotations, read_annotations, read_class_names
from tcm_d2.data.formats import contract
from tcm_d2.data.formats.reading import ReadOptions
from tests.conftest import REPO_DIR
from tests.docs.blocks import read_blocks

PAGE = REPO_DIR / "docs" / "annotations.md"


def test_the_page_lists_all_formats_and_which_are_written() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| (yes)? ?\|$", PAGE.read_text(), re.MULTILINE)
    listed = {name: bool(written) for name, written in rows}
    assert listed == {name: item.is_written() for name, item in contract.all_formats().items()}


def test_one_file_adds_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented example, unchanged: registered from outside, found by its content."""
    monkeypatch.setattr(contract, "_formats", dict(contract.all_formats()))
    (example,) = (b for b in read_blocks(PAGE) if b.language == "python")
    exec(compile(example.text, str(PAGE), "exec"), {"__name__": "semicolons"})
    (tmp_path / "P1.csv").write_text("1;2;9;2;9;7;1;7;tennis court\n")
    convert_annotations(tmp_path, tmp_path / "out")
    text = (tmp_path / "out" / "P1.txt").read_text()
    assert text == "1.0 2.0 9.0 2.0 9.0 7.0 1.0 7.0 tennis-court 0\n"
    (tmp_path / "P1.csv").write_text("1;2;9;2;9;7;1;x;ship\n")
    with pytest.raises(
        ValueError, match=r"P1\.csv:1: expected a finite number in a corner, got 'x'"
    ):
        read_annotations(tmp_path, "semicolons", ReadOptions())
    with pytest.raises(ValueError, match="unknown format 'semicolon'; near matches: semicolons"):
        read_annotations(tmp_path, "semicolon", ReadOptions())


def test_formats_that_are_only_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'hrsc' is read, not written; formats that are written: "):
        convert_annotations(tmp_path, tmp_path / "out", target_format="hrsc")


WRITTEN = [name for name, item in contract.all_formats().items() if item.is_written()]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    """Rectangles in both directions of their corners, a general quad, flags."""
    rows = [
        "10 10 50 30 45 40 5 20 ship 0",
        "60 60 60 80 90 80 90 60 plane 1",
        "100.5 20.25 140 25 138 60 97 58 ship 0",
    ]
    (tmp_path / "labelTxt").mkdir()
    (tmp_path / "images").mkdir()
    for image_id in ("a", "my image.v2"):
        (tmp_path / "labelTxt" / f"{image_id}.txt").write_text("\n".join(rows) + "\n")
        picture = np.zeros((100, 150, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{image_id}.png"), picture)
    convert_annotations(
        tmp_path / "labelTxt", tmp_path / "there", target_format=name, image_dir=tmp_path / "images"
    )
    source = tmp_path / "there"
    classes = None
    if name == "yolo-obb":
        classes, source = read_class_names(source / "data.yaml"), source / "labels"
    reading_options = ReadOptions(strict=True, classes=classes)
    convert_annotations(
        source, tmp_path / "back", image_dir=tmp_path / "images", options=reading_options
    )
    keep_flags = name != "yolo-obb"
    for image_id in ("a", "my image.v2"):
        back = (tmp_path / "back" / f"{image_id}.txt").read_text().splitlines()
        for old, new in zip(rows, back, strict=True):
            old_words, new_words = old.split(), new.split()
            assert new_words[8] == old_words[8]
            assert new_words[9] == old_words[9] or not keep_flags
            ours, theirs = (
                np.array(words[:8], float).reshape(4, 2) for words in (old_words, new_words)
            )
            turns = [
                np.roll(corners, turn, axis=0)
                for corners in (theirs, theirs[::-1])
                for turn in range(4)
            ]
            assert min(np.abs(turn - ours).max() for turn in turns) < 2e-3
