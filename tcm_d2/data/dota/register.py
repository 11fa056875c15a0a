"""Register DOTA-style data sets with Detectron2; nothing is read before a data set is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from detectron2.data import DatasetCatalog, MetadataCatalog

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import OnError
from tcm_d2.data.dota.loading import PatchNames, load_dota_images, load_dota_split
from tcm_d2.data.dota.manifest import IMAGE_FOLDER, LABEL_FOLDER

# Detectron2's own rule for where data sets lie.
ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"

# The patch sets of `register_dota`; the labels of the test images are not public, and "trainval"
# joins two folders of whole images, so neither has one folder of whole-image labels.
_PATCH_SETS = {"train": "train", "val": "val", "trainval": None, "test": None}
_IMAGE_SETS = {"train": True, "val": True, "test": False}

# name -> what it was registered with, to tell a repetition from a contradiction.
_registered: dict[str, tuple[Any, ...]] = {}


def register_dota(
    root: str | os.PathLike[str] | None = None,
    *,
    name_prefix: str = "dota_v1",
    classes: Sequence[str] = DOTA_V1_CLASSES,
    image_folder: str = "DOTA",
    split_folder: str = "DOTA_split",
    on_error: OnError = "raise",
) -> list[str]:
    """Register a DOTA tree: patches ``<prefix>_train``, whole images ``<prefix>_train_images``.

    Patch sets are train, val, trainval and test in ``<root>/<split_folder>``, whole images train,
    val and test in ``<root>/<image_folder>``; datasets/README.md shows the tree. The disk is not
    touched before a data set is loaded. Calling it again with the same arguments changes nothing.

    Args:
        root: None takes the environment variable DETECTRON2_DATASETS, or "datasets".
        on_error: bad label lines, see `read_label`.

    Returns:
        The registered names.

    Raises:
        ValueError: when a name is taken by another data set.
    """
    base = dataset_root() if root is None else Path(root)
    names = []
    for part, label_part in _PATCH_SETS.items():
        label_dir = base / image_folder / label_part / LABEL_FOLDER if label_part else None
        register_dota_split(
            f"{name_prefix}_{part}",
            base / split_folder / part,
            classes,
            label_dir=label_dir,
            has_labels=None if part == "test" else True,
            on_error=on_error,
        )
        names.append(f"{name_prefix}_{part}")
    for part, has_labels in _IMAGE_SETS.items():
        folder = base / image_folder / part
        register_dota_images(
            f"{name_prefix}_{part}_images",
            folder / IMAGE_FOLDER,
            folder / LABEL_FOLDER if has_labels else None,
            classes,
            on_error=on_error,
        )
        names.append(f"{name_prefix}_{part}_images")
    return names


def register_dota_split(
    name: str,
    patch_dir: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    label_dir: str | os.PathLike[str] | None = None,
    has_labels: bool | None = None,
    drop_empty: bool = False,
    on_error: OnError = "raise",
    patch_names: PatchNames | None = None,
) -> None:
    """Register one folder of patches that ``tcm-d2 split`` made.

    Detectron2's training loader leaves out patches without objects
    (``DATALOADER.FILTER_EMPTY_ANNOTATIONS``), so ``drop_empty`` is for other uses; a set that is
    evaluated keeps them.

    Args:
        name: a new name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        label_dir: label files of the whole images, for the evaluator; None: no ground truth.
        has_labels, drop_empty, on_error, patch_names: see `load_dota_split`.

    Raises:
        ValueError: when the name is taken by another data set.
    """
    patch_dir = os.fspath(patch_dir)
    load = partial(
        load_dota_split,
        patch_dir,
        tuple(classes),
        has_labels=has_labels,
        drop_empty=drop_empty,
        on_error=on_error,
        patch_names=patch_names,
    )
    key = ("split", patch_dir, tuple(classes), has_labels, drop_empty, on_error, patch_names)
    register_loader(name, load, key, classes, label_dir)


def register_dota_images(
    name: str,
    image_dir: str | os.PathLike[str],
    label_dir: str | os.PathLike[str] | None,
    classes: Sequence[str],
    *,
    on_error: OnError = "raise",
    on_missing: Literal["raise", "skip"] = "raise",
) -> None:
    """Register whole images; ``label_dir`` None for images without labels.

    Args:
        on_error, on_missing: see `load_dota_images`.

    Raises:
        ValueError: when the name is taken by another data set.
    """
    image_dir = os.fspath(image_dir)
    label_text = None if label_dir is None else os.fspath(label_dir)
    load = partial(
        load_dota_images,
        image_dir,
        label_text,
        tuple(classes),
        on_error=on_error,
        on_missing=on_missing,
    )
    key = ("images", image_dir, tuple(classes), on_error, on_missing)
    register_loader(name, load, key, classes, label_dir)


def dataset_root() -> Path:
    """Return where data sets lie: the environment variable DETECTRON2_DATASETS, or "datasets"."""
    return Path(os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT))


def register_loader(
    name: str,
    load: Callable[[], list[dict[str, Any]]],
    key: tuple[Any, ...],
    classes: Sequence[str],
    label_dir: str | os.PathLike[str] | None,
    *,
    labels_in_dicts: bool = False,
) -> None:
    """Register a function that returns dicts as those of `tcm_d2.data.dota.loading`.

    Args:
        key: what the data set is made from, its place second; the same name with the same key is a
            repetition.
        label_dir: labels of the whole images in DOTA's format, for the evaluator.
        labels_in_dicts: the dicts are whole images, and their annotations are what is scored.

    Raises:
        ValueError: when the name is taken by another data set.
    """
    label_text = None if label_dir is None else os.fspath(label_dir)
    key = (*key, label_text)
    if name in DatasetCatalog.list():
        if _registered.get(name) == key:
            return
        known = _registered.get(name)
        raise ValueError(
            f"data set name {name!r}: already registered"
            f"{f' for {known[1]}' if known else ' elsewhere'}, now asked for {key[1]} or other "
            "options; choose another name, or call DatasetCatalog.remove(name) first"
        )
    DatasetCatalog.register(name, load)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(
        thing_classes=list(classes),
        evaluator_type="dota",
        label_dir=label_text,
        labels_in_dicts=labels_in_dicts,
    )
    _registered[name] = key
