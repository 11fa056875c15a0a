"""--eval-only with TEST.TTA: the evaluator gets the merged detections of all views."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.modeling import build_model

from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.loop import evaluate, evaluate_only
from tests.engine.small_detector import DATASET_NAME, make_patches, small_config


def test_evaluation_alone_looks_at_the_views(tmp_path: Path) -> None:
    patches = make_patches(tmp_path / "data")
    cfg = small_config(
        tmp_path,
        *("DATASETS.PATCH_DIRS", f"['{DATASET_NAME}_tta={patches}={tmp_path}/data/labelTxt']"),
        *("DATASETS.TEST", f"['{DATASET_NAME}_tta']"),
        *("OUTPUT_DIR", str(tmp_path / "out")),
        *("MODEL.WEIGHTS", str(tmp_path / "model.pth")),
        *("MODEL.ROTATED_HEAD.CHANNELS", "64"),
        *("TEST.TTA.ENABLED", "True"),
        *("TEST.TTA.QUARTER_TURNS", "[0, 1]"),
    )
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    experiment = build_experiment(cfg, for_training=False)
    batches = []
    experiment.model.register_forward_hook(lambda _, given, __: batches.append(len(given[0])))
    results = evaluate_only(experiment, resume=False)
    assert "AP50" in results["dota"]
    # Six images, mirrored or not, turned or not.
    assert batches == [1] * 24
    batches.clear()
    # What training calls looks at the images themselves.
    evaluate(experiment)
    assert batches == [1] * 6
