"""Score Task1 rows of a whole data set against a folder of whole-image DOTA labels."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tcm_d2.data.dota.labels import (
    MIN_QUAD_AREA_PX2,
    LabelProblems,
    OnError,
    quads_cross_themselves,
    read_label,
    write_bytes_atomically,
)
from tcm_d2.evaluation.average_precision import (
    ClassResult,
    Detections,
    DifficultRule,
    GroundTruths,
    Metric,
    TieOrder,
    evaluate_class,
    mean_ap,
)
from tcm_d2.evaluation.quad_iou import FloatArray, signed_area
from tcm_d2.evaluation.submission import ClassDetections, looks_like_patch_name, no_detections

logger = logging.getLogger(__name__)

_MAX_NAMES = 5


@dataclass(frozen=True)
class Annotations:
    """Ground truth of a data set.

    Attributes:
        image_ids: the images that count, with or without objects; an image's position is its index.
        by_class: objects by class name, in the order of the classes asked for.
        other_classes: number of objects of each class not asked for; they take no part.
        num_odd_quads: objects without area or crossing themselves, taken as they are: the devkit
            counts them, though those without area cannot be matched.
        problems: bad label lines that were skipped or repaired.
    """

    image_ids: list[str]
    by_class: dict[str, GroundTruths]
    other_classes: dict[str, int]
    num_odd_quads: int
    problems: LabelProblems


@dataclass(frozen=True)
class EvaluationReport:
    """AP of every class, with what it was computed from; ``warnings`` are sentences."""

    classes: dict[str, ClassResult]
    iou_threshold: float
    metric: Metric
    difficult: DifficultRule
    tie_order: TieOrder
    num_images: int
    warnings: list[str] = field(default_factory=list)

    @property
    def mean_ap(self) -> float:
        """Mean over the classes with ground truth; NaN without any."""
        return mean_ap(list(self.classes.values()))

    @property
    def mean_ap_devkit(self) -> float:
        """Sum over the classes with ground truth, divided by the number of all classes."""
        return mean_ap(list(self.classes.values()), over_all_classes=True)

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
        rule = f"IoU > {self.iou_threshold:g}, {self.metric}, difficult: {self.difficult}"
        lines.append(f"({rule}; {self.num_images} images; '-': class without ground truth)")
        return "\n".join(lines)


def read_annotations(
    label_dir: str | Path,
    *,
    image_ids: Sequence[str],
    classes: Sequence[str],
    on_bad_label: OnError = "raise",
) -> Annotations:
    """Read the labels of the given images.

    Args:
        label_dir: folder with one ``<image id>.txt`` per image.
        image_ids: all images that count; each needs a label file, which may be empty.
        classes: names in the order of the report.
        on_bad_label: "raise" stops at a line that cannot be read, but takes quads without area and
            self-crossing ones as they are, as the devkit does; "skip" and "repair" leave out or
            repair both kinds, see ``read_label``.

    Raises:
        FileNotFoundError: when the folder or a label file is missing.
        ValueError: on an image id given twice, or on a bad label line.
    """
    folder = Path(label_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"annotations: expected a folder with label files, got {folder}")
    twice = [image_id for image_id, num in Counter(image_ids).items() if num > 1]
    if twice:
        raise ValueError(f"image_ids: expected each image once, got twice: {_some(twice)}")
    missing = [image_id for image_id in image_ids if not (folder / f"{image_id}.txt").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: no label file for {len(missing)} of {len(image_ids)} images: "
            f"{_some(missing)}; an image without objects needs an empty file <image id>.txt"
        )
    problems = LabelProblems()
    others: Counter[str] = Counter()
    columns: dict[str, tuple[list[int], list[tuple[float, ...]], list[bool]]]
    columns = {name: ([], [], []) for name in classes}
    for index, image_id in enumerate(image_ids):
        path = folder / f"{image_id}.txt"
        label = read_label(
            path, on_error=on_bad_label, problems=problems, check_quads=on_bad_label != "raise"
        )
        for obj in label.objects:
            if obj.class_name not in columns:
                others[obj.class_name] += 1
                continue
            indices, quads, difficult = columns[obj.class_name]
            indices.append(index)
            quads.append(obj.quad)
            difficult.append(obj.difficult != 0)
    by_class = {
        name: GroundTruths(
            np.array(indices, dtype=np.int64),
            np.array(quads, dtype=np.float64).reshape(-1, 4, 2),
            np.array(difficult, dtype=bool),
        )
        for name, (indices, quads, difficult) in columns.items()
    }
    num_odd_quads = sum(int(_are_odd(objects.quads).sum()) for objects in by_class.values())
    return Annotations(list(image_ids), by_class, dict(others), num_odd_quads, problems)


def evaluate_task1(
    detections: Mapping[str, ClassDetections],
    annotations: Annotations,
    *,
    iou_threshold: float,
    metric: Metric = "11point",
    difficult: DifficultRule = "ignore",
    tie_order: TieOrder = "devkit",
    unknown_images: Literal["raise", "drop"] = "raise",
) -> EvaluationReport:
    """Score Task1 rows by class.

    Args:
        detections: rows by class name. A class of the annotations that is absent counts as having
            no detections, with a warning where it has objects.
        annotations: ground truth, which also says what the classes and the images are.
        iou_threshold: in [0, 1), strict.
        metric: "11point" or "area".
        difficult: "ignore" or "count".
        tie_order: "devkit" or "stable" order of equal scores, see ``average_precision``.
        unknown_images: "raise" or "drop" rows of images that ``annotations`` does not list (the
            devkit stops with a KeyError there).

    Raises:
        ValueError: on rows of unknown images.
    """
    warnings = _warn_about_inputs(detections, annotations)
    index_of = {image_id: index for index, image_id in enumerate(annotations.image_ids)}
    results: dict[str, ClassResult] = {}
    dropped: Counter[str] = Counter()
    for name, ground_truths in annotations.by_class.items():
        rows = detections.get(name, no_detections())
        image_index = np.array([index_of.get(i, -1) for i in rows.image_ids], dtype=np.int64)
        known = image_index >= 0
        if not known.all():
            dropped.update(rows.image_ids[row] for row in np.flatnonzero(~known).tolist())
        found = Detections(image_index[known], rows.quads[known], rows.scores[known])
        results[name] = evaluate_class(
            found,
            ground_truths,
            iou_threshold=iou_threshold,
            metric=metric,
            difficult=difficult,
            tie_order=tie_order,
        )
    if dropped:
        message = f"{sum(dropped.values())} detections of {len(dropped)} unknown images"
        message += f": {_some(list(dropped))}"
        if unknown_images == "raise":
            raise ValueError(message + _unknown_image_advice(dropped))
        warnings.append(f"dropped {message}")
    for text in warnings:
        logger.warning("%s", text)
    return EvaluationReport(
        results, iou_threshold, metric, difficult, tie_order, len(annotations.image_ids), warnings
    )


def _warn_about_inputs(
    detections: Mapping[str, ClassDetections], annotations: Annotations
) -> list[str]:
    warnings = []
    absent = [
        name
        for name, ground_truths in annotations.by_class.items()
        if name not in detections and len(ground_truths.difficult)
    ]
    if absent:
        warnings.append(
            f"no result file for {len(absent)} classes with objects, taken as without detections "
            f"(the devkit needs the file): {', '.join(absent)}"
        )
    extra = [name for name in detections if name not in annotations.by_class]
    if extra:
        warnings.append(f"results of {len(extra)} classes not evaluated: {', '.join(extra)}")
    if annotations.other_classes:
        num = sum(annotations.other_classes.values())
        names = ", ".join(sorted(annotations.other_classes))
        warnings.append(f"{num} labelled objects of classes not evaluated: {names}")
    if annotations.num_odd_quads:
        warnings.append(
            f"{annotations.num_odd_quads} labelled objects have no area or cross themselves; they "
            "count as in the devkit"
        )
    if annotations.problems.counts:
        warnings.append(f"bad label lines: {annotations.problems.summary()}")
    return warnings


def _are_odd(quads: FloatArray) -> NDArray[np.bool_]:
    flat = np.abs(signed_area(quads)) < MIN_QUAD_AREA_PX2
    return np.asarray(flat | quads_cross_themselves(quads), dtype=bool)


def _unknown_image_advice(image_ids: Mapping[str, int]) -> str:
    if any(looks_like_patch_name(image_id) for image_id in image_ids):
        return "; these are names of patches: merge patch results into whole images first"
    return "; correct the image list, or allow unknown images to drop these rows"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return f"{'-':>7}" if math.isnan(value) else f"{100 * value:7.2f}"
