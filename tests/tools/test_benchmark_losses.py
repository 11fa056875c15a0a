"""The suite of losses: its runs can be configured, its angle errors are those of a drawn case."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.losses import RUNS, measure_angles
from tcm_d2.config import load_config
from tcm_d2.config.registries import ROTATED_LOSS_REGISTRY
from tcm_d2.evaluation.analysis.result import analyze_evaluation
from tcm_d2.evaluation.scoring.average_precision import GroundTruths
from tcm_d2.evaluation.scoring.protocols import Prepared, Rules
from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.structures.detections import QuadDetections
from tests.conftest import REPO_DIR
from tests.modeling.small_clip import build_head


def test_every_loss_has_a_run_that_can_be_configured() -> None:
    assert {one.loss for one in RUNS} >= {name for name, _ in ROTATED_LOSS_REGISTRY}
    assert len({one.name for one in RUNS}) == len(RUNS)
    for one in RUNS:
        path = REPO_DIR / "configs" / f"embedded_tcm_{one.head}.yaml"
        loss = build_head(load_config(path, one.overrides)).box_loss
        assert type(loss).__name__ == one.loss
        assert set(one.settings.values()) <= {str(value) for value in vars(loss).values()}


def prepared(found: np.ndarray, true: np.ndarray, names: list[str]) -> Prepared:
    """Return one image with one object and one detection of each class."""
    quads = [boxes_to_quads(torch.from_numpy(boxes)).numpy()[:, None] for boxes in (found, true)]
    image, flag = np.zeros(1, np.int64), np.zeros(1, bool)
    return Prepared(
        names,
        ["P0"],
        [QuadDetections(image, quad, np.ones(1)) for quad in quads[0]],
        [GroundTruths(image, quad, flag) for quad in quads[1]],
        list(quads[0]),
        list(quads[1]),
    )


def test_angles_by_hand() -> None:
    """Nearly square modulo a quarter turn, others modulo a half turn, round classes left out."""
    true = np.array([[50.0, 50, 44, 40, 10], [50, 150, 80, 40, 85], [150, 50, 40, 40, 0]])
    found = true.copy()
    found[:, 4] = [90.0, -90.0, 30.0]
    rules = Rules()
    given = prepared(found, true, ["plane", "harbor", "roundabout"])
    angles = measure_angles(analyze_evaluation(given, iou_threshold=0.5, rules=rules))
    assert [column.tolist() for column in angles] == [
        pytest.approx([value]) for value in (10.0, 10.0, 0.0, 5.0)
    ]
