"""Detect, correct in the labelling tool, train again: docs/annotations.md, command by command."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tcm_d2.cli.main import run_command
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.public_sets import register_dota_style
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import train
from tests.engine.small_detector import small_config
from tests.inference.small_run import noise_image, write_run

NAME = "corrected"


def correct_in_cvat(path: Path) -> None:
    """Keep three boxes an image, turn one and add one, as a person would, and save."""
    root = ElementTree.parse(path)
    for image in root.iterfind("image"):
        for shape in list(image)[3:]:
            image.remove(shape)
        next(iter(image)).set("rotation", "30.0")
        ElementTree.SubElement(
            image, "box", label="ship", xtl="10", ytl="20", xbr="40", ybr="30", rotation="90"
        )
    root.write(path, encoding="utf-8")


def test_detect_correct_train_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "corrected" / "images"
    images.mkdir(parents=True)
    for index in range(2):
        cv2.imwrite(str(images / f"{index}.png"), noise_image(64, 64, seed=index))
    run = write_run(tmp_path / "run")
    found = tmp_path / "found"
    words = ["--weights", str(run), "--images", str(images), "--output", str(found)]
    words += ["--score-threshold", "0.004", "--device", "cpu", "--quiet"]
    assert run_command("predict", [*words, "--to", "cvat", "x-anylabeling"]) == 0
    annotations = found / "cvat" / "annotations.xml"
    labels = [read_label(found / "labelTxt" / f"{index}.txt").objects for index in range(2)]
    assert min(map(len, labels)) > 3
    shapes = json.loads((found / "x-anylabeling" / "0.json").read_text())["shapes"]
    assert len(shapes) == len(labels[0]) and shapes[0]["shape_type"] == "rotation"
    assert shapes[0]["score"] > 0.004
    # The same file out of coco.json, in two commands.
    words = ["--annotations", str(found / "coco.json"), "--images", str(images)]
    assert (
        run_command(
            "convert-annotations", [*words, "--to", "cvat", "--output", str(tmp_path / "two")]
        )
        == 0
    )
    same = [
        [shape.attrib["xtl"] for shape in ElementTree.parse(path).iter("box")]
        for path in (annotations, tmp_path / "two" / "annotations.xml")
    ]
    assert same[0] == pytest.approx(same[1])
    correct_in_cvat(annotations)
    words = ["--annotations", str(annotations), "--images", str(images), "--strict"]
    assert (
        run_command(
            "convert-annotations", [*words, "--output", str(tmp_path / "corrected" / "labelTxt")]
        )
        == 0
    )
    assert "2 images, 8 objects" in capsys.readouterr().out
    objects = read_label(tmp_path / "corrected" / "labelTxt" / "0.txt").objects
    assert objects[3].quad == (30, 10, 30, 40, 20, 40, 20, 10)
    words = ["--root", str(tmp_path / "corrected"), "--classes", "plane", "ship", "--quiet"]
    assert run_command("validate", [*words, "--workers", "1"]) == 0
    register_dota_style(NAME, tmp_path / "corrected", ["plane", "ship"])
    try:
        cfg = small_config(
            tmp_path,
            *("DATASETS.TRAIN", f"('{NAME}',)", "SOLVER.MAX_ITER", "2"),
            *("OUTPUT_DIR", str(tmp_path / "again")),
        )
        train(build_experiment(cfg, for_training=True), resume=False)
    finally:
        for name in [name for name in DatasetCatalog.list() if name.startswith(NAME)]:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert (tmp_path / "again" / "model_final.pth").is_file()
