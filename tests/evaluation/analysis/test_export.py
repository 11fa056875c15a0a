"""The whole analysis of an evaluation: one structure, and its files."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcm_d2.evaluation.analysis import plots
from tcm_d2.evaluation.analysis.export import (
    MAX_CURVE_POINTS,
    export_evaluation,
    thin_curve,
    to_dict,
)
from tcm_d2.evaluation.analysis.result import (
    OUTCOMES,
    VERSION,
    EvaluationResult,
    analyze_evaluation,
)
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.evaluation.scoring.protocols import Rules, prepare_evaluation
from tcm_d2.evaluation.scoring.score import evaluate_task1
from tests.evaluation.shapes import class_rows, upright_quad, write_labels

CLASSES = ("plane", "ship", "harbor")
BOX, FAR = upright_quad(0, 0, 20, 10), upright_quad(50, 0, 200, 20)
ROWS = {
    "plane": class_rows(
        [
            ("P1", 0.9, BOX),
            ("P1", 0.8, BOX),
            ("P2", 0.7, FAR),
            ("P2", 0.6, upright_quad(1, 0, 20, 10)),
        ]
    ),
    "ship": class_rows([("P1", 0.5, FAR), ("P2", 0.4, BOX)]),
}


@pytest.fixture
def result(tmp_path: Path) -> EvaluationResult:
    folder = write_labels(
        tmp_path / "labelTxt",
        {"P1": [(BOX, "plane", 0), (FAR, "ship", 1)], "P2": [(BOX, "plane", 0)], "P3": []},
    )
    truth = read_annotations(folder, image_ids=["P1", "P2", "P3"], classes=CLASSES)
    prepared = prepare_evaluation(ROWS, truth, rules=Rules(metric="area"))
    found = analyze_evaluation(prepared, iou_threshold=0.5, rules=Rules(metric="area"))
    plain = evaluate_task1(ROWS, truth, iou_threshold=0.5, metric="area")
    for name in CLASSES:
        np.testing.assert_equal(found.table.classes[name].ap, plain.classes[name].ap)
    return found


def test_outcomes_and_measures_of_a_class(result: EvaluationResult) -> None:
    plane = result.classes["plane"]
    assert [OUTCOMES[code] for code in plane.outcome] == ["true", "duplicate", "false", "true"]
    assert plane.best_gt.tolist() == [0, 0, -1, 1] and plane.num_true == 2
    assert plane.best_iou[3] == pytest.approx(190 / 210)
    assert plane.mean_iou == pytest.approx((1 + 190 / 210) / 2)
    assert plane.median_angle_error_deg == pytest.approx(0.0)
    assert plane.best_f1 == pytest.approx(2 * 0.5 * 1 / 1.5) and plane.best_f1_score == 0.9
    assert [b.num_ground_truths for b in plane.by_size] == [2, 0, 0, 0]
    assert [b.num_ground_truths for b in plane.by_aspect] == [0, 2, 0, 0]
    ship = result.classes["ship"]
    assert [OUTCOMES[code] for code in ship.outcome] == ["ignored", "false"]
    assert math.isnan(ship.best_f1) and math.isnan(ship.mean_iou)
    assert len(result.classes["harbor"].outcome) == 0


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def test_files_hold_the_numbers(result: EvaluationResult, tmp_path: Path) -> None:
    paths = export_evaluation(tmp_path / "out", result, pictures=False)
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "out").iterdir()}
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content == to_dict(result) and next(iter(content)) == "version"
    plane = content["classes"]["plane"]
    assert plane["ap"] == pytest.approx(0.75) and plane["num_true"] == 2
    assert plane["ap_by_iou"]["0.95"] == pytest.approx(0.5)
    assert plane["curve"]["scores"] == [0.9, 0.8, 0.7, 0.6]
    assert plane["by_size"][-1]["high"] is None
    assert plane["by_size"][2] == {
        "low": 32.0,
        "high": 96.0,
        "ap": None,
        "num_ground_truths": 0,
        "num_found": 0,
        "num_detections": 1,
    }
    assert content["classes"]["ship"]["ap"] is None and "harbor" in content["notes"]
    classes = read_csv(tmp_path / "out" / "classes.csv")
    assert classes[1][:2] == ["plane", "0.75"] and classes[-1][:2] == ["mean", "0.75"]
    assert len({len(row) for row in classes}) == 1
    confusion = read_csv(tmp_path / "out" / "confusion_matrix.csv")
    assert confusion[0][1:] == [*CLASSES, "missed"] and confusion[1][1:] == ["2", "0", "0", "0"]
    assert read_csv(tmp_path / "out" / "curves.csv")[1] == ["plane", "0.9", "0.5", "1"]
    bins = read_csv(tmp_path / "out" / "bins.csv")
    assert ["plane", "angle_deg", "0", "2", "0.75", "", "", ""] in bins


def test_matches_by_image_point_at_each_other(result: EvaluationResult, tmp_path: Path) -> None:
    export_evaluation(tmp_path, result, pictures=False)
    content = json.loads((tmp_path / "matches.json").read_text())
    assert content["version"] == VERSION and list(content["images"]) == ["P1", "P2", "P3"]
    assert content["images"]["P3"] == {"detections": [], "objects": []}
    one = content["images"]["P1"]
    columns, object_columns = content["detection_columns"], content["object_columns"]
    rows = [dict(zip(columns, row)) for row in one["detections"]]
    things = [dict(zip(object_columns, row)) for row in one["objects"]]
    assert [content["classes"][thing["class"]] for thing in things] == ["plane", "ship"]
    assert [thing["difficult"] for thing in things] == [0, 1]
    assert [content["outcomes"][row["outcome"]] for row in rows] == ["true", "duplicate", "ignored"]
    assert [row["object"] for row in rows] == [0, 0, 1]
    assert [thing["found_by"] for thing in things] == [0, -1]
    assert rows[0]["quad"] == [0, 0, 20, 0, 20, 10, 0, 10] and rows[0]["score"] == 0.9
    second = content["images"]["P2"]
    assert [row[columns.index("object")] for row in second["detections"]] == [-1, 0, -1]


def test_pictures_are_png_of_a_readable_size(result: EvaluationResult) -> None:
    pictures = dict(plots.draw_pictures(result))
    assert len(pictures) == 4
    for content in pictures.values():
        assert content.startswith(b"\x89PNG")
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        assert 400 < width < 2500 and 200 < height < 2500


def test_without_matplotlib_the_rest_is_written(
    result: EvaluationResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    paths = export_evaluation(tmp_path, result, matches=False)
    assert not any(path.suffix == ".png" for path in paths)
    assert "pip install matplotlib" in caplog.text
    assert {"evaluation.json", "classes.csv"} <= {path.name for path in paths}
    assert not (tmp_path / "matches.json").exists()


def test_long_curves_are_thinned_and_keep_their_ends(result: EvaluationResult) -> None:
    one: Any = result.table.classes["plane"]
    num = 5000
    long = type(one)(0.5, np.linspace(0, 1, num), np.ones(num), np.linspace(1, 0, num), 10, 0, num)
    points = thin_curve(long)
    assert len(points) == MAX_CURVE_POINTS and points[0] == 0 and points[-1] == num - 1
    assert thin_curve(one).tolist() == [0, 1, 2, 3]


def test_a_class_without_detections_has_a_curve_and_spoils_no_picture(
    result: EvaluationResult, tmp_path: Path
) -> None:
    truth = read_annotations(
        write_labels(tmp_path / "more", {"P1": [(BOX, "plane", 0), (FAR, "harbor", 0)]}),
        image_ids=["P1"],
        classes=CLASSES,
    )
    prepared = prepare_evaluation({"plane": class_rows([("P1", 0.9, BOX)])}, truth, rules=Rules())
    found = analyze_evaluation(prepared, iou_threshold=0.5, rules=Rules())
    assert found.table.classes["harbor"].ap == 0
    names = {path.name for path in export_evaluation(tmp_path / "analysis", found)}
    assert "precision_recall.png" in names and len(names) == 10


def test_numbers_come_before_pictures_and_one_bad_picture_costs_only_itself(
    result: EvaluationResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        assert (tmp_path / "matches.json").is_file()
        raise RuntimeError("no font")

    monkeypatch.setattr(plots, "_draw_classes", fail)
    names = {path.name for path in export_evaluation(tmp_path, result)}
    assert "confusion_matrix.png" in names and "ap_by_class.png" not in names
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith("ap_by_class.png could not be drawn: ") and "\n" not in line


def test_pictures_of_hundreds_of_classes_stay_small(tmp_path: Path) -> None:
    classes = [f"class-{index}" for index in range(300)]
    truth = read_annotations(
        write_labels(tmp_path / "labels", {"P1": [(BOX, name, 0) for name in classes]}),
        image_ids=["P1"],
        classes=classes,
    )
    rows = {name: class_rows([("P1", 0.9, BOX)]) for name in classes}
    prepared = prepare_evaluation(rows, truth, rules=Rules())
    found = analyze_evaluation(prepared, iou_threshold=0.5, rules=Rules())
    (content,) = (c for name, c in plots.draw_pictures(found) if name == "confusion_matrix.png")
    with Image.open(io.BytesIO(content)) as picture:
        assert max(picture.size) < 4000
