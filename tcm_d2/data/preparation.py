"""From a description of a data set to patches to train on: labels, splits, sizes, cutting.

All of it lies in a folder of the run and is used again while nothing has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tcm_d2.data.conversion import annotation_files, read_annotations
from tcm_d2.data.description import TRAIN, VAL, DataDescription, LabelledImages
from tcm_d2.data.dota.classes import ClassSpelling, describe_unknown_class
from tcm_d2.data.dota.split import SplitConfig, SplitSource, split_dataset
from tcm_d2.data.formats.contract import AUTO
from tcm_d2.data.formats.reading import AnnotatedImage, FormatMismatch, ReadOptions
from tcm_d2.data.images import list_images, read_image_size_hw
from tcm_d2.files import FolderInUseError, locked_folder, write_bytes_atomically
from tcm_d2.messages import some_names

logger = logging.getLogger(__name__)

# The published patches, which larger images are cut into.
LARGEST_PATCH_PX, SMALLEST_PATCH_PX = 1024, 64
# Overlap of patches, as a part of their side: 200 of 1024.
_GAP_FRACTION = 200 / 1024
_STRIDE_PX = 32
# Most images, or objects, decide about the size of patches; single ones do not.
_MOST_IMAGES, _MOST_OBJECTS = 90, 99
# Part of the pixels of patches that is worth a warning when it is padding.
_MUCH_PADDING = 0.5
_HELD_OUT_FRACTION = 0.1
_MARK = "prepared.json"
_LABELS = "labelTxt"


@dataclass(frozen=True)
class PreparedSplit:
    """Where the patches of a split lie, and the labels of its whole images."""

    patch_dir: Path
    label_dir: Path


@dataclass(frozen=True)
class PreparedData:
    """What a run needs to know of its data.

    Attributes:
        classes: names in label order.
        patch_size_px: side of the patches.
        splits: by "train" and "val".
    """

    classes: tuple[str, ...]
    patch_size_px: int
    splits: Mapping[str, PreparedSplit]


class _Part(NamedTuple):
    """The images of a split in one folder, with their objects."""

    source: LabelledImages
    paths: dict[str, Path]
    images: dict[str, AnnotatedImage]


def prepare_data(
    description: DataDescription,
    folder: Path,
    *,
    keep_classes: Sequence[str] | None = None,
    patch_size_px: int | None = None,
    num_workers: int = 1,
) -> PreparedData:
    """Write labels and patches of a data set into a folder, or find them there.

    Several processes may call this at the same time: one works, the others wait.

    Args:
        folder: made where missing; its own for this data set.
        keep_classes: only objects of these classes, in the order of the description.
        patch_size_px: side of the patches; None chooses it by the images and objects.
        num_workers: processes that cut.

    Raises:
        FileNotFoundError, ValueError: images or labels are missing or cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = [keep_classes, patch_size_px, description.classes]
    with _turn(folder):
        fingerprint = _fingerprint(description, settings)
        known = _read_mark(folder, fingerprint)
        if known is not None:
            logger.info(
                "data: the patches of %s in %s, %d px, are used again",
                description.path,
                folder,
                known.patch_size_px,
            )
            return known
        splits = {name: _read_split(sources, description) for name, sources in _splits(description)}
        classes = _choose_classes(description, splits[TRAIN], keep_classes)
        splits = {name: [_kept(part, classes) for part in parts] for name, parts in splits.items()}
        size_px = _choose_size(splits[TRAIN], patch_size_px)
        prepared = {}
        for name, parts in splits.items():
            prepared[name] = _cut(parts, folder / name, classes, size_px, num_workers)
        found = PreparedData(classes, size_px, prepared)
        mark = {
            "fingerprint": fingerprint,
            "classes": list(classes),
            "patch_size_px": size_px,
            "splits": {k: [str(s.patch_dir), str(s.label_dir)] for k, s in prepared.items()},
        }
        write_bytes_atomically(folder / _MARK, (json.dumps(mark, indent=1) + "\n").encode())
    return found


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Have the folder alone while the block runs; wait for another process that has it."""
    said = False
    while True:
        try:
            with locked_folder(folder, what="data"):
                yield
            return
        except FolderInUseError as error:
            if not said:
                logger.info("waiting: %s", error)
            said = True
            time.sleep(1)


def _splits(description: DataDescription) -> list[tuple[str, tuple[LabelledImages, ...]]]:
    """Return the sources of "train" and "val"; a part of the former where there is no latter."""
    splits = dict(description.splits)
    if VAL not in splits:
        kept, held = [], []
        for source in splits[TRAIN]:
            ids = sorted(_images_of(source))
            # By a hash: neighbours in the order of names show the same place.
            order = sorted(ids, key=lambda text: hashlib.sha256(text.encode()).digest())
            num = max(1, round(_HELD_OUT_FRACTION * len(order)))
            if len(order) < 2:
                raise ValueError(
                    f"{source.image_dir}: expected at least two images, one to train on and one "
                    f"to evaluate on, got {len(order)}"
                )
            held.append(replace(source, image_ids=frozenset(order[:num])))
            kept.append(replace(source, image_ids=frozenset(order[num:])))
        num = sum(len(source.image_ids or ()) for source in held)
        logger.info(
            "%s has no split to evaluate on: %d images are held out of training for it",
            description.path,
            num,
        )
        splits = {TRAIN: tuple(kept), VAL: tuple(held)}
    return list(splits.items())


def _images_of(source: LabelledImages) -> dict[str, Path]:
    paths = list_images(source.image_dir)
    if source.image_ids is None:
        return paths
    missing = sorted(source.image_ids - paths.keys())
    if missing:
        raise FileNotFoundError(
            f"{source.annotations}: {len(missing)} images are not in '{source.image_dir}': "
            f"{some_names(missing)}"
        )
    return {image_id: paths[image_id] for image_id in sorted(source.image_ids)}


def _read_split(sources: Sequence[LabelledImages], description: DataDescription) -> list[_Part]:
    parts = []
    for source in sources:
        paths = _images_of(source)
        if not paths:
            raise ValueError(f"{source.image_dir}: expected images, found none")
        names = None if description.classes is None else dict(enumerate(description.classes))
        options = ReadOptions(classes=names, image_paths=list_images(source.image_dir))
        try:
            reading = read_annotations(source.annotations, AUTO, options)
        except FormatMismatch as error:
            raise ValueError(
                f"{error}. --data finds formats by their content (YOLO's upright boxes, five "
                "numbers a line, have no angle and are none of them); tcm-d2 convert-annotations "
                "--format NAME writes labels that it finds"
            ) from None
        for text in (reading.summary.left_out.summary(), reading.summary.repaired.summary()):
            if text:
                logger.warning("%s: left out or repaired: %s", source.annotations, text)
        images = {key: reading.images[key] for key in paths if key in reading.images}
        bare = sorted(paths.keys() - images.keys())
        if bare and not source.unlabelled_are_empty:
            raise ValueError(
                f"{source.image_dir}: {len(bare)} of {len(paths)} images have no labels in "
                f"'{source.annotations}': {some_names(bare)}; an image without objects needs an "
                "empty label file"
            )
        if bare:
            logger.info(
                "%s: %d images without labels are taken as empty", source.image_dir, len(bare)
            )
        images |= {key: AnnotatedImage(key) for key in bare}
        parts.append(_Part(source, paths, images))
    return parts


def _choose_classes(
    description: DataDescription, parts: Sequence[_Part], keep: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the classes as label files write them."""
    occurring = {o.class_name for part in parts for i in part.images.values() for o in i.objects}
    if description.classes is None:
        classes = tuple(sorted(occurring))
        if not classes:
            raise ValueError(f"{description.path}: expected objects in the labels, found none")
        logger.info(
            "%s names no classes: those that occur are taken, in the order of the alphabet: %s",
            description.path,
            ", ".join(classes),
        )
    else:
        classes = tuple("-".join(name.split()) for name in description.classes)
    if keep is None:
        return classes
    spelling = ClassSpelling(classes)
    wanted = [spelling.find(name) for name in keep]
    for name, found in zip(keep, wanted):
        if found is None:
            raise ValueError(f"--keep-classes: {describe_unknown_class(name, classes)}")
    return tuple(name for name in classes if name in wanted)


def _kept(part: _Part, classes: Sequence[str]) -> _Part:
    """Return the part with objects of these classes only, and say what is left out."""
    spelling, dropped = ClassSpelling(classes), Counter[str]()
    images = {}
    for image_id, image in part.images.items():
        objects = [o for o in image.objects if spelling.find(o.class_name) is not None]
        dropped.update(o.class_name for o in image.objects if spelling.find(o.class_name) is None)
        images[image_id] = replace(image, objects=objects)
    if dropped:
        counts = ", ".join(f"{num} {name}" for name, num in dropped.most_common())
        logger.info("%s: left out, of other classes: %s", part.source.annotations, counts)
    return part._replace(images=images)


def _choose_size(parts: Sequence[_Part], wanted_px: int | None) -> int:
    """Return the side of the patches, and say what follows from it."""
    sizes_hw = np.array([read_image_size_hw(p) for part in parts for p in part.paths.values()])
    quads = [o.quad for part in parts for image in part.images.values() for o in image.objects]
    corners = np.array(quads, dtype=np.float64).reshape(-1, 4, 2)
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)  # (M, 4)
    lengths = sides.max(axis=1, initial=0.0)
    most_images = float(np.percentile(sizes_hw.max(axis=1), _MOST_IMAGES))
    most_objects = float(np.percentile(lengths, _MOST_OBJECTS)) if len(lengths) else 0.0
    if wanted_px is None:
        size_px = math.ceil(max(most_images, most_objects) / _STRIDE_PX) * _STRIDE_PX
        size_px = min(max(size_px, SMALLEST_PATCH_PX), LARGEST_PATCH_PX)
    else:
        size_px = wanted_px
    padding = 1 - float((np.minimum(sizes_hw, size_px).prod(axis=1) / size_px**2).mean())
    logger.info(
        "patches of %d px (--patch-size): most images have sides up to %.0f px, most objects are "
        "up to %.0f px long; %.0f%% of the patches is padding%s",
        size_px,
        most_images,
        most_objects,
        100 * padding,
        ": smaller patches cost less" if padding > _MUCH_PADDING else "",
    )
    num_long = int((lengths > size_px).sum())
    if num_long:
        logger.warning(
            "%d of %d objects are longer than a patch of %d px, the longest %.0f px: they are only "
            "ever seen in pieces; choose a larger --patch-size, or shrink the images",
            num_long,
            len(lengths),
            size_px,
            lengths.max(),
        )
    return size_px


def _cut(
    parts: Sequence[_Part], folder: Path, classes: Sequence[str], size_px: int, num_workers: int
) -> PreparedSplit:
    """Write the labels of whole images and the patches; what has not changed stays."""
    label_dir, patch_dir = folder / _LABELS, folder / f"patches_{size_px}"
    wanted: dict[str, bytes] = {}
    for part in parts:
        images = list(part.images.values())
        files = annotation_files(images, "dota", classes=classes, image_paths=part.paths)
        twice = sorted(files.keys() & wanted.keys())
        if twice:
            raise ValueError(
                f"{part.source.image_dir}: images of these names are in another folder of the "
                f"split too: {some_names([Path(name).stem for name in twice])}; rename them"
            )
        wanted |= files
    gone = {p.name for p in label_dir.glob("*.txt")} - wanted.keys()
    if gone:
        logger.warning("%s: %d images are gone: it is made again", folder, len(gone))
        shutil.rmtree(folder)
    for name, content in wanted.items():
        path = label_dir / name
        # Patches of images whose label file is not touched are not cut again.
        if not path.is_file() or path.read_bytes() != content:
            write_bytes_atomically(path, content)
    split_dataset(
        [SplitSource(p.source.image_dir, label_dir, frozenset(p.paths)) for p in parts],
        patch_dir,
        config=SplitConfig(patch_size_px=size_px, gap_px=round(size_px * _GAP_FRACTION)),
        classes=classes,
        num_workers=num_workers,
    )
    return PreparedSplit(patch_dir, label_dir)


def _fingerprint(description: DataDescription, settings: Sequence[object]) -> str:
    """Return what changes when an image, a label file or a setting does."""
    facts: list[object] = [list(settings)]
    for split, sources in sorted(description.splits.items()):
        for source in sources:
            ids = None if source.image_ids is None else sorted(source.image_ids)
            facts.append([split, str(source.image_dir), str(source.annotations), ids])
            folder = source.annotations
            labels = sorted(folder.iterdir()) if folder.is_dir() else [folder]
            for path in [*list_images(source.image_dir).values(), *labels]:
                state = path.stat()
                facts.append([str(path), state.st_size, state.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read_mark(folder: Path, fingerprint: str) -> PreparedData | None:
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        if mark["fingerprint"] != fingerprint:
            return None
        splits = {k: PreparedSplit(Path(a), Path(b)) for k, (a, b) in mark["splits"].items()}
        found = PreparedData(tuple(mark["classes"]), int(mark["patch_size_px"]), splits)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_whole = all((s.patch_dir / "manifest.jsonl").is_file() for s in splits.values())
    return found if is_whole else None
