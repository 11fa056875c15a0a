"""The Detectron2 evaluator on tiny registered data sets, in one and in two processes."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances, RotatedBoxes
from detectron2.utils import comm

from tcm_d2.engine.launch import launch
from tcm_d2.evaluation.dota_evaluator import DotaEvaluator
from tcm_d2.evaluation.files.task_files import read_task1
from tcm_d2.evaluation.merge import load_patch_detections
from tests.evaluation.shapes import upright_quad, write_labels

CLASSES = ["plane", "small-vehicle", "ship"]
OPTIONS: dict[str, Any] = {"nms_iou_threshold": 0.1, "iou_threshold": 0.5, "metric": "area"}

# Patch id -> (source image, origin, scale).
PATCHES = {
    "P1__0": ("P1", (0.0, 0.0), 1.0),
    "P1__1": ("P1", (80.0, 0.0), 1.0),
    "P2__0": ("P2", (0.0, 0.0), 0.5),
}


def dataset_dict(patch_id: str) -> dict[str, Any]:
    image_id, origin_xy, scale = PATCHES[patch_id]
    return {
        "file_name": f"{patch_id}.png",
        "image_id": patch_id,
        "source_image_id": image_id,
        "patch_origin_xy": origin_xy,
        "patch_scale": scale,
        "height": 100,
        "width": 100,
    }


def prediction(*rows: tuple[list[float], float, int]) -> dict[str, Any]:
    instances = Instances((100, 100))
    boxes = torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 5)
    instances.pred_boxes = RotatedBoxes(boxes)
    instances.scores = torch.tensor([score for _, score, _ in rows], dtype=torch.float32)
    instances.pred_classes = torch.tensor([label for _, _, label in rows], dtype=torch.int64)
    return {"instances": instances}


# P1 holds a plane in the overlap of its patches and a small vehicle; P2, at half scale, a plane.
PREDICTIONS = {
    "P1__0": prediction(([90, 20, 20, 10, 0], 0.7, 0), ([30, 30, 8, 4, 90], 0.9, 1)),
    "P1__1": prediction(([10, 20, 20, 10, 0], 0.8, 0)),
    "P2__0": prediction(),
}


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Any]:
    """Register the patches above, with or without labels; removes them afterwards."""
    names: list[str] = []

    def add(name: str, *, labelled: bool, patch_ids: list[str] | None = None) -> str:
        label_dir = write_labels(
            tmp_path / "labelTxt",
            {
                "P1": [
                    (upright_quad(80, 15, 20, 10), "plane", 0),
                    (upright_quad(28, 26, 4, 8), "small-vehicle", 0),
                ],
                "P2": [(upright_quad(40, 40, 30, 30), "plane", 0)],
            },
        )
        ids = list(PATCHES) if patch_ids is None else patch_ids
        DatasetCatalog.register(name, lambda: [dataset_dict(patch_id) for patch_id in ids])
        MetadataCatalog.get(name).set(
            thing_classes=CLASSES, label_dir=str(label_dir) if labelled else None
        )
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(evaluator: DotaEvaluator, patch_ids: list[str]) -> dict[str, Any]:
    evaluator.reset()
    for patch_id in patch_ids:
        evaluator.process([dataset_dict(patch_id)], [PREDICTIONS[patch_id]])
    return evaluator.evaluate()


def test_predictions_are_merged_scored_and_written(register: Any, tmp_path: Path) -> None:
    evaluator = DotaEvaluator(register("eval_labelled", labelled=True), tmp_path / "out", **OPTIONS)
    results = run(evaluator, list(PATCHES))
    metrics = results["dota"]
    assert list(metrics) == ["AP50", "AP50-plane", "AP50-small-vehicle", "AP50-ship"]
    # One of two planes, found once after merging; P2 was predicted empty and still counts.
    assert metrics["AP50-plane"] == pytest.approx(50.0)
    assert metrics["AP50-small-vehicle"] == pytest.approx(100.0)
    assert math.isnan(metrics["AP50-ship"]) and metrics["AP50"] == pytest.approx(75.0)
    assert all(type(value) is float for value in metrics.values())

    out = tmp_path / "out"
    content = json.loads((out / "ap.json").read_text())
    assert content["mean_ap"] == pytest.approx(0.75)
    assert content["classes"]["plane"]["num_detections"] == 1
    for source in (out / "Task1", out / "Task1.zip"):
        rows = read_task1(source)
        assert set(rows) == set(CLASSES)
        assert rows["plane"].image_ids == ["P1"]
        assert rows["plane"].scores.tolist() == pytest.approx([0.8])
    analysis = json.loads((out / "analysis" / "evaluation.json").read_text())
    assert analysis["classes"]["plane"]["ap"] == content["classes"]["plane"]["ap"]
    assert analysis["classes"]["plane"]["num_true"] == 1
    assert len(json.loads((out / "analysis" / "matches.json").read_text())["images"]) == 2
    kept = load_patch_detections(out / "patch_detections.npz")
    assert kept.patch_ids == list(PATCHES) and len(kept.found) == 3


def test_blanks_in_names_are_said_at_the_start_and_cost_nothing(
    register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = run(
        DotaEvaluator(register("eval_plain", labelled=True), tmp_path / "plain", **OPTIONS),
        list(PATCHES),
    )
    for patch_id, (_, origin_xy, scale) in list(PATCHES.items()):
        image_id = {"P1": "my scene", "P2": "\u6e2f\u53e3 2%20"}[patch_id[:2]]
        monkeypatch.setitem(PATCHES, patch_id, (image_id, origin_xy, scale))
        label = tmp_path / "labelTxt" / f"{patch_id[:2]}.txt"
        if label.exists():
            label.rename(label.with_name(f"{image_id}.txt"))
    with caplog.at_level(logging.WARNING):
        evaluator = DotaEvaluator("eval_plain", tmp_path / "out", **OPTIONS)
    assert "2 image names hold white space" in caplog.text and "my%20scene" in caplog.text
    assert run(evaluator, list(PATCHES))["dota"] == pytest.approx(plain["dota"], nan_ok=True)
    rows = read_task1(tmp_path / "out" / "Task1")
    assert rows["plane"].image_ids == ["my scene"]
    assert (tmp_path / "out" / "Task1.zip").is_file() and (tmp_path / "out" / "ap.json").is_file()


def test_scale_of_a_patch_is_undone(register: Any, tmp_path: Path) -> None:
    evaluator = DotaEvaluator(register("eval_scale", labelled=True), tmp_path / "out", **OPTIONS)
    evaluator.process([dataset_dict("P2__0")], [prediction(([27.5, 27.5, 15, 15, 0], 0.5, 0))])
    assert evaluator.evaluate()["dota"]["AP50-plane"] == pytest.approx(50.0)


def test_key_names_the_threshold(register: Any, tmp_path: Path) -> None:
    options = {**OPTIONS, "iou_threshold": 0.75}
    evaluator = DotaEvaluator(register("eval_75", labelled=True), tmp_path / "out", **options)
    assert list(run(evaluator, list(PATCHES))["dota"])[:2] == ["AP75", "AP75-plane"]


def test_reset_forgets(register: Any, tmp_path: Path) -> None:
    evaluator = DotaEvaluator(register("eval_reset", labelled=True), tmp_path / "out", **OPTIONS)
    run(evaluator, list(PATCHES))
    evaluator.reset()
    assert evaluator.evaluate()["dota"]["AP50"] == 0.0


def test_without_labels_only_the_submission_is_written(register: Any, tmp_path: Path) -> None:
    evaluator = DotaEvaluator(register("eval_test", labelled=False), tmp_path / "out", **OPTIONS)
    assert run(evaluator, list(PATCHES)) == {}
    assert (tmp_path / "out" / "Task1.zip").is_file()
    assert not (tmp_path / "out" / "ap.json").exists()


def test_unseen_patches_and_non_finite_boxes_are_warned_about(
    register: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator = DotaEvaluator(register("eval_warn", labelled=True), tmp_path / "out", **OPTIONS)
    bad = prediction(([float("nan"), 20, 20, 10, 0], 0.7, 0), ([90, 20, 20, 10, 0], 0.6, 0))
    evaluator.process([dataset_dict("P1__0")], [bad])
    with caplog.at_level(logging.WARNING):
        metrics = evaluator.evaluate()["dota"]
    assert metrics["AP50-plane"] == pytest.approx(50.0)
    assert "left out 1 detections with NaN" in caplog.text
    assert "2 of 3 patches of eval_warn were not predicted" in caplog.text


def test_predictions_survive_a_failure(
    register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator = DotaEvaluator(register("eval_crash", labelled=True), tmp_path / "out", **OPTIONS)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr("tcm_d2.evaluation.dota_evaluator.merge_patch_detections", fail)
    with pytest.raises(RuntimeError, match="no space left"):
        run(evaluator, list(PATCHES))
    assert "the predictions are kept in" in caplog.text
    assert len(load_patch_detections(tmp_path / "out" / "patch_detections.npz").found) == 3


def test_analysis_is_optional_and_its_failure_keeps_the_ap(
    register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = register("eval_analysis", labelled=True)
    run(DotaEvaluator(name, tmp_path / "none", **OPTIONS, analysis="none"), list(PATCHES))
    assert not (tmp_path / "none" / "analysis").exists()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no font")

    monkeypatch.setattr("tcm_d2.evaluation.dota_evaluator.export_evaluation", fail)
    evaluator = DotaEvaluator(name, tmp_path / "out", **OPTIONS, analysis="pictures")
    assert run(evaluator, list(PATCHES))["dota"]["AP50-plane"] == pytest.approx(50.0)
    assert "could not be written" in caplog.text and "no font" in caplog.text
    assert (tmp_path / "out" / "ap.json").is_file()
    with pytest.raises(ValueError, match=r"analysis: expected one of .* got 'all'"):
        DotaEvaluator(name, tmp_path / "out", **{**OPTIONS, "analysis": "all"})


def test_wrong_inputs_are_refused(register: Any, tmp_path: Path) -> None:
    evaluator = DotaEvaluator(register("eval_bad", labelled=True), tmp_path / "out", **OPTIONS)
    entry = dataset_dict("P1__0")
    del entry["patch_origin_xy"]
    with pytest.raises(ValueError, match=r"missing keys \['patch_origin_xy'\] for 'P1__0.png'"):
        evaluator.process([entry], [prediction()])
    with pytest.raises(ValueError, match=r"pred_classes: expected 0..2 .* got 3..3"):
        evaluator.process([dataset_dict("P1__0")], [prediction(([9, 9, 4, 2, 0], 0.5, 3))])


def test_missing_labels_show_before_the_work(register: Any, tmp_path: Path) -> None:
    name = register("eval_missing", labelled=True)
    (tmp_path / "labelTxt" / "P2.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no label file for 1 of 2 images: P2"):
        DotaEvaluator(name, tmp_path / "out", **OPTIONS)
    empty = register("eval_empty", labelled=True, patch_ids=[])
    with pytest.raises(ValueError, match="'eval_empty': expected images, got none"):
        DotaEvaluator(empty, tmp_path / "out", **OPTIONS)


def evaluate_in_process(label_dir: str, output_dir: str) -> None:
    """Score in one of two processes; the first holds one patch, the second the other two."""
    rank = comm.get_rank()
    DatasetCatalog.register("eval_two", lambda: [dataset_dict(patch_id) for patch_id in PATCHES])
    MetadataCatalog.get("eval_two").set(thing_classes=CLASSES, label_dir=label_dir)
    evaluator = DotaEvaluator("eval_two", output_dir, **OPTIONS)
    results = run(evaluator, list(PATCHES)[2:] if rank == 0 else list(PATCHES)[:2])
    assert (results == {}) == (rank == 1)


def test_two_processes_give_the_result_of_one(register: Any, tmp_path: Path) -> None:
    alone = DotaEvaluator(register("eval_alone", labelled=True), tmp_path / "one", **OPTIONS)
    run(alone, list(PATCHES))
    args = (str(tmp_path / "labelTxt"), str(tmp_path / "two"))
    launch(evaluate_in_process, 2, args=args, use_cuda=False)
    for name in ("ap.json", "Task1.zip"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_labels_in_the_dicts_of_whole_images_are_scored(tmp_path: Path) -> None:
    name = "t_labels_in_dicts"
    corners = upright_quad(80, 15, 20, 10)
    item = {**dataset_dict("P1__0"), "image_id": "P1", "source_image_id": "P1"}
    item["annotations"] = [
        {"quad": corners, "category_id": 0, "difficult": 0},
        {"quad": [[x, y + 50] for x, y in corners], "category_id": 0, "difficult": 1},
    ]
    DatasetCatalog.register(name, lambda: [item])
    MetadataCatalog.get(name).set(thing_classes=CLASSES, labels_in_dicts=True)
    try:
        evaluator = DotaEvaluator(name, tmp_path, **OPTIONS)
        evaluator.process([item], [prediction(([90, 20, 20, 10, 0], 0.7, 0))])
        assert evaluator.evaluate()["dota"]["AP50-plane"] == pytest.approx(100)
        item["source_image_id"] = "P0"
        with pytest.raises(ValueError, match="expected whole images, got a patch of image 'P0'"):
            DotaEvaluator(name, tmp_path, **OPTIONS)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_labels_of_the_patches_are_scored_when_there_are_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was scored."""
    name = "t_labels_of_patches"
    items = [dataset_dict("P1__0"), dataset_dict("P1__1")]
    for item, x in zip(items, (80, 10)):
        corners = upright_quad(x, 15, 20, 10)
        item["annotations"] = [{"quad": corners, "category_id": 0, "difficult": 0}]
    DatasetCatalog.register(name, lambda: items)
    MetadataCatalog.get(name).set(thing_classes=CLASSES, label_dir=None, labels_in_dicts=False)
    try:
        evaluator = DotaEvaluator(name, tmp_path, **OPTIONS)
        evaluator.process(
            items,
            [prediction(([90, 20, 20, 10, 0], 0.7, 0)), prediction(([20, 20, 20, 10, 0], 0.6, 0))],
        )
        assert evaluator.evaluate()["dota"]["AP50-plane"] == pytest.approx(100)
        assert "each patch is scored with its own labels" in caplog.text
        # The submission is of whole images all the same.
        assert "P1 " in (tmp_path / "Task1/Task1_plane.txt").read_text()
        for item in items:
            del item["annotations"]
        assert not DotaEvaluator(name, tmp_path, **OPTIONS).evaluate()
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
