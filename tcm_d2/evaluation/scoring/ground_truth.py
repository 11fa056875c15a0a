"""Score the ground truth as if it were detections: anything but 1.0 is a fault in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from tcm_d2.data.dota.labels import DotaObject
from tcm_d2.evaluation.scoring.average_precision import (
    GroundTruths,
    match_detections,
    score_matches,
)
from tcm_d2.structures.conversions import boxes_to_quads, quads_to_boxes
from tcm_d2.structures.detections import QuadDetections

IOU_THRESHOLD = 0.5
# Eleven times 1 / 11 is not exactly 1.
_AP_TOLERANCE = 1e-9
_NUM_CORNERS = 4


@dataclass
class GroundTruthScore:
    """Scores of the ground truth as detections.

    Attributes:
        ap: class name -> AP at IoU 0.5; NaN for a class without objects that count.
        faults: one sentence for each object that spoils a score.
        num_poor_boxes: objects whose fitted rectangle overlaps them by less than the threshold: a
            perfect rotated detector would miss them.
        num_objects: objects looked at.
    """

    ap: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    num_poor_boxes: int = 0
    num_objects: int = 0

    @property
    def passed(self) -> bool:
        """All classes that can be scored give 1.0, and there is one."""
        scored = [ap for ap in self.ap.values() if not np.isnan(ap)]
        return bool(scored) and min(scored) >= 1 - _AP_TOLERANCE


def score_ground_truth(
    objects: Mapping[str, Sequence[DotaObject]], classes: Sequence[str]
) -> GroundTruthScore:
    """Return the score of each class with the labels as predictions of score 1.

    Args:
        objects: image id -> its objects, as read from the label files.
        classes: names to score.
    """
    result = GroundTruthScore()
    image_ids = list(objects)
    for name in classes:
        rows = [
            (index, obj)
            for index, image_id in enumerate(image_ids)
            for obj in objects[image_id]
            if obj.class_name == name
        ]
        image_index = np.array([index for index, _ in rows], dtype=np.int64)
        quads = np.array([obj.quad for _, obj in rows], dtype=np.float64)
        quads = quads.reshape(-1, _NUM_CORNERS, 2)
        difficult = np.array([obj.difficult != 0 for _, obj in rows], dtype=bool)
        truths = GroundTruths(image_index, quads, difficult)
        detections = QuadDetections(image_index, quads, np.ones(len(rows)))
        matches = match_detections(detections, truths, min_iou=IOU_THRESHOLD)
        scored = score_matches(detections, truths, matches, iou_threshold=IOU_THRESHOLD)
        result.ap[name] = scored.ap
        result.num_objects += len(rows)
        for index in np.flatnonzero(matches.best_gt != np.arange(len(rows))).tolist():
            x, y = quads[index].mean(axis=0)
            what = f"image {image_ids[image_index[index]]}: {name} at ({x:.0f}, {y:.0f})"
            if matches.best_gt[index] < 0:
                result.faults.append(f"{what} does not overlap itself: a quad without area?")
            else:
                result.faults.append(f"{what} has the place of another object: written twice?")
        boxes = boxes_to_quads(quads_to_boxes(torch.from_numpy(quads)))
        fitted = QuadDetections(image_index, boxes.numpy(), np.ones(len(rows)))
        near = match_detections(fitted, truths, min_iou=IOU_THRESHOLD)
        result.num_poor_boxes += int((near.best_iou <= IOU_THRESHOLD).sum())
    return result
