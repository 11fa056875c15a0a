"""One small data set per fault; the report names it and the exit status follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.cli.main import run_command

GOOD = [
    "5 5 25 5 25 15 5 15 ship 0",
    "40 20 60 30 55 40 35 30 plane 1",
    "50 50 70 50 70 58 50 58 plane",
]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Write image "a" (64 x 80) with these label lines, run the tool, return status and text."""

    def run(lines: Sequence[str], *options: str, classes: Sequence[str] = ("ship", "plane")):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labelTxt").mkdir(exist_ok=True)
        if not (tmp_path / "images" / "a.png").exists():
            picture = np.full((64, 80, 3), 90, dtype=np.uint8)
            assert cv2.imwrite(str(tmp_path / "images" / "a.png"), picture)
        (tmp_path / "labelTxt" / "a.txt").write_text("".join(f"{line}\n" for line in lines))
        arguments = ["--root", str(tmp_path), "--quiet", "--workers", "1", *options]
        arguments += ["--classes", *classes] if classes else []
        status = run_command("validate", arguments)
        streams = capsys.readouterr()
        return status, streams.out + streams.err

    return run


def test_a_good_data_set_passes(check: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, text = check(GOOD, "--strict", "--output", str(tmp_path / "out"))
    assert status == 0
    assert "1 images, 0 of them without objects; 3 objects, 1 of them difficult" in text
    assert "nothing found that is wrong" in text
    assert "pre-flight passed: the labels as predictions give mean AP50 1.0000 over 2" in text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["num_errors"], report["num_warnings"]) == (0, 0)
    assert report["statistics"]["objects per class"] == {"ship": 1, "plane": 2}
    assert report["statistics"]["long side px"]["ship"]["median"] == 20
    assert report["preflight"]["ap50"] == {"ship": pytest.approx(1), "plane": pytest.approx(1)}
    picture = cv2.imread(str(tmp_path / "out" / "pictures" / "a.png"))
    assert picture.shape == (64, 80, 3) and (picture != 90).any()
    assert (tmp_path / "out" / "report.txt").read_text().strip() in text
    assert check(GOOD, classes=())[0] == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["5 5 25 5 25 15 5 15 shp 0"], r"unknown class 'shp'; near matches: ship"),
        (["5 5 25 5 25 15 5 ship"], "x wrong number of fields"),
        (["5 5 25 5 25 15 5 x ship 0"], "x not a number"),
        (["5 5 25 5 25 5 5 5 ship 0"], "x quad without area"),
        (["5 5 25 15 25 5 5 15 ship 0"], "x self-crossing quad"),
        (["5 5 25 5 25 15 5 15 ship -1"], "x bad difficult flag"),
        (
            ["95 5 99 5 99 15 95 15 ship 0"],
            "ship at (97, 10): 0% of it lies in the image of 80 x 64",
        ),
        (["25 15 5 15 5 5 25 5 ship 0"], "ship at (15, 10) is also there as ship at (15, 10)"),
    ],
)
def test_errors_in_labels(
    check: Callable[..., tuple[int, str]], lines: list[str], message: str
) -> None:
    status, text = check([*GOOD, *lines])
    assert status == 1
    assert message in text and "error: 1 x " in text and "a.txt" in text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["70 30 99 30 99 40 70 40 ship 0"], "34% of it lies in the image"),
        (["5 5 25 5 25 15 5 15 plane 0"], "1 x one object, two classes"),
        (["70 5 75 5 75 6 70 6 ship 0"], "ship at (72, 6): 5.0 x 1.0 px, too small to be found"),
        (["5 30 25 30 10 35 5 50 ship 0"], "a corner points inwards"),
    ],
)
def test_warnings_fail_only_a_strict_check(
    check: Callable[..., tuple[int, str]], lines: list[str], message: str
) -> None:
    status, text = check([*GOOD, *lines])
    assert status == 0 and "warning: 1 x " in text and message in text
    assert check([*GOOD, *lines], "--strict")[0] == 1


def test_classes_without_objects(check: Callable[..., tuple[int, str]]) -> None:
    status, text = check(GOOD, classes=["ship", "plane", "harbor"])
    assert status == 0 and "1 x class without objects" in text and "harbor" in text


def test_files_without_partner_and_unreadable_images(
    check: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    check(GOOD)
    whole = (tmp_path / "images" / "a.png").read_bytes()
    (tmp_path / "images" / "b.png").write_bytes(whole)
    (tmp_path / "images" / "c.png").write_bytes(whole[:60])
    (tmp_path / "labelTxt" / "c.txt").write_text("")
    (tmp_path / "labelTxt" / "d.txt").write_text("")
    status, text = check(GOOD)
    assert status == 1
    for kind in ("image without label", "label without image", "unreadable image"):
        assert f"error: 1 x {kind}" in text
    assert "c.png: expected a complete image file" in text
    assert "unreadable image" not in check(GOOD, "--no-decode")[1]


def test_preflight_says_which_object_spoils_the_score(
    check: Callable[..., tuple[int, str]],
) -> None:
    status, text = check([*GOOD, GOOD[0]])
    assert status == 1
    assert "pre-flight FAILED: the labels as predictions give mean AP50" in text
    assert "image a: ship at (15, 10) has the place of another object: written twice?" in text
    status, text = check(["5 5 25 5 25 15 5 15 ship 1"])
    assert status == 1 and "no class has objects that count" in text


def test_missing_folders_end_with_status_2(check: Callable[..., tuple[int, str]]) -> None:
    status, text = check(GOOD, "--root", "/nowhere/at/all")
    assert status == 2 and "error: image folder" in text
