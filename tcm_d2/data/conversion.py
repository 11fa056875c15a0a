"""Convert annotations of other data sets and tools to DOTA's label files, and back to tools."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent
from tcm_d2.data.formats.contract import (
    AUTO,
    AnnotationFormat,
    all_formats,
    check_format,
    check_written,
    detect_format,
    files_of_format,
    get_format,
)
from tcm_d2.data.formats.frames import in_upright_frame, move_to_stored_frame
from tcm_d2.data.formats.reading import (
    AnnotatedImage,
    FormatMismatch,
    Reading,
    ReadOptions,
    ReadSummary,
)
from tcm_d2.data.images import list_images, read_image_size_hw
from tcm_d2.files import joined_path, write_bytes_atomically
from tcm_d2.messages import some_names

TARGET_FORMAT = "dota"
# Lists of class names that tools put among the labels.
_CLASS_LISTS = ("classes.txt", "labels.txt", "notes.json")


@dataclass
class ConversionSummary:
    """What a conversion read and wrote.

    Attributes:
        read: objects read, turned, upright, difficult, left out and why.
        num_images: annotated images.
        num_files: files written.
        images_without_labels: ids of images in the folder without annotations.
        labels_without_image: ids of annotated images that are not in the folder.
    """

    read: ReadSummary = field(default_factory=ReadSummary)
    num_images: int = 0
    num_files: int = 0
    images_without_labels: list[str] = field(default_factory=list)
    labels_without_image: list[str] = field(default_factory=list)


def convert_annotations(
    annotations: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    source_format: str = AUTO,
    target_format: str = TARGET_FORMAT,
    image_dir: str | os.PathLike[str] | None = None,
    options: ReadOptions | None = None,
) -> ConversionSummary:
    """Read annotations of one format and write them in another.

    Args:
        annotations: a file, or a folder of files.
        out_dir: for the files written: one label file an image for DOTA.
        source_format: a name of `all_formats`, or "auto" to find it by each file's content.
        target_format: a format that is written.
        image_dir: the images, for formats that need their sizes; images without annotations are
            reported.
        options: see `ReadOptions`; its ``image_paths`` come from ``image_dir``.

    Raises:
        FileNotFoundError, ValueError: missing or bad files, or arguments that do not fit; name the
            file, the place in it, and what to do.
    """
    source = Path(annotations)
    check_written(target_format)
    images = {} if image_dir is None else list_images(image_dir)
    reading = read_annotations(
        source, source_format, replace(options or ReadOptions(), image_paths=images)
    )
    summary = ConversionSummary(read=reading.summary, num_images=len(reading.images))
    summary.num_files = write_annotations(
        list(reading.images.values()),
        out_dir,
        target_format,
        classes=_class_order(reading),
        image_paths=images,
    )
    if images:
        summary.images_without_labels = sorted(images.keys() - reading.images.keys())
        summary.labels_without_image = sorted(reading.images.keys() - images.keys())
    return summary


def write_annotations(
    images: Sequence[AnnotatedImage],
    out_dir: str | os.PathLike[str],
    target_format: str,
    *,
    classes: Sequence[str],
    image_paths: Mapping[str, Path],
) -> int:
    """Write annotations in the frame of the stored pixels in a format; return the number of files.

    Args and errors are those of `annotation_files`.
    """
    files = annotation_files(images, target_format, classes=classes, image_paths=image_paths)
    for name, content in files.items():
        write_bytes_atomically(joined_path(out_dir, name), content)
    return len(files)


def annotation_files(
    images: Sequence[AnnotatedImage],
    target_format: str,
    *,
    classes: Sequence[str],
    image_paths: Mapping[str, Path],
) -> dict[str, bytes]:
    """Return the files, by name, that hold annotations in the frame of the stored pixels.

    Args:
        images: with ``file_name`` and ``size_hw`` where ``image_paths`` lacks them.
        classes: all class names, in the order of their indices.
        image_paths: image files by id; tools get names, sizes and EXIF's orientation from them.

    Raises:
        ValueError: a format that is not written, or an image of which name or size is not known.
    """
    target = get_format(target_format)
    if target_format != TARGET_FORMAT:
        images = [_complete(image, image_paths, target) for image in images]
    return target.write(images, classes)


def read_annotations(
    source: str | os.PathLike[str], source_format: str, options: ReadOptions
) -> Reading:
    """Read a file or a folder of files; see `convert_annotations`.

    Raises:
        FileNotFoundError, ValueError: see `convert_annotations`.
    """
    source = Path(source)
    wanted = None if source_format == AUTO else get_format(source_format)
    paths = _files(source, wanted)
    reading = Reading(options)
    unknown = []
    for path in paths:
        with reading.item(str(path)):
            content = FileContent(path)
            if wanted is not None:
                check_format(content, wanted)
            own = wanted or detect_format(content)
            if own is None:
                unknown.append(content)
            else:
                _read_file(content, own, reading)
    for content in unknown:
        with reading.item(str(content.path)):
            _read_without_objects(content, reading)
    if not reading.images:
        left = reading.summary.left_out.summary()
        raise ValueError(
            f"{source}: expected annotations of images, found none that can be used"
            + (f": {left}" if left else "; known formats: " + ", ".join(all_formats()))
        )
    return reading


def read_class_names(path: str | os.PathLike[str]) -> dict[int, str]:
    """Return the class names by index in a text file (one a line) or a YOLO ``data.yaml``.

    In YAML the index of a class is its key in ``names``, or its place in a list.

    Raises:
        ValueError: there are none, keys that are no indices, or blank lines between names, which
            leave open what the later indices are.
    """
    text = FileContent(path).text
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        return _names_in_yaml(path, text)
    lines = [line.strip() for line in text.rstrip().splitlines()]
    blank = [number for number, line in enumerate(lines, start=1) if not line]
    if blank or not lines:
        found = f"a blank line ({blank[0]})" if blank else "nothing"
        raise ValueError(
            f"{path}: expected class names, one a line, got {found}; an index is the number of its "
            "line, counted from 0: delete blank lines, or name the indices in a data.yaml"
        )
    return dict(enumerate(lines))


def _names_in_yaml(path: str | os.PathLike[str], text: str) -> dict[int, str]:
    try:
        content: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: expected YAML: {str(error).splitlines()[0]}") from None
    names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names:
        raise ValueError(f"{path}: expected class names (one a line, or 'names' in YAML)")
    found: dict[int, str] = {}
    for key, name in names.items():
        index = str(key)
        if not index.isdecimal() or isinstance(name, (dict, list)) or name is None:
            raise ValueError(
                f"{path}: names: expected an index and a name, got {str(key)!r}: {str(name)[:40]!r}"
            )
        if int(index) in found:
            raise ValueError(f"{path}: names: index {index} is there twice")
        found[int(index)] = str(name)
    return found


def _files(source: Path, wanted: AnnotationFormat | None) -> list[Path]:
    if not source.exists():
        raise FileNotFoundError(f"{source}: annotations not found")
    if not source.is_dir():
        return [source]
    formats = [wanted] if wanted is not None else list(all_formats().values())
    suffixes = sorted({suffix for item in formats for suffix in item.suffixes})
    paths = [p for p in files_of_format(source, suffixes) if p.name.lower() not in _CLASS_LISTS]
    if not paths:
        name = "annotation" if wanted is None else wanted.name
        raise ValueError(
            f"{source}: expected {name} files ({', '.join(f'*{s}' for s in suffixes)}), found none"
        )
    return paths


def _read_file(content: FileContent, own: AnnotationFormat, reading: Reading) -> None:
    known = set(reading.images)
    try:
        own.read(content, reading)
    except ValueError:
        # Half an image is none.
        for image_id in reading.images.keys() - known:
            del reading.images[image_id]
        raise
    if own.shows_upright:
        move_to_stored_frame(reading, reading.images.keys() - known)
    if content.encoding not in ("utf-8", "utf-16-le", "utf-16-be"):
        reading.repair("text in another encoding", f"{content.path}: read as {content.encoding}")
    reading.summary.formats[own.name] += 1


def _read_without_objects(content: FileContent, reading: Reading) -> None:
    """Read a file in which nothing speaks for a format: as the others, or not at all."""
    formats = reading.summary.formats
    root = content.xml
    is_empty = not content.rows or (root is not None and root.find("object") is None)
    if not formats or not is_empty:
        names = ", ".join(all_formats())
        raise (LabelError if formats else FormatMismatch)(
            f"expected a file of a known format, got one that looks like none; say with --format "
            f"which it is: {names}",
            "unknown format",
        )
    (name, _), *_ = formats.most_common(1)
    _read_file(content, get_format(name), reading)


def _complete(
    image: AnnotatedImage, images: Mapping[str, Path], target: AnnotationFormat
) -> AnnotatedImage:
    """Return the image with the name and the size that tools need, in the frame they show."""
    path = images.get(image.image_id)
    name = path.name if path is not None else image.file_name.replace("\\", "/")
    size_hw = read_image_size_hw(path) if path is not None else image.size_hw
    if size_hw is None or not name:
        raise ValueError(
            f"{image.source}: image {image.image_id!r}: its file name and size are not known; give "
            "the folder of the images (--images)"
        )
    image = replace(image, file_name=name.rpartition("/")[2], size_hw=size_hw)
    return in_upright_frame(image, path) if path is not None and target.shows_upright else image


def _class_order(reading: Reading) -> list[str]:
    given: Sequence[str] = list((reading.options.classes or {}).values())
    words = ["-".join(name.split()) for name in given]
    others = sorted(reading.summary.class_counts.keys() - set(words))
    return [*dict.fromkeys(words), *others]


def describe_conversion(summary: ConversionSummary, out: Path) -> str:
    """Return what was read, kept, changed and left out, in a few lines."""
    read = summary.read
    formats = ", ".join(f"{count} x {name}" for name, count in read.formats.items())
    lines = [
        f"read: {formats} files, {summary.num_images} images, {read.num_objects} objects",
        f"  turned: {read.kinds['turned']}, upright (no angle in the file): "
        f"{read.kinds['upright']}, rectangles fitted to polygons or masks: {read.kinds['fitted']}, "
        f"difficult: {read.num_difficult}",
    ]
    lines += [f"  {name}: {count}" for name, count in read.class_counts.most_common()]
    for name, word in read.renamed.items():
        lines.append(f"class {name!r} is written {word!r}")
    for verb, problems in (("repaired", read.repaired), ("left out", read.left_out)):
        for kind, count in problems.counts.most_common():
            lines.append(f"{verb}: {count} x {kind}")
        lines += [f"    {example}" for example in problems.examples]
    if read.turned_images:
        lines.append(
            f"{len(read.turned_images)} images have an EXIF orientation: their labels were made on "
            "the picture as it is shown, and are turned into the frame of the stored pixels "
            f"({some_names(read.turned_images, num=3)})"
        )
    lines.append(f"wrote {summary.num_files} files to {out}")
    if summary.images_without_labels:
        lines.append(
            f"{len(summary.images_without_labels)} images have no annotations "
            f"({some_names(summary.images_without_labels, num=3)}); where they hold no objects, "
            "give them empty label files"
        )
    if summary.labels_without_image:
        lines.append(
            f"{len(summary.labels_without_image)} annotated images are not among the images "
            f"({some_names(summary.labels_without_image, num=3)})"
        )
    return "\n".join(lines)
