"""Register and load data sets for a run, and check that they fit the model."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from tcm_d2.data.annotations import objects_of
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES, check_classes, class_name_to_prompt
from tcm_d2.data.dota.register import register_dota, register_dota_split
from tcm_d2.data.public_sets import register_public_sets
from tcm_d2.messages import near_match_hint

logger = logging.getLogger(__name__)

Record = dict[str, Any]

# Windows and patches are multiples of it: the grid of the backbone's last map.
STRIDE_PX = 32
# Patches of several scales, see datasets/README.md.
MULTI_SCALE_PREFIX, MULTI_SCALE_FOLDER = "dota_v1_ms", "DOTA_split_ms"


def register_datasets(patch_dirs: Sequence[str], classes: Sequence[str]) -> None:
    """Register the known data sets and folders of patches under given names.

    Repeating it changes nothing.

    Args:
        patch_dirs: "name=patch_dir" or "name=patch_dir=label_dir" (labels of the whole images).
        classes: class names of these folders; empty for DOTA-v1.0's.

    Raises:
        ValueError: for an entry of another form, or a name taken by another folder.
    """
    register_public_sets()
    register_dota(name_prefix=MULTI_SCALE_PREFIX, split_folder=MULTI_SCALE_FOLDER)
    for entry in patch_dirs:
        parts = [part.strip() for part in entry.split("=")]
        if len(parts) not in (2, 3) or not all(parts):
            raise ValueError(
                "DATASETS.PATCH_DIRS: expected 'name=patch_dir' or 'name=patch_dir=label_dir', got "
                f"{entry!r}"
            )
        label_dir = parts[2] if len(parts) == 3 else None
        register_dota_split(
            parts[0], parts[1], tuple(classes) or DOTA_V1_CLASSES, label_dir=label_dir
        )


def load_training_records(names: Sequence[str], *, drop_empty: bool) -> list[Record]:
    """Return the records of all data sets to train on; log how often each class occurs.

    Args:
        names: registered names.
        drop_empty: leave out images without objects.

    Raises:
        ValueError: no names, an unknown name, no labels, or no image left.
    """
    if not names:
        raise ValueError("DATASETS.TRAIN: expected at least one data set, got none")
    records = [record for name in names for record in load_records(name)]
    unlabelled = [record for record in records if "annotations" not in record]
    if unlabelled:
        raise ValueError(
            f"DATASETS.TRAIN {list(names)}: {len(unlabelled)} of {len(records)} images have no "
            f"labels, like {unlabelled[0]['file_name']}; train on labelled images only"
        )
    if drop_empty:
        num_all = len(records)
        records = [record for record in records if record["annotations"]]
        logger.info("%d of %d images hold objects and are used", len(records), num_all)
    if not records:
        raise ValueError(
            f"DATASETS.TRAIN {list(names)}: no image with objects to train on; check the folders, "
            "the class names and the split"
        )
    _log_class_counts(records, MetadataCatalog.get(names[0]).thing_classes)
    return records


def load_records(name: str) -> list[Record]:
    """Return the records of one registered data set.

    Raises:
        ValueError: for an unknown name (near matches are named) or an empty data set.
    """
    check_name(name)
    records: list[Record] = DatasetCatalog.get(name)
    if not records:
        raise ValueError(f"data set {name!r}: expected images, got none; check its folder")
    return records


def usual_size_px(records: Sequence[Record]) -> int:
    """Return the median of the longer sides, as a multiple of the coarsest stride; 0 if unknown."""
    sides = [max(r["height"], r["width"]) for r in records if "height" in r and "width" in r]
    if not sides:
        return 0
    return math.ceil(float(np.median(sides)) / STRIDE_PX) * STRIDE_PX


def check_name(name: str) -> None:
    """Raise ValueError, with near matches, when no data set of this name is registered."""
    known = list(DatasetCatalog.list())
    if name not in known:
        raise ValueError(
            f"unknown data set {name!r}{near_match_hint(name, known)}. Name folders "
            "of patches with DATASETS.PATCH_DIRS \"['name=patch_dir']\""
        )


def check_dataset_fits(
    name: str, *, num_classes: int | None, prompts: Sequence[str] | None, text: str
) -> None:
    """Raise when a model's classes cannot be those of a data set.

    Prompts may be worded freely, but not be the data set's names in another order.

    Args:
        name: a registered data set.
        num_classes: outputs of the model's head; None where it does not say.
        prompts: class prompts in label order; None for a model without text.
        text: what the model's prompts are called in a warning.

    Raises:
        ValueError: for an unknown data set or classes that differ in number or order.
    """
    check_name(name)
    classes = list(MetadataCatalog.get(name).thing_classes)
    wanted = [class_name_to_prompt(c) for c in classes]
    given = wanted if prompts is None else [class_name_to_prompt(p) for p in prompts]
    if len(given) == len(wanted) and sorted(given) != sorted(wanted):
        pairs = [f"{have!r} for {want!r}" for have, want in zip(given, wanted) if have != want]
        logger.warning("%s differ from the names in %s: %s", text, name, ", ".join(pairs))
        given = wanted
    check_classes(given, classes, dataset_name=name, num_head_classes=num_classes)


def _log_class_counts(records: Sequence[Record], classes: Sequence[str]) -> None:
    totals = np.zeros(len(classes), dtype=np.int64)
    num_difficult = 0
    for record in records:
        objects = objects_of(record)
        ids = objects.class_ids
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(classes):
            raise ValueError(
                f"{record.get('file_name')}: expected category ids 0..{len(classes) - 1} (the data "
                f"set has {len(classes)} classes), got {ids.min()}..{ids.max()}; correct the data "
                "set's function or its thing_classes"
            )
        totals += np.bincount(ids, minlength=len(classes))
        num_difficult += int(objects.difficult.sum())
    counts = dict(zip(classes, totals.tolist()))
    rows = [*counts.items(), ("total", sum(counts.values())), ("of these difficult", num_difficult)]
    logger.info("objects in %d images:\n%s", len(records), tabulate(rows, ["class", "objects"]))
    absent = [name for name, count in counts.items() if count == 0]
    if absent:
        logger.warning(
            "%d of %d classes have no object to train on: %s",
            len(absent),
            len(counts),
            ", ".join(absent),
        )
