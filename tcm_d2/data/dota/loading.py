"""Load patches or whole images with their labels as Detectron2 dicts.

Every dict has ``file_name, image_id, height, width, source_image_id, patch_origin_xy, patch_scale``
and, where labels are known, ``annotations``: a list of ``{"quad": [[x, y], ...] (4 corners, pixels
of the file), "category_id": int, "difficult": int}``. A patch pixel lies in the source image at
``(patch_xy + patch_origin_xy) / patch_scale``.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from detectron2.structures import BoxMode
from tqdm import tqdm

from tcm_d2.data.annotations import whole_image_keys
from tcm_d2.data.dota.labels import DotaLabel, LabelProblems, OnError, list_labels, read_label
from tcm_d2.data.dota.manifest import (
    IMAGE_FOLDER,
    LABEL_FOLDER,
    MANIFEST_NAME,
    PatchRecord,
    read_manifest,
)
from tcm_d2.data.images import list_images, read_head, read_image_size_hw
from tcm_d2.data.raster_reader.orientation import UPRIGHT, describe_orientations
from tcm_d2.structures.conversions import quads_to_boxes

logger = logging.getLogger(__name__)

# What the middle field of a patch's name means when there is no manifest: the side of the window in
# source pixels (mmrotate) or the factor by which the image was resized (DOTA's own tools).
PatchNames = Literal["window", "rate"]

_PATCH_NAME = re.compile(r"^(.+)__(\d+(?:\.\d+)?)__(-?\d+)___(-?\d+)$")
_SECONDS_BEFORE_PROGRESS = 5.0
_NUM_EXAMPLES = 3


def load_dota_split(
    patch_dir: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    has_labels: bool | None = None,
    drop_empty: bool = False,
    on_error: OnError = "raise",
    patch_names: PatchNames | None = None,
) -> list[dict[str, Any]]:
    """Load the patches in a folder that ``tcm-d2 split`` made.

    Args:
        patch_dir: holds ``images/``, ``labelTxt/`` and ``manifest.jsonl``.
        classes: class names; an annotation's category_id is the index into them.
        has_labels: None looks whether there is a ``labelTxt`` folder.
        drop_empty: leave out patches without objects (only with labels).
        on_error: bad label lines, see `read_label`.
        patch_names: for patches of another tool, without manifest: how to read origin and scale
            out of their names.

    Raises:
        FileNotFoundError: when the folder, its manifest or a patch's files are missing; says what
            was expected and the command that makes it.
        ValueError: no patches, bad labels, or names that do not fit ``patch_names``.
    """
    patch_dir = Path(patch_dir)
    image_dir, label_dir = patch_dir / IMAGE_FOLDER, patch_dir / LABEL_FOLDER
    if not image_dir.is_dir():
        raise FileNotFoundError(_missing_split(patch_dir, IMAGE_FOLDER))
    if patch_names is not None:
        records = [_record_from_name(path, patch_names) for path in list_images(image_dir).values()]
    elif (patch_dir / MANIFEST_NAME).is_file():
        records = read_manifest(patch_dir / MANIFEST_NAME)
    else:
        raise FileNotFoundError(
            f"{_missing_split(patch_dir, MANIFEST_NAME)} (it also finishes an interrupted split); "
            "for patches of another tool, register them with patch_names='window' or 'rate'"
        )
    if not records:
        raise ValueError(f"{patch_dir}: expected patches, got an empty data set; split again")
    present = set(os.listdir(image_dir))
    lost = [rec.file_name for rec in records if Path(rec.file_name).name not in present]
    if lost:
        raise FileNotFoundError(
            f"{patch_dir}: {len(lost)} of {len(records)} patches of the manifest are missing "
            f"({', '.join(lost[:_NUM_EXAMPLES])}); run the same tcm-d2 split command again"
        )
    if has_labels is None:
        has_labels = label_dir.is_dir()
    elif has_labels and not label_dir.is_dir():
        raise FileNotFoundError(_missing_split(patch_dir, LABEL_FOLDER))
    reader = _AnnotationReader(classes, on_error)
    dicts = []
    for record in _with_progress(records, f"labels of {patch_dir}"):
        item: dict[str, Any] = {
            "file_name": str(patch_dir / record.file_name),
            "image_id": record.patch_id,
            "height": record.height,
            "width": record.width,
            "source_image_id": record.image_id,
            "patch_origin_xy": (record.x0, record.y0),
            "patch_scale": record.scale,
        }
        if has_labels:
            item["annotations"] = reader.read(label_dir / f"{record.patch_id}.txt")
        if item.get("annotations") or not (has_labels and drop_empty):
            dicts.append(item)
    reader.report(str(patch_dir), len(dicts), "patches")
    if not dicts:
        raise ValueError(f"{patch_dir}: none of its {len(records)} patches holds an object")
    return dicts


def load_dota_images(
    image_dir: str | os.PathLike[str],
    label_dir: str | os.PathLike[str] | None,
    classes: Sequence[str],
    *,
    on_error: OnError = "raise",
    on_missing: Literal["raise", "skip"] = "raise",
) -> list[dict[str, Any]]:
    """Load whole images; ``label_dir`` None for images without labels.

    Args:
        on_missing: "raise" or "skip" (counted) images without label and labels without image.

    Raises:
        FileNotFoundError, ValueError: missing folders, no images, unmatched files, bad
            labels, files that are no images.
    """
    images = list_images(image_dir)
    if not images:
        raise ValueError(f"image folder {image_dir}: expected images, got an empty data set")
    labels = None if label_dir is None else list_labels(label_dir)
    if labels is not None:
        _check_partners(images, labels, image_dir, on_missing)
        images = {image_id: path for image_id, path in images.items() if image_id in labels}
    reader = _AnnotationReader(classes, on_error)
    dicts, turned = [], _TurnedImages()
    for image_id, path in _with_progress(list(images.items()), f"images of {image_dir}"):
        item = _image_dict(image_id, path, turned)
        if labels is not None:
            item["annotations"] = reader.read(labels[image_id])
        dicts.append(item)
    if not dicts:
        raise ValueError(f"{image_dir}: expected images with labels, got an empty data set")
    turned.report(str(image_dir))
    reader.report(str(image_dir), len(dicts), "images")
    return dicts


def load_labelled_images(
    items: Sequence[tuple[str, Path, DotaLabel | None]], classes: Sequence[str], *, where: str
) -> list[dict[str, Any]]:
    """Return the dicts of whole images whose labels are read already.

    Args:
        items: image id, image file, and the label (None: the image has none).
        classes: class names; an annotation's category_id is the index into them.
        where: for the log.

    Raises:
        FileNotFoundError, ValueError: files that are missing or no images.
    """
    ids = {name: index for index, name in enumerate(classes)}
    dicts: list[dict[str, Any]] = []
    turned = _TurnedImages()
    for image_id, path, label in _with_progress(list(items), f"images of {where}"):
        dicts.append(_image_dict(image_id, path, turned))
        if label is not None:
            dicts[-1]["annotations"] = _to_annotations(label, ids)
    turned.report(where)
    num_objects = sum(len(item.get("annotations", ())) for item in dicts)
    logger.info("%s: %d images, %d objects", where, len(dicts), num_objects)
    return dicts


class _TurnedImages(list[str]):
    """Names of the images that a viewer would turn, for one line in the log."""

    def report(self, where: str) -> None:
        if self:
            logger.warning("%s: %s", where, describe_orientations(self))


def _image_dict(image_id: str, path: Path, turned: _TurnedImages) -> dict[str, Any]:
    (height, width), orientation = read_head(path)
    if orientation != UPRIGHT:
        turned.append(path.name)
    return {
        "file_name": str(path),
        "image_id": image_id,
        "height": height,
        "width": width,
        **whole_image_keys(image_id),
    }


def _to_annotations(label: DotaLabel, category_ids: dict[str, int]) -> list[dict[str, Any]]:
    """Return the annotations of a label; the boxes are for Detectron2's own tools."""
    quads = np.array([obj.quad for obj in label.objects], dtype=np.float64).reshape(-1, 4, 2)
    return [
        {
            "quad": [list(obj.quad[i : i + 2]) for i in (0, 2, 4, 6)],
            "bbox": box,
            "bbox_mode": BoxMode.XYWHA_ABS,
            "category_id": category_ids[obj.class_name],
            "difficult": obj.difficult,
        }
        for obj, box in zip(label.objects, quads_to_boxes(quads).tolist(), strict=True)
    ]


class _AnnotationReader:
    """Reads label files into annotation dicts and keeps the counts for one closing line."""

    def __init__(self, classes: Sequence[str], on_error: OnError) -> None:
        self._classes = tuple(classes)
        self._category_ids = {name: index for index, name in enumerate(self._classes)}
        self._on_error = on_error
        self._problems = LabelProblems()
        self._num_objects = 0
        self._start = time.perf_counter()

    def read(self, path: Path) -> list[dict[str, Any]]:
        """Return the annotations of one file."""
        try:
            label = read_label(
                path, classes=self._classes, on_error=self._on_error, problems=self._problems
            )
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: label file not found although the image is there; run the same "
                "tcm-d2 split command again, or register the images without labels"
            ) from None
        self._num_objects += len(label.objects)
        return _to_annotations(label, self._category_ids)

    def report(self, where: str, num_items: int, noun: str) -> None:
        """Log what was read, and once what was left out."""
        seconds = time.perf_counter() - self._start
        logger.info(
            "%s: %d %s, %d objects (%.1f s)", where, num_items, noun, self._num_objects, seconds
        )
        if self._problems.counts:
            logger.warning(
                "%s: label lines left out or repaired: %s", where, self._problems.summary()
            )


def _record_from_name(path: Path, patch_names: PatchNames) -> PatchRecord:
    match = _PATCH_NAME.match(path.stem)
    if match is None:
        raise ValueError(
            f"{path}: expected a patch name like P0000__1024__824___0, got {path.stem!r}; register "
            "whole images with register_dota_images"
        )
    image_id, middle, x, y = match.groups()
    height, width = read_image_size_hw(path)
    if patch_names == "rate":
        scale, x0, y0 = float(middle), float(x), float(y)
    elif patch_names == "window":
        scale = width / float(middle)
        x0, y0 = int(x) * scale, int(y) * scale
    else:
        raise ValueError(f"patch_names: expected 'window', 'rate' or None, got {patch_names!r}")
    file_name = f"{IMAGE_FOLDER}/{path.name}"
    return PatchRecord(path.stem, file_name, image_id, x0, y0, width, height, scale, -1)


def _check_partners(
    images: dict[str, Path],
    labels: dict[str, Path],
    image_dir: str | os.PathLike[str],
    on_missing: Literal["raise", "skip"],
) -> None:
    for reason, ids in (
        ("image without label", sorted(images.keys() - labels.keys())),
        ("label without image", sorted(labels.keys() - images.keys())),
    ):
        if not ids:
            continue
        message = f"{image_dir}: {len(ids)} x {reason} ({', '.join(ids[:_NUM_EXAMPLES])})"
        if on_missing == "raise":
            raise ValueError(
                f"{message}; expected pairs of the same name: add the files, or leave these out "
                "with on_missing='skip'"
            )
        logger.warning("left out: %s", message)


def _missing_split(patch_dir: Path, missing: str) -> str:
    return (
        f"{patch_dir}: expected a split data set ({IMAGE_FOLDER}/, {LABEL_FOLDER}/, "
        f"{MANIFEST_NAME}), found no {missing}; make it with: tcm-d2 split "
        f"--images IMAGES --labels LABELS --output {patch_dir} (datasets/README.md shows the "
        "whole tree; the environment variable DETECTRON2_DATASETS says where it starts)"
    )


def _with_progress(items: Sequence[Any], description: str) -> Any:
    return tqdm(items, desc=description, delay=_SECONDS_BEFORE_PROGRESS, leave=False)
