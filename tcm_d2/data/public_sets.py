"""Register data sets that are not DOTA: one call each, read from the files as they are downloaded.

datasets/README.md shows the trees. Nothing is read before a data set is used. All are whole images:
their labels come with the dicts, so that the evaluator needs no label folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tcm_d2.data.conversion import read_annotations
from tcm_d2.data.dota.classes import DOTA_V2_CLASSES, DOTA_V15_CLASSES
from tcm_d2.data.dota.labels import (
    DotaLabel,
    DotaObject,
    LabelProblems,
    OnError,
    check_label,
    list_labels,
    read_label,
)
from tcm_d2.data.dota.loading import load_dota_split, load_labelled_images
from tcm_d2.data.dota.manifest import IMAGE_FOLDER, LABEL_FOLDER, MANIFEST_NAME
from tcm_d2.data.dota.register import dataset_root, register_dota, register_loader
from tcm_d2.data.formats.reading import OnError as OnReadError
from tcm_d2.data.formats.reading import ReadOptions, image_id_of
from tcm_d2.data.formats.ucas import UCAS_AOD_CLASSES
from tcm_d2.data.images import list_images

logger = logging.getLogger(__name__)

DIOR_R_CLASSES: tuple[str, ...] = (
    "airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney",
    "expressway-service-area", "expressway-toll-station", "dam", "golffield", "groundtrackfield",
    "harbor", "overpass", "ship", "stadium", "storagetank", "tenniscourt", "trainstation",
    "vehicle", "windmill",
)  # fmt: skip
HRSC2016_CLASSES: tuple[str, ...] = ("ship",)
ICDAR2015_CLASSES: tuple[str, ...] = ("text",)

_PARTS = ("train", "val", "trainval", "test")
_ON_ERROR: dict[OnError, OnReadError] = {"raise": "stop", "skip": "skip", "repair": "repair"}


class LabelledImage(NamedTuple):
    """An image file, its annotation file and the class of all that is in it, where one is given."""

    image_id: str
    image_path: Path
    label_path: Path
    class_name: str | None = None


def register_public_sets() -> list[str]:
    """Register all known data sets under the root that DETECTRON2_DATASETS names.

    Repeating it changes nothing.
    """
    names = register_dota()
    for prefix, folder, classes in (
        ("dota_v15", "DOTA_v15", DOTA_V15_CLASSES),
        ("dota_v2", "DOTA_v2", DOTA_V2_CLASSES),
    ):
        names += register_dota(
            name_prefix=prefix, classes=classes, image_folder=folder, split_folder=f"{folder}_split"
        )
    for register in (register_dior_r, register_hrsc2016, register_ucas_aod, register_icdar2015):
        names += register()
    return names


def register_dota_style(
    name: str,
    root: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    on_error: OnError = "raise",
) -> list[str]:
    """Register anything in DOTA's format: ``name`` and ``name_train``, ``_val``, ``_test``, ...

    ``name`` is the folder itself, the others are the folders ``train``, ``val``, ``trainval`` and
    ``test`` in it. Each holds ``images/`` and, where there are labels, ``labelTxt/``; patches of
    tcm-d2 split have a manifest beside them and are loaded as such.

    Args:
        name: a new name for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        classes: class names as the label files write them, in label order.
        on_error: bad label lines, see `read_label`.

    Returns:
        The registered names.

    Raises:
        ValueError: when a name is taken by another data set.
    """
    folders = {name: Path(root)} | {f"{name}_{part}": Path(root) / part for part in _PARTS}
    for full_name, folder in folders.items():
        load = partial(_load_dota_style, folder, tuple(classes), on_error)
        key = ("DOTA style", str(folder), tuple(classes), on_error)
        register_loader(full_name, load, key, classes, None, labels_in_dicts=True)
    return list(folders)


def register_dior_r(
    root: str | os.PathLike[str] | None = None, *, on_error: OnError = "raise"
) -> list[str]:
    """Register ``dior_r_train``, ``_val``, ``_trainval`` and ``_test``.

    Args:
        root: holds ``JPEGImages-trainval``, ``JPEGImages-test``, ``Annotations/Oriented Bounding
            Boxes`` and ``ImageSets/Main``; None: ``DIOR`` in the data sets' root.
        on_error: "skip" leaves out objects of unknown classes or without area, and counts them.
    """
    base = dataset_root() / "DIOR" if root is None else Path(root)
    return _register_parts("dior_r", base, DIOR_R_CLASSES, _list_dior_r, "dior", _PARTS, on_error)


def register_hrsc2016(
    root: str | os.PathLike[str] | None = None, *, on_error: OnError = "raise"
) -> list[str]:
    """Register ``hrsc2016_train``, ``_val``, ``_trainval`` and ``_test``; all ships are one class.

    Args:
        root: holds ``ImageSets`` and ``FullDataSet`` with ``AllImages`` and ``Annotations``; None:
            ``HRSC2016`` in the data sets' root.
        on_error: "skip" leaves out objects without area, and counts them.
    """
    base = dataset_root() / "HRSC2016" if root is None else Path(root)
    return _register_parts(
        "hrsc2016", base, HRSC2016_CLASSES, _list_hrsc2016, "hrsc", _PARTS, on_error
    )


def register_ucas_aod(
    root: str | os.PathLike[str] | None = None, *, on_error: OnError = "raise"
) -> list[str]:
    """Register ``ucas_aod`` (all of it) and ``ucas_aod_train``, ``_val``, ``_trainval``, ``_test``.

    The data set has no official parts: put lists of image ids, ``CAR_P0001`` or ``PLANE_P0001``,
    into ``ImageSets/train.txt`` and so on.

    Args:
        root: holds ``CAR`` and ``PLANE``, each with ``P0001.png`` and ``P0001.txt`` side by side;
            None: ``UCAS_AOD`` in the data sets' root.
        on_error: "skip" leaves out objects without area, and counts them.
    """
    base = dataset_root() / "UCAS_AOD" if root is None else Path(root)
    parts = ("", *_PARTS)
    return _register_parts(
        "ucas_aod", base, UCAS_AOD_CLASSES, _list_ucas_aod, "ucas", parts, on_error
    )


def register_icdar2015(
    root: str | os.PathLike[str] | None = None, *, on_error: OnError = "raise"
) -> list[str]:
    """Register ``icdar2015_train`` and ``icdar2015_test``: scene text, in English words.

    Text that nobody can read ("###") is difficult: it does not count when scored.

    Args:
        root: holds ``ch4_training_images``, ``ch4_test_images`` and the ground truth in
            ``ch4_training_localization_transcription_gt`` and ``Challenge4_Test_Task1_GT``; None:
            ``ICDAR2015`` in the data sets' root.
        on_error: "skip" leaves out text without area, and counts it.
    """
    base = dataset_root() / "ICDAR2015" if root is None else Path(root)
    parts = ("train", "test")
    return _register_parts(
        "icdar2015", base, ICDAR2015_CLASSES, _list_icdar2015, "icdar", parts, on_error
    )


def load_public_set(
    list_pairs: Callable[[Path, str], list[LabelledImage]],
    label_format: str,
    root: Path,
    part: str,
    classes: Sequence[str],
    on_error: OnError,
) -> list[dict[str, Any]]:
    """Return the dicts of one part of a data set, see `tcm_d2.data.dota.loading`.

    Raises:
        FileNotFoundError, ValueError: missing folders or files, bad annotations; name them.
    """
    problems = LabelProblems()
    items: list[tuple[str, Path, DotaLabel | None]] = []
    for image_id, image_path, label_path, class_name in list_pairs(root, part):
        label = _read_foreign(label_path, label_format, class_name, on_error, problems)
        check_label(label, str(label_path), classes, on_error=on_error, problems=problems)
        items.append((image_id, image_path, label))
    if problems.counts:
        logger.warning("%s: objects left out or repaired: %s", root, problems.summary())
    if not items:
        raise ValueError(f"{root}: expected images in part {part!r}, got an empty data set")
    return load_labelled_images(items, classes, where=f"{root} {part}")


def _read_foreign(
    path: Path,
    label_format: str,
    class_name: str | None,
    on_error: OnError,
    problems: LabelProblems,
) -> DotaLabel:
    classes = None if class_name is None else {0: class_name}
    options = ReadOptions(classes=classes, on_error=_ON_ERROR[on_error])
    reading = read_annotations(path, label_format, options)
    problems.merge(reading.summary.left_out)
    problems.merge(reading.summary.repaired)
    return DotaLabel(
        [
            DotaObject(obj.quad, obj.class_name, obj.difficult)
            for image in reading.images.values()
            for obj in image.objects
        ]
    )


def _register_parts(
    name: str,
    root: Path,
    classes: Sequence[str],
    list_pairs: Callable[[Path, str], list[LabelledImage]],
    label_format: str,
    parts: Iterable[str],
    on_error: OnError,
) -> list[str]:
    names = []
    for part in parts:
        full_name = f"{name}_{part}" if part else name
        load = partial(
            load_public_set, list_pairs, label_format, root, part, tuple(classes), on_error
        )
        key = (name, str(root), part, on_error)
        register_loader(full_name, load, key, classes, None, labels_in_dicts=True)
        names.append(full_name)
    return names


def _load_dota_style(
    folder: Path, classes: tuple[str, ...], on_error: OnError
) -> list[dict[str, Any]]:
    if (folder / MANIFEST_NAME).is_file():
        return load_dota_split(folder, classes, on_error=on_error)
    label_dir = folder / LABEL_FOLDER
    labels = list_labels(label_dir) if label_dir.is_dir() else None
    images = list_images(_existing(folder / IMAGE_FOLDER, "images/ and labelTxt/"))
    pairs = [
        (key, path, None if labels is None else labels.get(key)) for key, path in images.items()
    ]
    lonely = sorted(key for key, _, label in pairs if label is None) if labels is not None else []
    if lonely:
        raise ValueError(
            f"{folder}: {len(lonely)} images without label ({', '.join(lonely[:3])}); an image "
            "without objects needs an empty label file; tcm-d2 validate lists them all"
        )
    items = [
        (key, path, None if label is None else _read_dota(label, classes, on_error))
        for key, path, label in pairs
    ]
    if not items:
        raise ValueError(f"{folder / IMAGE_FOLDER}: expected images, got an empty data set")
    return load_labelled_images(items, classes, where=str(folder))


def _read_dota(path: Path, classes: Sequence[str], on_error: OnError) -> DotaLabel:
    return read_label(path, classes=classes, on_error=on_error)


def _list_dior_r(root: Path, part: str) -> list[LabelledImage]:
    folder = "JPEGImages-test" if part == "test" else "JPEGImages-trainval"
    images = list_images(_existing(root / folder, "JPEGImages-trainval/, JPEGImages-test/"))
    annotations = root / "Annotations" / "Oriented Bounding Boxes"
    pairs = []
    for image_id in _read_image_set(root / "ImageSets" / "Main", part):
        xml = _label_file(annotations / f"{image_id}.xml", image_id)
        pairs.append(LabelledImage(image_id, _image(images, image_id, root), xml))
    return pairs


def _list_hrsc2016(root: Path, part: str) -> list[LabelledImage]:
    full = root / "FullDataSet"
    images = list_images(_existing(full / "AllImages", "FullDataSet/AllImages/"))
    pairs = []
    for image_id in _read_image_set(root / "ImageSets", part):
        xml = _label_file(full / "Annotations" / f"{image_id}.xml", image_id)
        pairs.append(LabelledImage(image_id, _image(images, image_id, root), xml))
    return pairs


def _list_ucas_aod(root: Path, part: str) -> list[LabelledImage]:
    found = {}
    for class_name in UCAS_AOD_CLASSES:
        folder = _existing(root / class_name.upper(), "CAR/ and PLANE/")
        for stem, path in list_images(folder).items():
            image_id = f"{class_name.upper()}_{stem}"
            text = _label_file(folder / f"{stem}.txt", image_id)
            found[image_id] = LabelledImage(image_id, path, text, class_name)
    if not part:
        return list(found.values())
    wanted = _read_image_set(root / "ImageSets", part)
    unknown = [image_id for image_id in wanted if image_id not in found]
    if unknown:
        raise ValueError(
            f"{root / 'ImageSets' / part}.txt: expected ids like CAR_P0001, got {unknown[0]!r}"
        )
    return [found[image_id] for image_id in wanted]


def _list_icdar2015(root: Path, part: str) -> list[LabelledImage]:
    names = {
        "train": ("ch4_training_images", "ch4_training_localization_transcription_gt"),
        "test": ("ch4_test_images", "Challenge4_Test_Task1_GT"),
    }
    image_folder, label_folder = names[part]
    images = list_images(_existing(root / image_folder, f"{image_folder}/ and {label_folder}/"))
    pairs = []
    for image_id, path in images.items():
        text = _label_file(root / label_folder / f"gt_{image_id}.txt", image_id)
        pairs.append(LabelledImage(image_id, path, text))
    return pairs


def _existing(folder: Path, expected: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: expected a folder ({expected}), found none; datasets/README.md shows the "
            "tree, and the environment variable DETECTRON2_DATASETS says where it starts"
        )
    return folder


def _read_image_set(folder: Path, part: str) -> list[str]:
    path = folder / f"{part}.txt"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a list of image ids, one a line, found none; datasets/README.md "
            "shows the tree"
        )
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = (line.strip().replace("\\", "/").rpartition("/")[2] for line in lines if line.strip())
    return [image_id_of(name) for name in names]


def _image(images: dict[str, Path], image_id: str, root: Path) -> Path:
    if image_id not in images:
        raise FileNotFoundError(f"{root}: image {image_id} is in the list and not in the folder")
    return images[image_id]


def _label_file(path: Path, image_id: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: annotations of image {image_id} not found")
    return path
