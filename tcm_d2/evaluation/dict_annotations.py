"""Ground truth from data set dicts: whole images whose labels are not in DOTA's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tcm_d2.data.annotations import objects_of
from tcm_d2.data.dota.labels import LabelProblems
from tcm_d2.evaluation.scoring.average_precision import GroundTruths
from tcm_d2.evaluation.scoring.protocols import Annotations


def annotations_from_dicts(
    dicts: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> Annotations | None:
    """Return the objects in the dicts of whole images, or None where images have no labels.

    Args:
        dicts: as those of `tcm_d2.data.dota.loading`, at least one, or Detectron2's own; groups
            (``iscrowd``) count like difficult objects.
        classes: names in label order.

    Raises:
        ValueError: for patches: what they cut is not the image's ground truth.
    """
    if any("annotations" not in item for item in dicts):
        return None
    for item in dicts:
        if item["image_id"] != item.get("source_image_id", item["image_id"]):
            raise ValueError(
                f"{item['file_name']}: expected whole images, got a patch of image "
                f"{item['source_image_id']!r}; register patches with register_dota_split and the "
                "label_dir of the whole images"
            )
    found = [objects_of(item) for item in dicts]
    image_index = np.repeat(np.arange(len(found)), [len(objects.quads) for objects in found])
    quads, class_ids, difficult, crowd = (np.concatenate(column) for column in zip(*found))
    by_class = {}
    for class_id, name in enumerate(classes):
        mine = class_ids == class_id
        by_class[name] = GroundTruths(image_index[mine], quads[mine], difficult[mine] | crowd[mine])
    image_ids = [str(item["image_id"]) for item in dicts]
    return Annotations(image_ids, by_class, {}, 0, LabelProblems())
