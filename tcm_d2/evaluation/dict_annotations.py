"""Ground truth from data set dicts: whole images whose labels are not in DOTA's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tcm_d2.data.dota.labels import LabelProblems
from tcm_d2.evaluation.scoring.average_precision import GroundTruths
from tcm_d2.evaluation.scoring.protocols import Annotations


def annotations_from_dicts(
    dicts: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> Annotations | None:
    """Return the objects in the dicts of whole images, or None where images have no labels.

    Args:
        dicts: as those of `tcm_d2.data.dota.loading`.
        classes: names in label order.

    Raises:
        ValueError: for patches: what they cut is not the image's ground truth.
    """
    if any("annotations" not in item for item in dicts):
        return None
    for item in dicts:
        if item["image_id"] != item["source_image_id"]:
            raise ValueError(
                f"{item['file_name']}: expected whole images, got a patch of image "
                f"{item['source_image_id']!r}; register patches with register_dota_split and the "
                "label_dir of the whole images"
            )
    by_class = {}
    for category_id, name in enumerate(classes):
        rows = [
            (index, obj)
            for index, item in enumerate(dicts)
            for obj in item["annotations"]
            if obj["category_id"] == category_id
        ]
        by_class[name] = GroundTruths(
            np.array([index for index, _ in rows], dtype=np.int64),
            np.array([obj["quad"] for _, obj in rows], dtype=np.float64).reshape(-1, 4, 2),
            np.array([obj.get("difficult", 0) != 0 for _, obj in rows], dtype=bool),
        )
    image_ids = [str(item["image_id"]) for item in dicts]
    return Annotations(image_ids, by_class, {}, 0, LabelProblems())
