"""Golden i: AP of the official devkit and of mmrotate, merged results of both; real detectors."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.files.task_files import read_results, read_task1, write_results
from tcm_d2.evaluation.merge import merge_patch_detections, merge_task1, parse_patch_name
from tcm_d2.evaluation.scoring.annotations import Annotations, read_annotations
from tcm_d2.evaluation.scoring.average_precision import GroundTruths, evaluate_class
from tcm_d2.evaluation.scoring.protocols import PROTOCOLS, Rules
from tcm_d2.evaluation.scoring.score import evaluate_results, evaluate_task1
from tcm_d2.structures.conversions import boxes_to_quads, le90_to_boxes
from tcm_d2.structures.detections import (
    BoxDetections,
    ClassDetections,
    PatchDetections,
    QuadDetections,
)
from tests.conftest import DATA_DIR

GOLDEN = DATA_DIR / "golden"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "i_dota_eval_expected.json").read_text())
# What the devkit cannot give: it stops on the one, and divides by zero on the other.
NO_DETECTIONS, NO_GROUND_TRUTH = "helicopter", "soccer-ball-field"
# The tools of the other projects write coordinates with 2 decimals.
ROUNDING_PX = 0.0052


@pytest.fixture(scope="module")
def task(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, ClassDetections], Annotations]:
    folder = tmp_path_factory.mktemp("dota_eval")
    with zipfile.ZipFile(GOLDEN / "i_dota_eval.zip") as archive:
        archive.extractall(folder)
    image_ids = (folder / "imageset.txt").read_text().split()
    annotations = read_annotations(
        folder / "labelTxt", image_ids=image_ids, classes=DOTA_V1_CLASSES
    )
    return read_task1(folder / "Task1"), annotations


@pytest.mark.parametrize("iou_threshold", [0.5, 0.75])
@pytest.mark.parametrize("metric", ["11point", "area"])
def test_ap_is_the_devkits(
    task: tuple[dict[str, ClassDetections], Annotations], metric: Any, iou_threshold: float
) -> None:
    expected = EXPECTED[f"devkit_07={metric == '11point'}_thr={iou_threshold}"]
    report = evaluate_task1(*task, iou_threshold=iou_threshold, metric=metric)
    for name in DOTA_V1_CLASSES:
        result = report.classes[name]
        if name == NO_DETECTIONS:
            assert "error" in expected["per_class"][name]
            assert result.ap == 0.0 and result.num_ground_truths > 0
            continue
        assert result.num_detections == expected["per_class"][name]["n"]
        if name == NO_GROUND_TRUTH:
            assert np.isnan(result.ap)
            continue
        assert result.ap == pytest.approx(expected["per_class"][name]["ap"], abs=1e-9)
        assert result.max_recall == pytest.approx(expected["per_class"][name]["rec_last"], abs=1e-9)
    assert report.mean_ap_devkit == pytest.approx(expected["mAP_errors_and_nan_as_0"], abs=1e-9)


def test_ap_with_tied_scores_lies_in_the_range_of_tie_orders(
    task: tuple[dict[str, ClassDetections], Annotations],
) -> None:
    """Which of the tied rows comes first depends on numpy and CPU: bound it by shuffling."""
    expected = EXPECTED["devkit_07=True_thr=0.5_scores_rounded_2_decimals"]["per_class"]
    rows, annotations = task
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(40):
        shuffled = {}
        for name, part in rows.items():
            order = rng.permutation(len(part.scores))
            shuffled[name] = ClassDetections(
                [part.image_ids[row] for row in order.tolist()],
                np.round(part.scores[order], 2),
                part.quads[order],
            )
        runs.append(evaluate_task1(shuffled, annotations, iou_threshold=0.5, tie_order="stable"))
    for name in DOTA_V1_CLASSES:
        if name in (NO_DETECTIONS, NO_GROUND_TRUTH):
            continue
        aps = np.array([report.classes[name].ap for report in runs])
        margin = 0.5 * (aps.max() - aps.min()) + 1e-9  # 40 orders do not show the extremes
        assert aps.min() - margin <= expected[name]["ap"] <= aps.max() + margin


@pytest.mark.parametrize("metric", ["11point", "area"])
@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("count", "mmrotate_difficult_as_normal_gt"),
        ("ignore", "mmrotate_difficult_as_ignore_fixed_only_ignored_image_quirk"),
    ],
)
def test_ap_is_mmrotates_on_the_same_boxes(rule: Any, key: str, metric: Any) -> None:
    expected = EXPECTED[f"{key}_07={metric == '11point'}"]
    arrays = np.load(GOLDEN / "i_dota_eval_rboxes.npz")
    quads = {
        side: boxes_to_quads(le90_to_boxes(torch.from_numpy(arrays[f"{side}_rbox"]).double()))
        for side in ("det", "gt")
    }
    for class_id, name in enumerate(DOTA_V1_CLASSES):
        det, gt = arrays["det_label"] == class_id, arrays["gt_label"] == class_id
        result = evaluate_class(
            QuadDetections(
                arrays["det_img"][det].astype(np.int64),
                quads["det"].numpy()[det],
                arrays["det_score"][det],
            ),
            GroundTruths(
                arrays["gt_img"][gt].astype(np.int64),
                quads["gt"].numpy()[gt],
                arrays["gt_difficult"][gt] > 0,
            ),
            iou_threshold=0.5,
            metric=metric,
            difficult=rule,
        )
        reference = expected["per_class"][name]
        assert result.num_ground_truths == reference["num_gts"]
        if name != NO_GROUND_TRUTH:
            # mmrotate sums in float32.
            assert result.ap == pytest.approx(reference["ap"], abs=1e-6)


def test_mmrotates_rules_as_a_protocol(
    task: tuple[dict[str, ClassDetections], Annotations],
) -> None:
    """On the boxes mmrotate had: the result files are rounded, which alone moves an AP by 0.003."""
    arrays = np.load(GOLDEN / "i_dota_eval_rboxes.npz")
    image_ids = task[1].image_ids
    quads = {
        side: boxes_to_quads(le90_to_boxes(torch.from_numpy(arrays[f"{side}_rbox"]).double()))
        for side in ("det", "gt")
    }
    rows, objects = {}, {}
    for class_id, name in enumerate(DOTA_V1_CLASSES):
        det, gt = arrays["det_label"] == class_id, arrays["gt_label"] == class_id
        rows[name] = ClassDetections(
            [image_ids[i] for i in arrays["det_img"][det].tolist()],
            arrays["det_score"][det],
            quads["det"].numpy()[det],
        )
        objects[name] = GroundTruths(
            arrays["gt_img"][gt].astype(np.int64),
            quads["gt"].numpy()[gt],
            arrays["gt_difficult"][gt] > 0,
        )
    annotations = dataclasses.replace(task[1], by_class=objects)
    report = evaluate_results(rows, annotations, iou_threshold=0.5, rules=PROTOCOLS["mmrotate"])
    reference = EXPECTED["mmrotate_difficult_as_normal_gt_07=True"]
    for name, result in report.classes.items():
        expected = reference["per_class"][name]
        assert result.num_ground_truths == expected["num_gts"]
        if name != NO_GROUND_TRUTH:
            assert result.ap == pytest.approx(expected["ap"], abs=1e-6)
    assert report.mean_ap == pytest.approx(reference["mAP"], abs=1e-6)
    rounded = evaluate_results(*task, iou_threshold=0.5, rules=PROTOCOLS["mmrotate"])
    assert rounded.mean_ap == pytest.approx(reference["mAP"], abs=0.002)


TASK2_EXPECTED: dict[str, dict[str, float | None]] = json.loads(
    (GOLDEN / "i_task2_devkit_expected.json").read_text()
)


@pytest.mark.parametrize("key", list(TASK2_EXPECTED))
def test_ap_of_upright_boxes_is_the_devkits(
    task: tuple[dict[str, ClassDetections], Annotations], tmp_path: Path, key: str
) -> None:
    """As dota_evaluation_task2.voc_eval of DOTA_devkit@99388551 on the upright bounds of golden i.

    The rows were written by ``write_results(task=2)``, the labels with four decimals; the devkit
    stops on the class without detections.
    """
    metric, threshold = key.split()
    rows, annotations = task
    write_results(tmp_path, rows, classes=DOTA_V1_CLASSES, task=2)
    rules: Any = Rules(task=2, metric=metric)  # type: ignore[arg-type]
    report = evaluate_results(
        read_results(tmp_path, task=2), annotations, iou_threshold=float(threshold), rules=rules
    )
    expected = TASK2_EXPECTED[key]
    assert set(expected) == set(DOTA_V1_CLASSES) - {NO_DETECTIONS}
    for name, ap in expected.items():
        if name == NO_GROUND_TRUTH:
            assert np.isnan(report.classes[name].ap) and not ap
        else:
            assert report.classes[name].ap == pytest.approx(ap, abs=1e-12)


def test_sweep_holds_the_ap_at_each_overlap(
    task: tuple[dict[str, ClassDetections], Annotations],
) -> None:
    report = evaluate_results(*task, iou_threshold=0.75, rules=Rules(), sweep=True)
    for threshold in (0.5, 0.75):
        expected = EXPECTED[f"devkit_07=True_thr={threshold}"]["per_class"]
        for name in set(DOTA_V1_CLASSES) - {NO_DETECTIONS, NO_GROUND_TRUTH}:
            ap = report.ap_by_iou[name][threshold]
            assert ap == pytest.approx(expected[name]["ap"], abs=1e-9)
    means = report.mean_ap_by_iou
    assert list(means) == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert means[0.75] == pytest.approx(report.mean_ap, abs=1e-12)
    assert report.mean_ap_coco == pytest.approx(sum(means.values()) / 10)
    for name, by_iou in report.ap_by_iou.items():
        aps = list(by_iou.values())
        assert name == NO_GROUND_TRUTH or aps == sorted(aps, reverse=True)
    single = evaluate_results(*task, iou_threshold=0.9, rules=Rules())
    assert single.mean_ap == pytest.approx(means[0.9], abs=1e-12)


@pytest.fixture(scope="module")
def merge_expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    with zipfile.ZipFile(GOLDEN / "i_merge_expected.zip") as archive:
        archive.extractall(folder)
    return folder


def largest_distance_px(quads: np.ndarray, others: np.ndarray) -> float:
    """Largest distance of a quad to its nearest on the other side, corners in any cyclic order."""
    turns = [np.roll(others[:, ::step], shift, axis=1) for shift in range(4) for step in (1, -1)]
    distance = np.min(
        [np.abs(quads[:, None] - turn[None]).max(axis=(2, 3)) for turn in turns], axis=0
    )
    return float(max(distance.min(axis=1).max(), distance.min(axis=0).max()))


def test_merged_boxes_are_mmrotates(merge_expected: Path) -> None:
    arrays = np.load(GOLDEN / "i_merge_inputs.npz")
    names = [parse_patch_name(name, style="size") for name in arrays["patch_ids"].tolist()]
    merged = merge_patch_detections(
        PatchDetections(
            arrays["patch_ids"].tolist(),
            [name.image_id for name in names],
            np.array([name.origin_xy for name in names]),
            np.array([name.scale for name in names]),
            arrays["det_patch"].astype(np.int64),
            BoxDetections(
                le90_to_boxes(torch.from_numpy(arrays["det_rbox"])).numpy(),
                arrays["det_score"],
                arrays["det_label"].astype(np.int64),
            ),
        ),
        iou_threshold=0.1,
    )
    quads = boxes_to_quads(torch.from_numpy(merged.found.boxes)).numpy()
    expected = read_task1(merge_expected / "mmrotate_merge_out_thr0.1")
    assert len(quads) == sum(len(rows.scores) for rows in expected.values()) > 0
    assert len(quads) < len(arrays["det_score"])  # some were suppressed
    for class_id, name in enumerate(DOTA_V1_CLASSES):
        for index, image_id in enumerate(merged.image_ids):
            mine = quads[(merged.found.class_ids == class_id) & (merged.image_index == index)]
            theirs = expected[name].quads[np.array(expected[name].image_ids) == image_id]
            assert len(mine) == len(theirs)
            if len(mine):
                assert largest_distance_px(mine, theirs) < ROUNDING_PX


@pytest.mark.parametrize("iou_threshold", [0.1, 0.3])
def test_merged_rows_are_the_devkits(merge_expected: Path, iou_threshold: float) -> None:
    rows = read_task1(merge_expected / "devkit_in")
    expected = read_task1(merge_expected / f"devkit_out_thr{iou_threshold}")
    merged = merge_task1(rows, iou_threshold=iou_threshold)

    def as_set(part: ClassDetections) -> set[tuple[Any, ...]]:
        quads = part.quads.reshape(-1, 8).round(4)
        return {(i, s, *q) for i, s, q in zip(part.image_ids, part.scores, quads.tolist())}

    num_before, num_after = (sum(len(p.scores) for p in side.values()) for side in (rows, expected))
    assert 0 < num_after < num_before
    for name, part in expected.items():
        assert len(merged[name].scores) == len(part.scores)
        assert as_set(merged[name]) == as_set(part)


REAL_SETS = {
    "dotadevkit_merged/public": "dotadevkit/merged_dets",
    "DOTA_devkit_YOLO/public": "DOTA_devkit_YOLO/Task1",
    "bbavectors_val_18/public": "bbavectors_val/Task1",
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", list(REAL_SETS))
def test_ap_of_real_detectors_is_the_devkits(realdata_dir: Path, tmp_path: Path, name: str) -> None:
    reference = json.loads((realdata_dir / "results" / "reference_ap.json").read_text())[name]
    for folder in ("dotadevkit", "DOTA_devkit_YOLO", "label_only"):
        for path in (realdata_dir / "dota" / folder / "labelTxt").glob("*.txt"):
            shutil.copyfile(path, tmp_path / path.name)
    annotations = read_annotations(tmp_path, image_ids=reference["images"], classes=DOTA_V1_CLASSES)
    rows = read_task1(realdata_dir / "results" / REAL_SETS[name])
    ties = reference["tie_order_sensitivity_iou0.5_voc07_8_shuffles"]
    moving = ties["classes_that_move"]
    for key in ("iou0.5_voc07", "iou0.5_area", "iou0.75_voc07", "iou0.75_area"):
        report = evaluate_task1(
            rows,
            annotations,
            iou_threshold=float(key[3:].split("_")[0]),
            metric="11point" if key.endswith("voc07") else "area",
            unknown_images="drop",
        )
        for class_name, expected in reference[key]["classes"].items():
            result = report.classes[class_name]
            assert result.num_ground_truths == expected["npos"]
            assert result.num_detections == expected["ndet"]
            if expected["ap"] is None:
                assert np.isnan(result.ap)
            elif class_name not in moving:
                assert result.ap == pytest.approx(expected["ap"], abs=1e-6)
            elif key == "iou0.5_voc07":
                low, high = moving[class_name]
                assert low - 1e-6 <= result.ap <= high + 1e-6
            else:
                # The range is of 8 shuffles of another metric: a class may leave it by its width.
                low, high = moving[class_name]
                assert result.ap == pytest.approx(expected["ap"], abs=2 * (high - low) + 1e-6)
        if key == "iou0.5_voc07":
            low, high = ties["mean_range"]
            assert low - 1e-6 <= report.mean_ap <= high + 1e-6
