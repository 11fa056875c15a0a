"""Score result rows of a whole data set against a folder of whole-image DOTA labels."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tcm_d2.evaluation.files.rows import Task
from tcm_d2.evaluation.scoring.annotations import Annotations
from tcm_d2.evaluation.scoring.average_precision import (
    ClassResult,
    DifficultRule,
    Matches,
    Metric,
    TieOrder,
    match_classes,
    mean_ap,
    score_matches,
)
from tcm_d2.evaluation.scoring.protocols import (
    Prepared,
    Rules,
    UnknownImages,
    prepare_evaluation,
)
from tcm_d2.files import write_bytes_atomically
from tcm_d2.structures.detections import ClassDetections

logger = logging.getLogger(__name__)

# Overlaps of the COCO-style mean.
COCO_IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True)
class ScoreTable:
    """AP of every class, with what it was computed from; ``warnings`` are sentences."""

    classes: dict[str, ClassResult]
    iou_threshold: float
    metric: Metric
    difficult: DifficultRule
    tie_order: TieOrder
    num_images: int
    warnings: list[str] = field(default_factory=list)
    protocol: str = "devkit"
    task: Task = 1
    inclusive: bool = False
    ap_by_iou: dict[str, dict[float, float]] = field(default_factory=dict)

    @property
    def mean_ap(self) -> float:
        """Mean over the classes with ground truth; NaN without any."""
        return mean_ap(list(self.classes.values()))

    @property
    def mean_ap_devkit(self) -> float:
        """Sum over the classes with ground truth, divided by the number of all classes."""
        return mean_ap(list(self.classes.values()), over_all_classes=True)

    @property
    def mean_ap_by_iou(self) -> dict[float, float]:
        """Mean AP over the classes with ground truth at each IoU of the COCO-style mean."""
        counted = [name for name, result in self.classes.items() if result.num_ground_truths > 0]
        thresholds = next(iter(self.ap_by_iou.values()), {})
        return {
            iou: float(np.mean([self.ap_by_iou[name][iou] for name in counted]))
            if counted
            else float("nan")
            for iou in thresholds
        }

    @property
    def mean_ap_coco(self) -> float:
        """Mean AP over IoU 0.50:0.95 and classes; NaN where it was not asked for."""
        values = list(self.mean_ap_by_iou.values())
        return float(np.mean(values)) if values else float("nan")

    @property
    def notes(self) -> dict[str, str]:
        """What is special about a class: no ground truth, no detections."""
        notes = {}
        for name, result in self.classes.items():
            if result.num_ground_truths == 0:
                notes[name] = (
                    "no ground truth that counts, not in the mean (the devkit adds "
                    f"{'0' if self.metric == '11point' else 'NaN'} to its sum)"
                )
            elif result.num_detections == 0:
                notes[name] = "no detections, AP 0 (the devkit stops with an IndexError)"
        return notes

    def as_dict(self) -> dict[str, Any]:
        """Return what is written as JSON; NaN becomes None."""
        return {
            "mean_ap": _nan_to_none(self.mean_ap),
            "mean_ap_devkit": _nan_to_none(self.mean_ap_devkit),
            "iou_threshold": self.iou_threshold,
            "metric": self.metric,
            "difficult": self.difficult,
            "tie_order": self.tie_order,
            "num_images": self.num_images,
            "classes": {
                name: {
                    "ap": _nan_to_none(result.ap),
                    "num_ground_truths": result.num_ground_truths,
                    "num_difficult": result.num_difficult,
                    "num_detections": result.num_detections,
                    "max_recall": _nan_to_none(result.max_recall),
                }
                for name, result in self.classes.items()
            },
            "warnings": self.warnings,
            "protocol": self.protocol,
            "task": self.task,
            "mean_ap_50_95": _nan_to_none(self.mean_ap_coco),
            "mean_ap_by_iou": {
                f"{iou:.2f}": _nan_to_none(ap) for iou, ap in self.mean_ap_by_iou.items()
            },
            "notes": self.notes,
        }

    def write_json(self, path: str | Path) -> None:
        """Write ``as_dict`` atomically."""
        text = json.dumps(self.as_dict(), indent=2, allow_nan=False)
        write_bytes_atomically(path, f"{text}\n".encode())

    def as_table(self) -> str:
        """Return a plain-text table with AP in percent."""
        width = max(len(name) for name in (*self.classes, "mean over 00 classes"))
        lines = [f"{'class':<{width}}  {'AP':>7} {'recall':>7} {'objects':>8} {'detections':>11}"]
        for name, result in self.classes.items():
            lines.append(
                f"{name:<{width}}  {_percent(result.ap)} {_percent(result.max_recall)} "
                f"{result.num_ground_truths:>8} {result.num_detections:>11}"
            )
        num_counted = sum(result.num_ground_truths > 0 for result in self.classes.values())
        mean_name = f"mean over {num_counted} classes"
        lines.append(f"{mean_name:<{width}}  {_percent(self.mean_ap)}")
        if num_counted != len(self.classes):
            devkit_name = f"sum / {len(self.classes)} (devkit)"
            lines.append(f"{devkit_name:<{width}}  {_percent(self.mean_ap_devkit)}")
        if self.ap_by_iou:
            lines.append(f"{'mean, IoU 0.50:0.95':<{width}}  {_percent(self.mean_ap_coco)}")
        for note in dict.fromkeys(self.notes.values()):
            names = ", ".join(name for name, other in self.notes.items() if other == note)
            lines.append(f"{note}: {names}")
        sign = ">=" if self.inclusive else ">"
        rule = f"IoU {sign} {self.iou_threshold:g}, {self.metric}, difficult: {self.difficult}"
        if self.protocol != "devkit" or self.task != 1:
            rule = f"Task {self.task}, {self.protocol}'s rules, {rule}"
        lines.append(f"({rule}; {self.num_images} images; '-': class without ground truth)")
        return "\n".join(lines)


def evaluate_task1(
    detections: Mapping[str, ClassDetections],
    annotations: Annotations,
    *,
    iou_threshold: float,
    metric: Metric = "11point",
    difficult: DifficultRule = "ignore",
    tie_order: TieOrder = "devkit",
    unknown_images: UnknownImages = "raise",
) -> ScoreTable:
    """Score Task1 rows by class, see ``evaluate_results``; the options are those of ``Rules``."""
    return evaluate_results(
        detections,
        annotations,
        iou_threshold=iou_threshold,
        rules=Rules(metric=metric, difficult=difficult, tie_order=tie_order),
        unknown_images=unknown_images,
    )


def evaluate_results(
    detections: Mapping[str, ClassDetections],
    annotations: Annotations,
    *,
    iou_threshold: float,
    rules: Rules,
    unknown_images: UnknownImages = "raise",
    sweep: bool = False,
) -> ScoreTable:
    """Score result rows by class.

    Args:
        detections: rows by class name. A class of the annotations that is absent counts as having
            no detections, with a warning where it has objects.
        annotations: ground truth, which also says what the classes and the images are.
        iou_threshold: in [0, 1).
        rules: what is compared and how it counts.
        unknown_images: "raise" or "drop" rows of images that ``annotations`` does not list (the
            devkit stops with a KeyError there).
        sweep: also score at the IoU thresholds of the COCO-style mean.

    Raises:
        ValueError: on rows of unknown images, or an unknown choice.
    """
    prepared = prepare_evaluation(
        detections, annotations, rules=rules, unknown_images=unknown_images
    )
    for text in prepared.warnings:
        logger.warning("%s", text)
    return score_prepared(prepared, iou_threshold=iou_threshold, rules=rules, sweep=sweep)


def match_prepared(prepared: Prepared, *, iou_threshold: float, sweep: bool) -> list[Matches]:
    """Match every class for one threshold and, with ``sweep``, those of the COCO-style mean.

    Raises:
        ValueError: on wrong shapes, non-finite numbers, or a threshold outside [0, 1).
    """
    if not 0 <= iou_threshold < 1:
        raise ValueError(f"iou_threshold: expected a number in [0, 1), got {iou_threshold}")
    min_iou = min(iou_threshold, COCO_IOU_THRESHOLDS[0]) if sweep else iou_threshold
    if 0 < min_iou < 1:
        min_iou = float(np.nextafter(min_iou, 0.0))  # keeps what an inclusive rule takes
    return match_classes(prepared.detections, prepared.ground_truths, min_iou=min_iou)


def score_prepared(
    prepared: Prepared,
    *,
    iou_threshold: float,
    rules: Rules,
    sweep: bool = False,
    matches: Sequence[Matches] | None = None,
) -> ScoreTable:
    """Score arrays that ``prepare_evaluation`` made, with their matches where these are known."""
    if matches is None:
        matches = match_prepared(prepared, iou_threshold=iou_threshold, sweep=sweep)

    def score(label: int, threshold: float) -> ClassResult:
        return score_matches(
            prepared.detections[label],
            prepared.ground_truths[label],
            matches[label],
            iou_threshold=threshold,
            metric=rules.metric,
            difficult=rules.difficult,
            tie_order=rules.tie_order,
            inclusive=rules.inclusive,
        )

    classes = {name: score(label, iou_threshold) for label, name in enumerate(prepared.names)}
    thresholds = COCO_IOU_THRESHOLDS if sweep else ()
    return ScoreTable(
        classes,
        iou_threshold,
        rules.metric,
        rules.difficult,
        rules.tie_order,
        len(prepared.image_ids),
        prepared.warnings,
        protocol=rules.protocol,
        task=rules.task,
        inclusive=rules.inclusive,
        ap_by_iou={
            name: {threshold: score(label, threshold).ap for threshold in thresholds}
            for label, name in enumerate(prepared.names)
        },
    )


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return f"{'-':>7}" if math.isnan(value) else f"{100 * value:7.2f}"
