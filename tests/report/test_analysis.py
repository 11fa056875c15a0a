"""Outcomes, counts, confusion and strata of a scene that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tcm_d2.evaluation.files.task_files import read_task1
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.evaluation.scoring.score import evaluate_task1
from tcm_d2.report.analysis import (
    CONFUSION_STEP,
    FALSE,
    HIT,
    IGNORED,
    THRESHOLDS,
    Analysis,
    analyze,
    count_outcomes,
    rank_images,
)
from tcm_d2.structures.detections import ClassDetections
from tests.report.scene import IMAGE_IDS, NAMES, analyze_scene, write_scene


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyze_scene(write_scene(tmp_path_factory.mktemp("scene")))


def test_outcome_of_every_detection(analysis: Analysis) -> None:
    table = analysis.detections
    found = {
        (NAMES[c], round(float(s), 2)): int(o)
        for c, s, o in zip(table.class_index, table.scores, table.outcome)
    }
    assert found == {
        ("plane", 0.9): HIT,
        ("plane", 0.8): FALSE,
        ("plane", 0.7): HIT,
        ("plane", 0.6): IGNORED,
        ("plane", 0.35): HIT,
        ("plane", 0.2): FALSE,
        ("plane", 0.5): FALSE,
        ("ship", 0.55): HIT,
        ("ship", 0.45): FALSE,
    }


def test_objects_are_found_at_the_score_of_what_took_them(analysis: Analysis) -> None:
    np.testing.assert_allclose(analysis.objects.found_score, [0.9, 0.35, 0.7, np.nan, 0.55, np.nan])


def test_counts_at_thresholds(analysis: Analysis) -> None:
    hits, false = count_outcomes(analysis)

    def at(score: float) -> int:
        return int(np.flatnonzero(np.isclose(THRESHOLDS, score))[0])

    assert hits[:, at(0.0)].tolist() == [3, 1, 0] and false[:, at(0.0)].tolist() == [3, 1, 0]
    # A score equal to the threshold counts.
    assert hits[0, at(0.35)] == 3 and hits[0, at(0.36)] == 2
    assert false[0, at(0.8)] == 1 and false[0, at(0.81)] == 0


def test_counts_at_zero_are_the_metric_s(analysis: Analysis) -> None:
    hits, _ = count_outcomes(analysis)
    for row, result in enumerate(analysis.results):
        if result.num_ground_truths:
            assert hits[row, 0] == round(result.max_recall * result.num_ground_truths)


def test_confusion(analysis: Analysis) -> None:
    low = analysis.confusion[round(0.3 * 100) // CONFUSION_STEP - 1]
    # The plane on P3 lies on a ship; the one at 0.8 is a second one, the ship at 0.45 on nothing.
    assert low.tolist() == [[3, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    high = analysis.confusion[round(0.85 * 100) // CONFUSION_STEP - 1]
    assert high.tolist() == [[1, 0, 0, 2], [0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert (analysis.confusion >= 0).all()
    assert (analysis.confusion[:, :3].sum(2) == [3, 2, 0]).all()


def test_strata_split_objects_by_size_and_shape(analysis: Analysis) -> None:
    size = analysis.by_size
    assert size.bins == ["0 - 16 px", "16 - 32 px", "32 - 96 px", ">= 96 px"]
    assert size.num_objects[0].tolist() == [0, 2, 1, 0]
    assert size.ap[0, 2] == pytest.approx(1.0)
    assert np.isnan(size.ap[2]).all()
    assert analysis.by_aspect.num_objects.tolist()[0] == [3, 0, 0, 0]


def test_worst_pictures_come_first(analysis: Analysis) -> None:
    # Errors at 0.3: two on P3 and a missed ship, one on P1, none on P2.
    assert [IMAGE_IDS[i] for i in rank_images(analysis, score_threshold=0.3)] == ["P3", "P1", "P2"]


def test_ap_is_the_evaluation_s(tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    annotations = read_annotations(folder / "labelTxt", image_ids=IMAGE_IDS, classes=NAMES)
    detections = read_task1(folder / "results" / "Task1")
    report = evaluate_task1(detections, annotations, iou_threshold=0.5)
    analysis = analyze(detections, annotations, iou_threshold=0.5, metric="11point")
    assert analysis.mean_ap == report.mean_ap
    assert [r.ap for r in analysis.results[:2]] == [r.ap for r in report.classes.values()][:2]
    # All hits are exact but the one that is one pixel off.
    assert analysis.ap_75[0] == analysis.results[0].ap
    assert analysis.angle_error_deg[0] == pytest.approx(0.0)


def test_unknown_images_are_named(tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    annotations = read_annotations(folder / "labelTxt", image_ids=["P1"], classes=NAMES)
    rows = ClassDetections(["P9"], np.array([0.5]), np.zeros((1, 4, 2)))
    with pytest.raises(ValueError, match="1 detections of 1 unknown images: P9"):
        analyze({"ship": rows}, annotations, iou_threshold=0.5, metric="11point")


def test_nothing_found_and_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "E.txt").touch()
    annotations = read_annotations(tmp_path, image_ids=["E"], classes=NAMES)
    analysis = analyze({}, annotations, iou_threshold=0.5, metric="area")
    assert np.isnan(analysis.mean_ap)
    assert not analysis.confusion.any()
    assert not count_outcomes(analysis)[0].any()
