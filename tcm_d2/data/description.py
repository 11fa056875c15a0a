"""What a user's data set consists of, from one file or folder: classes, images, labels, splits.

=====================  ==========================================================================
YOLO's ``data.yaml``   ``path``, ``train``, ``val`` (folders, lists of folders, or text files with
                       a path a line) and ``names``
a COCO file            its images lie beside it, in ``images``, or in the folder of their names;
                       ``*val*.json`` beside ``*train*.json`` is the other split
a folder               ``train/images`` and ``train/labelTxt``, ``val/...``; or ``images/train`` and
                       ``labels/train``; or ``images`` and ``labelTxt`` alone; labels of any format
                       that is found by its content. A ``data.yaml`` in it goes first.
=====================  ==========================================================================
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcm_d2.config.yaml_text import parse_yaml
from tcm_d2.data.conversion import read_class_names
from tcm_d2.data.dota.classes import names_in_order
from tcm_d2.data.formats.reading import image_id_of

logger = logging.getLogger(__name__)

TRAIN, VAL = "train", "val"
_VAL_WORDS = ("val", "valid", "validation")
_YAML_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_LABEL_FOLDERS = ("labelTxt", "labels", "annotations", "Annotations")
_YAML_SUFFIXES = (".yaml", ".yml")
_FORMS = (
    "expected YOLO's data.yaml, a COCO file (.json), or a folder with train/images and "
    "train/labelTxt (docs/own_data.md)"
)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """A folder of images and where their labels are.

    Attributes:
        image_dir: the images, not those in folders of it.
        annotations: a file or a folder of files.
        image_ids: only these images count; None for all.
        unlabelled_are_empty: an image without label file has no objects, as YOLO has it; else it
            is an error.
    """

    image_dir: Path
    annotations: Path
    image_ids: frozenset[str] | None = None
    unlabelled_are_empty: bool = False


@dataclass(frozen=True, kw_only=True)
class DataDescription:
    """A data set as its file or folder describes it; nothing but that has been read.

    Attributes:
        path: the file or folder.
        classes: names in label order; None takes those that occur.
        splits: sources by "train" and, where there is one, "val".
    """

    path: Path
    classes: tuple[str, ...] | None
    splits: Mapping[str, tuple[LabelledImages, ...]]


def read_description(
    path: str | os.PathLike[str], *, classes: Sequence[str] | None = None
) -> DataDescription:
    """Return what a file or folder says about a data set.

    Args:
        path: see the module.
        classes: names in label order, where the file has none or others are meant.

    Raises:
        FileNotFoundError: the file, or a folder that it names, is not there.
        ValueError: it is of no kind known here, or cannot be used; says what was expected.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"--data '{path}': no such file or folder; {_FORMS}")
    if path.is_dir():
        described = [path / name for name in _YAML_NAMES if (path / name).is_file()]
        if not described:
            given = None if classes is None else tuple(classes)
            return DataDescription(path=path, classes=given, splits=_folder_splits(path))
        path = described[0]
    if path.suffix.lower() in _YAML_SUFFIXES:
        return _read_yaml(path, classes)
    if path.suffix.lower() == ".json":
        given = None if classes is None else tuple(classes)
        return DataDescription(path=path, classes=given, splits=_coco_splits(path))
    raise ValueError(f"--data '{path}': {_FORMS}, got a file {path.suffix or 'without suffix'}")


def _read_yaml(path: Path, classes: Sequence[str] | None) -> DataDescription:
    names = classes or names_in_order(read_class_names(path), where=os.fspath(path))
    content: Mapping[str, Any] = parse_yaml(path.read_text(encoding="utf-8"), os.fspath(path))
    root = path.parent
    if content.get("path"):
        named = Path(str(content["path"])).expanduser()
        root = next((p for p in (root / named, named) if p.is_dir()), None) or root / named
    splits = {}
    for split, words in ((TRAIN, (TRAIN,)), (VAL, _VAL_WORDS)):
        entries = next((content[word] for word in words if content.get(word)), None)
        if entries is None:
            continue
        entries = entries if isinstance(entries, list) else [entries]
        where = f"{path}: {split}"
        sources = [s for entry in entries for s in _yolo_sources(root, str(entry), where)]
        splits[split] = tuple(sources)
    if TRAIN not in splits:
        raise ValueError(f"{path}: expected 'train', a folder of images, got none")
    if content.get("test"):
        logger.info("%s: 'test' is not used; to evaluate on it, name it as 'val'", path)
    return DataDescription(path=path, classes=tuple(names), splits=splits)


def _yolo_sources(root: Path, entry: str, where: str) -> list[LabelledImages]:
    # Exports of Roboflow write "../train/images" and mean "train/images".
    candidates = [root / entry, root / entry.removeprefix("../")]
    found = next((path for path in candidates if path.exists()), None)
    if found is None:
        raise FileNotFoundError(f"{where}: '{root / entry}': no such file or folder")
    if found.is_dir():
        return [_beside(found / "images" if (found / "images").is_dir() else found, where)]
    if found.suffix.lower() != ".txt":
        raise ValueError(f"{where}: expected a folder or a .txt with paths, got '{found}'")
    ids: dict[Path, set[str]] = defaultdict(set)
    for line in found.read_text(encoding="utf-8").splitlines():
        if name := line.strip():
            image = next((p / name for p in (root, found.parent) if (p / name).is_file()), None)
            if image is None:
                raise FileNotFoundError(f"{found}: image '{name}' not found below '{root}'")
            ids[image.parent.resolve()].add(image.stem)
    return [_beside(folder, where, frozenset(names)) for folder, names in sorted(ids.items())]


def _beside(image_dir: Path, where: str, ids: frozenset[str] | None = None) -> LabelledImages:
    """Return a folder of images with its labels: ``images`` in its path is ``labels`` in theirs."""
    parts = list(image_dir.parts)
    folders = [image_dir]
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        folders = [Path(*parts[:last], name, *parts[last + 1 :]) for name in _LABEL_FOLDERS]
    else:
        folders = [*(image_dir / name for name in _LABEL_FOLDERS), image_dir]
    labels = next((folder for folder in folders if folder.is_dir()), None)
    if labels is None:
        tried = ", ".join(f"'{folder}'" for folder in folders[:2])
        raise FileNotFoundError(f"{where}: no labels of '{image_dir}': looked for {tried}")
    return LabelledImages(
        image_dir=image_dir, annotations=labels, image_ids=ids, unlabelled_are_empty=True
    )


def _folder_splits(root: Path) -> dict[str, tuple[LabelledImages, ...]]:
    splits = {}
    for split, words in ((TRAIN, (TRAIN,)), (VAL, _VAL_WORDS)):
        places = [place for word in words for place in _places(root, word)]
        found = next((p for p in places if p[0].is_dir() and p[1].exists()), None)
        if found is not None:
            splits[split] = (LabelledImages(image_dir=found[0], annotations=found[1]),)
    if TRAIN not in splits:
        alone = [(root / "images", root / name) for name in _LABEL_FOLDERS]
        found = next((p for p in alone if p[0].is_dir() and p[1].exists()), None)
        if found is None:
            raise ValueError(f"--data '{root}': {_FORMS}, got a folder with neither")
        splits[TRAIN] = (LabelledImages(image_dir=found[0], annotations=found[1]),)
    return splits


def _places(root: Path, split: str) -> list[tuple[Path, Path]]:
    inside = [(root / split / "images", root / split / name) for name in _LABEL_FOLDERS]
    across = [(root / "images" / split, root / name / split) for name in _LABEL_FOLDERS]
    return [*inside, *across]


def _coco_splits(path: Path) -> dict[str, tuple[LabelledImages, ...]]:
    splits = {TRAIN: _coco_sources(path)}
    others = [path.with_name(path.name.replace(TRAIN, word)) for word in _VAL_WORDS]
    for other in others:
        if other != path and other.is_file():
            splits[VAL] = _coco_sources(other)
            break
    return splits


def _coco_sources(path: Path) -> tuple[LabelledImages, ...]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        names = [str(item["file_name"]).replace("\\", "/") for item in tree["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a COCO file with 'images' and their 'file_name', got {error!r}"
        ) from None
    if not names:
        raise ValueError(f"{path}: expected images, got none")
    word = path.stem.removeprefix("instances_")
    roots = [path.parent, path.parent / "images", path.parent / word]
    roots += [path.parent.parent / "images", path.parent.parent / word]
    roots += [path.parent.parent / "images" / word]
    root = next((folder for folder in roots if (folder / names[0]).is_file()), None)
    if root is None:
        tried = ", ".join(f"'{folder}'" for folder in roots)
        raise FileNotFoundError(f"{path}: image '{names[0]}' not found in {tried}")
    ids: dict[Path, set[str]] = defaultdict(set)
    for name in names:
        ids[(root / name).parent].add(image_id_of(name.rpartition("/")[2]))
    return tuple(
        LabelledImages(image_dir=folder, annotations=path, image_ids=frozenset(found))
        for folder, found in sorted(ids.items())
    )
