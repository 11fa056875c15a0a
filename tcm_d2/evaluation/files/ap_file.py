"""Read back what an evaluation says about itself in its ``ap.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from tcm_d2.evaluation.scoring.average_precision import METRICS, Metric


class ScoringRules(NamedTuple):
    """By what an evaluation was scored; ``classes`` in label order, the IoU strict."""

    classes: tuple[str, ...]
    metric: Metric
    iou_threshold: float


def read_scoring_rules(path: str | os.PathLike[str]) -> ScoringRules:
    """Return classes, AP formula and IoU threshold of a file by ``ScoreTable.write_json``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another content.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such file; an evaluation with labels writes it beside Task1/"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rules = ScoringRules(
            tuple(dict(content["classes"])), content["metric"], float(content["iou_threshold"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: expected the JSON of an evaluation (classes, metric, iou_threshold), got "
            f"something else: {type(error).__name__}: {error}"
        ) from None
    if rules.metric not in METRICS or not rules.classes:
        raise ValueError(
            f"{file}: expected classes and a metric of {METRICS}, got {len(rules.classes)} classes "
            f"and {rules.metric!r}"
        )
    return rules
