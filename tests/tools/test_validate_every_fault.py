"""tools/validate_dataset.py finds one of each fault on made data sets; the page lists them all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tcm_d2.cli.main import run_command
from tests.conftest import REPO_DIR
from tests.data.foreign_files import coco

SCRIPT = REPO_DIR / "tools" / "validate_dataset.py"
GOOD = "10 10 50 20 45 40 5 30 ship 0"
# The label file of an image, and what has to be found in it.
LABELS = {
    "short": ("1 2 3 ship", "wrong number of fields"),
    "word": ("1 2 11 2 11 8 1 x ship 0", "not a number"),
    "nan": ("nan 2 11 2 11 8 1 8 ship 0", "not a finite number"),
    "class": ("1 2 11 2 11 8 1 8 shp 0", "unknown class"),
    "flag": ("1 2 11 2 11 8 1 8 ship False", "bad difficult flag"),
    "cross": ("1 2 11 8 11 2 1 8 ship 0", "self-crossing quad"),
    "flat": ("1 2 11 2 21 2 31 2 ship 0", "quad without area"),
    "twice": (f"{GOOD}\n{GOOD}", "duplicate object"),
    "two": (f"{GOOD}\n{GOOD.replace('ship', 'plane')}", "one object, two classes"),
    "far": ("500 500 550 500 550 520 500 520 ship 0", "object outside the image"),
    "edge": ("80 10 190 10 190 20 80 20 ship 0", "object mostly outside"),
    "tiny": ("1 2 11 2 11 3 1 3 ship 0", "tiny object"),
    "bent": ("10 10 60 10 20 20 10 60 ship 0", "quad that is not convex"),
    "yolo": ("0 0.1 0.1 0.5 0.1 0.5 0.2 0.1 0.2", "label file of another format"),
}


def _picture(path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), picture)


def _kinds(out: Path, *words: object) -> set[str]:
    arguments = [*map(str, words), "--output", str(out), "--num-pictures", "0", "--quiet"]
    assert run_command("validate", [*arguments, "--workers", "1"]) == 1
    findings = json.loads((out / "report.json").read_text())["findings"]
    return {finding["kind"] for finding in findings}


def make_dota_set(root: Path) -> set[str]:
    """Write a data set with one of each fault; return the kinds of the faults."""
    images, labels = root / "images", root / "labelTxt"
    images.mkdir(parents=True)
    labels.mkdir()
    kinds = set()
    for name, (text, kind) in LABELS.items():
        _picture(images / f"{name}.png")
        (labels / f"{name}.txt").write_text(text + "\n")
        kinds.add(kind)
    for name in ("bytes", "my image", "cut", "turned", "lonely"):
        _picture(images / f"{name}.png")
        (labels / f"{name}.TXT").write_text(GOOD + "\n")
    (labels / "bytes.TXT").write_bytes(b"\x80\x81\xff")
    (labels / "lonely.TXT").rename(labels / "other.txt")
    content = (images / "cut.png").read_bytes()
    (images / "cut.png").write_bytes(content[: len(content) // 2])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(images / "turned.png").save(images / "turned.png", exif=exif)
    (images / "x.gif").write_bytes(b"GIF89a")
    (labels / "x.json").write_text("{}")
    return kinds | {
        "not a text file", "names with blanks", "unreadable image", "EXIF orientation",
        "image without label", "label without image", "file that is not read",
        "class without objects",
    }  # fmt: skip


def make_coco_set(folder: Path) -> set[str]:
    """Write COCO annotations with one of each fault; return the kinds of the faults."""
    (folder / "images").mkdir(parents=True)
    _picture(folder / "images" / "a.png")
    square = [10, 10, 30, 10, 30, 20, 10, 20]
    annotations = [
        *[{"bbox": [2 * n, 3 * n, 9 + n, 7], "segmentation": []} for n in range(20)],
        {"segmentation": [[float("nan"), *square[1:]]]},
        {"segmentation": [square], "image_id": 7},
        {"segmentation": [square], "category_id": 7},
        {"segmentation": [[50, 50, 70, 50, 70, 60, 60, 65, 50, 60]], "iscrowd": "maybe"},
        {"segmentation": square},
        {"segmentation": [[50, 50, 70, 50, 70, 60, 60, 65, 50, 60]]},
        {"id": 99},
    ]
    picture = {"id": 1, "file_name": "images\\a.png", "width": 100, "height": 100}
    (folder / "a.json").write_text(coco(annotations, images=[picture]))
    return {
        "upright boxes", "fitted boxes", "not a number", "image_id unknown", "category_id unknown",
        "bad difficult flag", "segmentation without inner list", "no outline",
        "Windows separators", "no turned object",
    }  # fmt: skip


def test_one_of_each_fault_in_a_data_set_is_found(tmp_path: Path) -> None:
    wanted = make_dota_set(tmp_path / "set")
    names = ("--classes", "ship", "plane", "car")
    found = _kinds(tmp_path / "out", "--root", tmp_path / "set", *names)
    assert found == wanted


def test_one_of_each_fault_in_annotations_of_another_format_is_found(tmp_path: Path) -> None:
    wanted = make_coco_set(tmp_path / "set")
    where = ("--images", tmp_path / "set" / "images", "--annotations", tmp_path / "set" / "a.json")
    assert _kinds(tmp_path / "out", *where) >= wanted


def test_the_page_lists_what_is_found(tmp_path: Path) -> None:
    text = (REPO_DIR / "docs" / "annotations.md").read_text(encoding="utf-8")
    table = text.partition("## What the check finds")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| ([A-Za-z_, -]+?) +\|", table, re.MULTILINE)) - {"finding"}
    assert listed == make_dota_set(tmp_path / "one") | make_coco_set(tmp_path / "two")
