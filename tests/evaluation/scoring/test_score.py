"""Scoring a data set: which images and classes count, what is reported, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.evaluation.scoring.score import evaluate_task1
from tests.evaluation.shapes import class_rows, upright_quad, write_labels

CLASSES = ("plane", "ship", "harbor")
BOX = upright_quad(0, 0, 10, 10)
FAR = upright_quad(50, 0, 10, 10)


@pytest.fixture
def label_dir(tmp_path: Path) -> Path:
    return write_labels(
        tmp_path / "labelTxt",
        {
            "P1": [(BOX, "plane", 0), (FAR, "ship", 1), (FAR, "container-crane", 0)],
            "P2": [(BOX, "plane", 0), (FAR, "ship", 2)],
            "P3": [],
        },
    )


def test_annotations_are_grouped_by_class(label_dir: Path) -> None:
    found = read_annotations(label_dir, image_ids=["P3", "P1", "P2"], classes=CLASSES)
    assert found.by_class["plane"].image_index.tolist() == [1, 2]
    assert found.by_class["ship"].difficult.tolist() == [True, True]
    assert found.by_class["harbor"].quads.shape == (0, 4, 2)
    assert found.other_classes == {"container-crane": 1}


def test_images_without_predictions_count(label_dir: Path) -> None:
    truth = read_annotations(label_dir, image_ids=["P1", "P2", "P3"], classes=CLASSES)
    rows = {name: class_rows([]) for name in CLASSES}
    rows["plane"] = class_rows([("P1", 0.9, BOX)])
    report = evaluate_task1(rows, truth, iou_threshold=0.5, metric="area")
    assert report.classes["plane"].ap == 0.5
    assert math.isnan(report.classes["ship"].ap)
    assert report.mean_ap == 0.5 and report.mean_ap_devkit == pytest.approx(0.5 / 3)
    assert report.num_images == 3


def test_ground_truth_as_predictions_gives_one(label_dir: Path) -> None:
    truth = read_annotations(label_dir, image_ids=["P1", "P2", "P3"], classes=CLASSES)
    rows = {
        "plane": class_rows([("P1", 1.0, BOX), ("P2", 1.0, BOX)]),
        "ship": class_rows([("P1", 1.0, FAR), ("P2", 1.0, FAR)]),
        "harbor": class_rows([]),
    }
    assert evaluate_task1(rows, truth, iou_threshold=0.5).mean_ap == pytest.approx(1.0)


def test_report_as_json_and_table(label_dir: Path, tmp_path: Path) -> None:
    truth = read_annotations(label_dir, image_ids=["P1", "P2", "P3"], classes=CLASSES)
    rows = {"plane": class_rows([("P1", 0.9, BOX)]), "ship": class_rows([("P1", 0.9, FAR)])}
    report = evaluate_task1(rows, truth, iou_threshold=0.75)
    report.write_json(tmp_path / "ap.json")
    content = json.loads((tmp_path / "ap.json").read_text())
    assert content["mean_ap"] == pytest.approx(6 / 11)
    assert content["classes"]["plane"] == {
        "ap": pytest.approx(6 / 11),
        "num_ground_truths": 2,
        "num_difficult": 0,
        "num_detections": 1,
        "max_recall": 0.5,
    }
    assert content["classes"]["ship"]["ap"] is None
    assert (content["iou_threshold"], content["metric"]) == (0.75, "11point")
    table = report.as_table()
    assert "plane" in table and "54.55" in table and "IoU > 0.75" in table


def test_missing_result_file_is_a_warning_and_ap_zero(label_dir: Path) -> None:
    truth = read_annotations(label_dir, image_ids=["P1", "P2", "P3"], classes=CLASSES)
    report = evaluate_task1({"helipad": class_rows([])}, truth, iou_threshold=0.5)
    assert report.classes["plane"].ap == 0.0
    text = "\n".join(report.warnings)
    assert "no result file for 2 classes with objects" in text and "plane, ship" in text
    assert "results of 1 classes not evaluated: helipad" in text
    assert "1 labelled objects of classes not evaluated: container-crane" in text


def test_unknown_images_are_refused_or_dropped(label_dir: Path) -> None:
    truth = read_annotations(label_dir, image_ids=["P1"], classes=CLASSES)
    rows = {"plane": class_rows([("P1", 0.9, BOX), ("P2", 0.8, BOX), ("P9", 0.7, BOX)])}
    with pytest.raises(ValueError, match="2 detections of 2 unknown images: P2, P9; correct"):
        evaluate_task1(rows, truth, iou_threshold=0.5)
    report = evaluate_task1(rows, truth, iou_threshold=0.5, unknown_images="drop")
    assert report.classes["plane"].num_detections == 1
    assert any("dropped 2 detections" in text for text in report.warnings)


def test_patch_names_in_results_get_the_right_advice(label_dir: Path) -> None:
    truth = read_annotations(label_dir, image_ids=["P1"], classes=CLASSES)
    rows = {"plane": class_rows([("P1__1024__0___0", 0.9, BOX)])}
    with pytest.raises(ValueError, match="names of patches: merge"):
        evaluate_task1(rows, truth, iou_threshold=0.5)


def test_missing_and_repeated_images_are_refused(label_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no label file for 1 of 2 images: P7; an image"):
        read_annotations(label_dir, image_ids=["P1", "P7"], classes=CLASSES)
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        read_annotations(tmp_path / "absent", image_ids=[], classes=CLASSES)
    with pytest.raises(ValueError, match="got twice: P1"):
        read_annotations(label_dir, image_ids=["P1", "P1"], classes=CLASSES)


def test_bad_label_lines_are_refused_or_skipped_and_counted(label_dir: Path) -> None:
    with (label_dir / "P3.txt").open("a") as stream:
        stream.write("0 0 10 0 10 10 0 plane\n")
    with pytest.raises(ValueError, match=r"P3\.txt:3: expected 9 or 10 fields"):
        read_annotations(label_dir, image_ids=["P3"], classes=CLASSES)
    truth = read_annotations(label_dir, image_ids=["P3"], classes=CLASSES, on_bad_label="skip")
    report = evaluate_task1({}, truth, iou_threshold=0.5)
    assert any("bad label lines: 1 x wrong number of fields" in text for text in report.warnings)


def test_labels_without_area_or_crossing_themselves_count_as_in_the_devkit(label_dir: Path) -> None:
    (label_dir / "P3.txt").write_text(
        "0 0 10 0 10 0 0 0 ship 0\n0 0 10 15 10 0 0 10 harbor 0\n5 5 9 5 9 9 5 9 ship 0\n"
    )
    truth = read_annotations(label_dir, image_ids=["P3"], classes=CLASSES)
    assert truth.num_odd_quads == 2
    rows = {"ship": class_rows([("P3", 0.9, upright_quad(5, 5, 4, 4))]), "harbor": class_rows([])}
    report = evaluate_task1(rows, truth, iou_threshold=0.5, metric="area")
    assert report.classes["ship"].ap == 0.5 and report.classes["harbor"].num_ground_truths == 1
    assert any("2 labelled objects have no area or cross" in text for text in report.warnings)
    skipped = read_annotations(label_dir, image_ids=["P3"], classes=CLASSES, on_bad_label="skip")
    assert len(skipped.by_class["ship"].quads) == 1 and skipped.num_odd_quads == 0
