"""Ground truth of a data set: from label files of whole images, or from data set dicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tcm_d2.data.annotations import objects_of
from tcm_d2.data.dota.classes import ClassSpelling
from tcm_d2.data.dota.labels import MIN_QUAD_AREA_PX2, LabelProblems, OnError, read_label
from tcm_d2.evaluation.scoring.average_precision import GroundTruths
from tcm_d2.files import joined_path
from tcm_d2.messages import some_names
from tcm_d2.structures.arrays import BoolArray, FloatArray
from tcm_d2.structures.quads import quads_cross_themselves, signed_areas


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
        classes: names in the order of the table; blanks, ``_`` and ``-`` in them are equal.
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
        raise ValueError(f"image_ids: expected each image once, got twice: {some_names(twice)}")
    for image_id in image_ids:
        if "/" in image_id:  # ids out of lists may lead elsewhere; see also joined_path
            joined_path(folder, f"{image_id}.txt", where="image id", follow_links=True)
    missing = [image_id for image_id in image_ids if not (folder / f"{image_id}.txt").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: no label file for {len(missing)} of {len(image_ids)} images: "
            f"{some_names(missing)}; an image without objects needs an empty file <image id>.txt"
        )
    problems = LabelProblems()
    others: Counter[str] = Counter()
    columns: dict[str, tuple[list[int], list[tuple[float, ...]], list[bool]]]
    columns = {name: ([], [], []) for name in classes}
    spelling = ClassSpelling(classes)
    for index, image_id in enumerate(image_ids):
        path = folder / f"{image_id}.txt"
        label = read_label(
            path, on_error=on_bad_label, problems=problems, check_quads=on_bad_label != "raise"
        )
        for obj in label.objects:
            name = spelling.find(obj.class_name)
            if name is None:
                others[obj.class_name] += 1
                continue
            indices, quads, difficult = columns[name]
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


def annotations_from_dicts(
    dicts: Sequence[Mapping[str, Any]], classes: Sequence[str], *, patches: bool = False
) -> Annotations | None:
    """Return the objects in the dicts of whole images, or None where images have no labels.

    Args:
        dicts: as those of `tcm_d2.data.dota.loading`, at least one, or Detectron2's own; groups
            (``iscrowd``) count like difficult objects.
        classes: names in label order.
        patches: each patch counts as an image of its own.

    Raises:
        ValueError: for patches that do not count so: what they cut is not the image's ground
            truth.
    """
    if any("annotations" not in item for item in dicts):
        return None
    for item in () if patches else dicts:
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


def _are_odd(quads: FloatArray) -> BoolArray:
    flat = np.abs(signed_areas(quads)) < MIN_QUAD_AREA_PX2
    return np.asarray(flat | quads_cross_themselves(quads), dtype=bool)
