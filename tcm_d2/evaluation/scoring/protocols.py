"""From result rows and annotations to the arrays that are scored, by the rules of a protocol.

Task 1 compares quads as they are given. Task 2 compares upright boxes as the devkit does: pixels
are counted inclusively (a box from 3 to 5 is 3 px wide), objects are the upright bounds of their
corners, cut to whole pixels; detections keep their fractions. A quad one pixel longer to the right
and below has the same IoU, so that both tasks share everything after this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from tcm_d2.evaluation.files.escapes import match_image_id
from tcm_d2.evaluation.files.rows import TASKS, Task, looks_like_patch_name
from tcm_d2.evaluation.scoring.annotations import Annotations
from tcm_d2.evaluation.scoring.average_precision import (
    DifficultRule,
    GroundTruths,
    Metric,
    TieOrder,
)
from tcm_d2.evaluation.scoring.quad_iou import quads_to_bounds
from tcm_d2.messages import some_names
from tcm_d2.structures.arrays import FloatArray
from tcm_d2.structures.conversions import boxes_to_quads, quads_to_boxes
from tcm_d2.structures.detections import ClassDetections, QuadDetections, no_rows
from tcm_d2.structures.quads import hboxes_to_quads

UnknownImages = Literal["raise", "drop"]


@dataclass(frozen=True)
class Rules:
    """How a protocol compares and counts; the defaults are the official devkit's.

    Attributes:
        protocol: its name, for reports.
        task: 1 oriented boxes as given, 2 upright boxes.
        metric: "11point" (VOC07) or "area".
        difficult: "ignore" or "count" difficult objects.
        tie_order: "devkit" or "stable" order of equal scores.
        inclusive: an IoU equal to the threshold is a match.
        rectangles: compare the smallest rectangles around quads instead of the quads.
    """

    protocol: str = "devkit"
    task: Task = 1
    metric: Metric = "11point"
    difficult: DifficultRule = "ignore"
    tie_order: TieOrder = "devkit"
    inclusive: bool = False
    rectangles: bool = False


PROTOCOLS: dict[str, Rules] = {
    "devkit": Rules(),
    # What mmrotate prints after validation: difficult objects count like any other.
    "mmrotate": Rules("mmrotate", difficult="count", inclusive=True, rectangles=True),
}


@dataclass(frozen=True)
class Prepared:
    """Arrays to score.

    Attributes:
        names: class names.
        image_ids: an image's position is its index in the arrays.
        detections: of each class; quads as compared.
        ground_truths: of each class.
        detection_quads: (D, 4, 2) of each class as given, for drawing and measuring.
        object_quads: (G, 4, 2) of each class as given.
        warnings: sentences about what was left out or is odd.
    """

    names: list[str]
    image_ids: list[str]
    detections: list[QuadDetections]
    ground_truths: list[GroundTruths]
    detection_quads: list[FloatArray]
    object_quads: list[FloatArray]
    warnings: list[str] = field(default_factory=list)


def prepare_evaluation(
    detections: Mapping[str, ClassDetections],
    annotations: Annotations,
    *,
    rules: Rules,
    unknown_images: UnknownImages = "raise",
) -> Prepared:
    """Bring rows and annotations into the arrays that ``rules`` compare.

    Raises:
        ValueError: on rows of images that the annotations don't list (the devkit stops with a
            KeyError there), unless ``unknown_images`` is "drop".
    """
    if rules.task not in TASKS:
        raise ValueError(f"task: expected one of {TASKS}, got {rules.task!r}")
    warnings = _warn_about_inputs(detections, annotations)
    index_of = {image_id: index for index, image_id in enumerate(annotations.image_ids)}
    prepared = Prepared(list(annotations.by_class), annotations.image_ids, [], [], [], [], warnings)
    dropped: Counter[str] = Counter()
    for name, objects in annotations.by_class.items():
        rows = detections.get(name, no_rows())
        meant = {i: match_image_id(i, index_of) for i in dict.fromkeys(rows.image_ids)}
        image_index = np.array([index_of.get(meant[i], -1) for i in rows.image_ids], dtype=np.int64)
        known = image_index >= 0
        quads, scores = rows.quads, rows.scores
        if not known.all():
            dropped.update(rows.image_ids[row] for row in np.flatnonzero(~known).tolist())
            image_index, quads, scores = image_index[known], quads[known], scores[known]
        prepared.detection_quads.append(quads)
        prepared.object_quads.append(objects.quads)
        prepared.detections.append(QuadDetections(image_index, _as_compared(quads, rules), scores))
        object_quads = objects.quads
        if rules.task == 2:
            object_quads = _bounds_as_quads(np.trunc(quads_to_bounds(object_quads)))
        prepared.ground_truths.append(objects._replace(quads=_as_compared(object_quads, rules)))
    if dropped:
        message = f"{sum(dropped.values())} detections of {len(dropped)} unknown images"
        message += f": {some_names(list(dropped))}"
        if unknown_images == "raise":
            raise ValueError(message + _unknown_image_advice(dropped))
        warnings.append(f"dropped {message}")
    return prepared


def _as_compared(quads: FloatArray, rules: Rules) -> FloatArray:
    if rules.task == 2:
        return _bounds_as_quads(quads_to_bounds(quads) + np.array([0.0, 0.0, 1.0, 1.0]))
    if rules.rectangles and len(quads):
        boxes = torch.from_numpy(quads_to_boxes(np.array(quads, np.float64)))
        return np.asarray(boxes_to_quads(boxes).numpy(), dtype=np.float64)
    return quads


def _bounds_as_quads(bounds: FloatArray) -> FloatArray:
    """Return upright quads (N, 4, 2) of x1, y1, x2, y2 (N, 4)."""
    return hboxes_to_quads(bounds)


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


def _unknown_image_advice(image_ids: Mapping[str, int]) -> str:
    if any(looks_like_patch_name(image_id) for image_id in image_ids):
        return "; these are names of patches: merge patch results into whole images first"
    return "; correct the image list, or allow unknown images to drop these rows"
