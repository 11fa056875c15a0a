"""Convert annotations of other data sets and tools to DOTA's label files."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tcm_d2.data.annotation_files import (
    read_coco,
    read_dior_xml,
    read_hrsc_xml,
    read_icdar_txt,
    read_rolabelimg_xml,
    read_ucas_txt,
    read_yolo_obb,
)
from tcm_d2.data.dota.labels import DotaLabel, write_label
from tcm_d2.data.images import list_images, read_image_size_hw

logger = logging.getLogger(__name__)

FORMATS: tuple[str, ...] = ("coco", "yolo-obb", "rolabelimg", "dior", "hrsc", "ucas", "icdar")
_XML_READERS: dict[str, Callable[[Path], DotaLabel]] = {
    "rolabelimg": read_rolabelimg_xml,
    "dior": read_dior_xml,
    "hrsc": read_hrsc_xml,
}


@dataclass
class ConversionSummary:
    """What a conversion wrote.

    Attributes:
        num_files, num_objects: label files, and objects in them.
        class_counts: objects by class name.
        num_left_out: objects that have no outline.
        images_without_labels: ids of images in the folder for which nothing was written.
    """

    num_files: int = 0
    num_objects: int = 0
    class_counts: Counter[str] = field(default_factory=Counter)
    num_left_out: int = 0
    images_without_labels: list[str] = field(default_factory=list)


def convert_to_dota(
    source_format: str,
    annotations: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    image_dir: str | os.PathLike[str] | None,
    classes: Sequence[str] | None,
) -> ConversionSummary:
    """Write one DOTA label file per annotated image into ``out_dir``.

    Args:
        source_format: one of `FORMATS`.
        annotations: the COCO file, or the folder with one file per image.
        image_dir: the images; YOLO-OBB needs them for their sizes. Images without annotations are
            reported.
        classes: class names in the order of YOLO-OBB's indices; for UCAS-AOD the one class of the
            folder. None elsewhere.

    Raises:
        FileNotFoundError, ValueError: missing or bad files, or arguments that do not fit; name
            what to give.
    """
    source, out = Path(annotations), Path(out_dir)
    if source_format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {source_format!r}")
    if not source.exists():
        raise FileNotFoundError(f"{source}: annotations not found")
    images = {} if image_dir is None else list_images(image_dir)
    summary = ConversionSummary()
    if source_format == "coco":
        coco = read_coco(source)
        summary.num_left_out = coco.num_left_out
        labels = {Path(name).stem: label for name, label in coco.labels.items()}
        if len(labels) != len(coco.labels):
            raise ValueError(
                f"{source}: expected file names that differ in more than folder and suffix; label "
                "files are named by the stem: rename the images"
            )
    else:
        labels = _read_folder(source_format, source, images, classes)
    out.mkdir(parents=True, exist_ok=True)
    for image_id, label in labels.items():
        write_label(out / f"{image_id}.txt", label)
        summary.num_files += 1
        summary.num_objects += len(label.objects)
        summary.class_counts.update(obj.class_name for obj in label.objects)
    summary.images_without_labels = sorted(images.keys() - labels.keys())
    return summary


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the class names in a text file (one a line) or in a YOLO ``data.yaml`` (``names``).

    Raises:
        ValueError: when there are none.
    """
    text = Path(path).read_text(encoding="utf-8-sig")
    names: object = [line.strip() for line in text.splitlines() if line.strip()]
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        content = yaml.safe_load(text)
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names)]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: expected class names (one a line, or 'names' in YAML)")
    return [str(name) for name in names]


def _read_folder(
    source_format: str, folder: Path, images: dict[str, Path], classes: Sequence[str] | None
) -> dict[str, DotaLabel]:
    suffix = ".xml" if source_format in _XML_READERS else ".txt"
    paths = sorted(p for p in folder.glob(f"*{suffix}") if not p.name.startswith("."))
    if not paths:
        raise ValueError(f"{folder}: expected {source_format} files (*{suffix}), found none")
    if source_format == "yolo-obb":
        return _read_yolo_folder(paths, images, classes)
    if source_format == "ucas" and (classes is None or len(classes) != 1):
        raise ValueError("classes: expected the one class of this UCAS-AOD folder, car or plane")
    labels = {}
    for path in paths:
        if source_format in _XML_READERS:
            labels[path.stem] = _XML_READERS[source_format](path)
        elif source_format == "ucas":
            labels[path.stem] = read_ucas_txt(path, (classes or ("",))[0])
        else:
            labels[path.stem.removeprefix("gt_")] = read_icdar_txt(path)
    return labels


def _read_yolo_folder(
    paths: Sequence[Path], images: dict[str, Path], classes: Sequence[str] | None
) -> dict[str, DotaLabel]:
    if not classes:
        raise ValueError("classes: expected all class names in the order of YOLO's indices")
    lost = [path.stem for path in paths if path.stem not in images and path.stem != "classes"]
    if lost:
        raise FileNotFoundError(
            f"{len(lost)} label files have no image ({', '.join(lost[:3])}); their corners are "
            "parts of the image's size: give the folder of the images"
        )
    return {
        path.stem: read_yolo_obb(path, classes, read_image_size_hw(images[path.stem]))
        for path in paths
        if path.stem in images
    }
