"""One description of own data: what it is understood as, and the patches that follow from it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.data.description import read_description
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.dota.manifest import read_manifest
from tcm_d2.data.preparation import PreparedData, PreparedSplit, prepare_data
from tests.data.own_data import draw, write_coco, write_dota, write_yolo


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, logger="tcm_d2.data")
    yield


def _images(split: PreparedSplit) -> set[str]:
    return {record.image_id for record in read_manifest(split.patch_dir / "manifest.jsonl")}


def _prepare(path: Path, folder: Path, **options: object) -> PreparedData:
    return prepare_data(read_description(path), folder, **options)  # type: ignore[arg-type]


def _objects(split: PreparedSplit) -> list[str]:
    files = sorted(split.label_dir.glob("*.txt"))
    return [o.class_name for path in files for o in read_label(path).objects]


def test_yolos_data_yaml(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_yolo(tmp_path / "set")
    found = _prepare(path, tmp_path / "cache")
    assert found.classes == ("small-vehicle", "ship") and found.patch_size_px == 64
    assert _images(found.splits["train"]) == {*(f"train_{i}" for i in range(6)), "nothing"}
    assert _images(found.splits["val"]) == {"val_0", "val_1"}
    assert sorted(_objects(found.splits["train"])) == ["ship"] * 3 + ["small-vehicle"] * 3
    assert "1 images without labels are taken as empty" in caplog.text
    assert "patches of 64 px (--patch-size): most images have sides up to 64 px" in caplog.text
    _prepare(path, tmp_path / "cache", patch_size_px=128)
    assert "75% of the patches is padding: smaller patches cost less" in caplog.text


def test_a_split_that_is_not_used_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_yolo(tmp_path / "set")
    path.write_text(path.read_text() + "test: images/test\n")
    read_description(path)
    assert "data.yaml: 'test' is not used; to evaluate on it, name it as 'val'" in caplog.text


def test_the_folder_of_a_data_yaml_is_that_data_set(tmp_path: Path) -> None:
    write_yolo(tmp_path / "set")
    assert read_description(tmp_path / "set").classes == ("small vehicle", "ship")


@pytest.mark.parametrize("form", ["list", "text file", "roboflow"])
def test_other_ways_to_name_yolos_images(tmp_path: Path, form: str) -> None:
    path = write_yolo(tmp_path / "set")
    if form == "list":
        path.write_text("train: [images/train, images/val]\nval: images/val\nnames: [a, b]")
    elif form == "text file":
        lines = ["./images/train/train_0.png", "images/val/val_1.png"]
        (tmp_path / "set/list.txt").write_text("\n".join(lines))
        path.write_text("train: list.txt\nval: images/val\nnames: [a, b]")
    else:
        (tmp_path / "set/train").mkdir()
        for name in ("images", "labels"):
            (tmp_path / "set" / name / "train").rename(tmp_path / "set/train" / name)
        path.write_text("train: ../train/images\nval: images/val\nnames: [a, b]")
    found = _prepare(path, tmp_path / "cache")
    number = {"list": 9, "text file": 2, "roboflow": 7}[form]
    assert len(_images(found.splits["train"])) == number


def test_a_coco_file_and_its_other_split(tmp_path: Path) -> None:
    found = _prepare(write_coco(tmp_path / "set"), tmp_path / "cache")
    assert set(found.classes) == {"ship", "small-vehicle"}
    assert _images(found.splits["train"]) == {f"train_{i}" for i in range(6)}
    assert _images(found.splits["val"]) == {f"val_{i}" for i in range(6)}


def test_a_folder_in_dotas_form(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_dota(tmp_path / "set")
    assert _prepare(root, tmp_path / "cache").classes == ("ship", "small_vehicle")
    assert "names no classes: those that occur are taken" in caplog.text
    description = read_description(root, classes=["small vehicle", "ship"])
    found = prepare_data(description, tmp_path / "other")
    assert found.classes == ("small-vehicle", "ship")
    assert set(_objects(found.splits["val"])) == {"ship", "small-vehicle"}


def test_without_a_second_split_some_images_are_held_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_dota(tmp_path / "set", splits=("train",), num=20)
    found = _prepare(root, tmp_path / "cache")
    train, val = _images(found.splits["train"]), _images(found.splits["val"])
    assert len(val) == 2 and len(train) == 18 and not train & val
    assert "has no split to evaluate on: 2 images are held out" in caplog.text


def test_a_subset_of_the_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_yolo(tmp_path / "set")
    found = _prepare(path, tmp_path / "cache", keep_classes=["small_vehicle"])
    assert found.classes == ("small-vehicle",)
    assert _objects(found.splits["train"]) == ["small-vehicle"] * 3
    assert "left out, of other classes: 3 ship" in caplog.text
    with pytest.raises(ValueError, match=r"--keep-classes: unknown class 'shipp'; near.*ship"):
        _prepare(path, tmp_path / "cache", keep_classes=["shipp"])


def test_what_is_there_is_used_again_and_what_changed_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_yolo(tmp_path / "set")
    first = _prepare(path, tmp_path / "cache")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.png")}
    assert _prepare(path, tmp_path / "cache") == first
    assert "are used again" in caplog.text
    label = tmp_path / "set/labels/train/train_0.txt"
    label.write_text("")
    os.utime(label, ns=(1, 1))
    _prepare(path, tmp_path / "cache")
    changed = {p.stem for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp}
    assert {name.partition("__")[0] for name in changed} == {"train_0"}
    (tmp_path / "set/images/train/train_1.png").unlink()
    (tmp_path / "set/labels/train/train_1.txt").unlink()
    found = _prepare(path, tmp_path / "cache")
    assert "train_1" not in _images(found.splits["train"])
    assert "1 images are gone: it is made again" in caplog.text


def test_sizes_follow_from_images_and_objects(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_yolo(tmp_path / "set", size_px=500)
    assert _prepare(path, tmp_path / "cache").patch_size_px == 512
    found = _prepare(path, tmp_path / "cache", patch_size_px=256)
    assert found.patch_size_px == 256
    assert "longer than a patch" not in caplog.text
    long = np.array([[10, 10], [490, 10], [490, 30], [10, 30]]) / 500
    row = "0 " + " ".join(f"{v:.6f}" for v in long.flatten())
    (tmp_path / "set/labels/train/train_0.txt").write_text(row)
    _prepare(path, tmp_path / "cache", patch_size_px=256)
    assert "1 of 6 objects are longer than a patch of 256 px, the longest 480 px" in caplog.text


def test_larger_images_are_cut_as_published(tmp_path: Path) -> None:
    for index in range(2):
        draw(tmp_path / f"set/images/P{index}.png", index)
        large = np.zeros((1300, 1500, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"set/images/P{index}.png"), large)
        label = tmp_path / f"set/labelTxt/P{index}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("10 10 50 10 50 30 10 30 ship 0\n")
    found = _prepare(tmp_path / "set", tmp_path / "cache")
    assert found.patch_size_px == 1024
    records = read_manifest(found.splits["train"].patch_dir / "manifest.jsonl")
    assert {r.x0 for r in records} == {0, 476}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "data.yaml").write_text("names: [a]"), "expected 'train'"),
        (
            lambda root: (root / "data.yaml").write_text("train: nowhere\nnames: [a]"),
            r"data\.yaml: train: '.*nowhere': no such file",
        ),
        (lambda root: (root / "labels/train").rename(root / "x"), "no labels of '.*train'"),
        (
            lambda root: (root / "labels/train/train_0.txt").write_text("7 0 0 1 0 1 1 0 1"),
            r"train_0\.txt:1: expected a class index of \[0, 2\), got '7'",
        ),
        (
            lambda root: [
                path.write_text("0 0.5 0.5 0.2 0.1\n") for path in root.glob("labels/train/*")
            ],
            r"train_0\.txt: .*YOLO's upright boxes, five numbers a line, have no angle",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, break_it: object, message: str) -> None:
    path = write_yolo(tmp_path / "set")
    break_it(tmp_path / "set")  # type: ignore[operator]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        _prepare(path, tmp_path / "cache")


def test_what_is_no_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder; expected YOLO's data"):
        read_description(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="got a folder with neither"):
        read_description(tmp_path)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ValueError, match=r"got a file \.csv"):
        read_description(tmp_path / "a.csv")
    root = write_dota(tmp_path / "set")
    (root / "train/labelTxt/train_0.txt").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 images have no labels .*train_0; an image with"):
        _prepare(root, tmp_path / "cache")
