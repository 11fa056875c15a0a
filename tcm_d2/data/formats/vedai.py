"""VEDAI: centre, angle and corners of vehicles, x of all corners before y, classes by number.

A file an image has 14 columns, ``cx cy angle class contained occluded x1 .. x4 y1 .. y4``; the one
file of all images has the image before them and the class behind: ``image cx cy angle x1 .. x4
y1 .. y4 class contained occluded``. Images are named ``<image>_co.png`` and ``<image>_ir.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, are_numbers, shown, to_number
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline
from tcm_d2.data.formats.reading import AnnotatedImage, Reading

_CLASSES = {
    1: "car", 2: "truck", 4: "tractor", 5: "camping-car", 7: "motorcycle", 8: "bus", 9: "van",
    10: "other", 11: "pickup", 23: "boat", 31: "plane",
}  # fmt: skip
_NUM_COLUMNS = 14
_SUFFIXES = ("", "_co", "_ir")


@register_format
class VEDAI(AnnotationFormat):
    """One text file an image, or one for all."""

    name: ClassVar[str] = "vedai"
    title: ClassVar[str] = "VEDAI"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def looks_like(self, content: FileContent) -> str | None:
        rows = [line.split() for _, line in content.rows]
        found = {len(row) for row in rows} in ({_NUM_COLUMNS}, {_NUM_COLUMNS + 1}) and are_numbers(
            field for row in rows for field in row[-_NUM_COLUMNS:]
        )
        return f"{len(rows[0])} columns of numbers" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        rows = content.rows
        images: dict[str, AnnotatedImage] = {}
        if not (rows and len(rows[0][1].split()) == _NUM_COLUMNS + 1):
            stem = content.path.stem
            images[stem] = reading.new_image(_image_name(stem, reading), source=content.path)
        for number, line in rows:
            with reading.item(f"{content.path}:{number}"):
                fields = line.split()
                if len(fields) not in (_NUM_COLUMNS, _NUM_COLUMNS + 1):
                    raise LabelError(
                        f"expected 14 columns (15 in the file of all images), got {shown(line)}",
                        "wrong number of fields",
                    )
                stem = fields.pop(0) if len(fields) > _NUM_COLUMNS else content.path.stem
                if stem not in images:
                    name = _image_name(stem, reading)
                    images[stem] = reading.new_image(name, source=content.path)
                class_name, coordinates = _columns(fields, reading)
                values = [to_number(value, "a corner") for value in coordinates]
                quad = tuple(v for pair in zip(values[:4], values[4:]) for v in pair)
                reading.add(images[stem], class_name, Outline(quad, "turned"))


def _columns(fields: Sequence[str], reading: Reading) -> tuple[str, Sequence[str]]:
    """Return the class name and the eight coordinates of either order of columns."""
    names = reading.options.classes or _CLASSES
    for flags, coordinates in ((fields[3:6], fields[6:]), (fields[11:], fields[3:11])):
        if all(flag in ("0", "1") for flag in flags[1:]) and flags[0].isdecimal():
            if int(flags[0]) in names:
                return names[int(flags[0])], coordinates
    raise LabelError(
        f"expected a class number ({', '.join(map(str, names))}) with two flags behind it, got "
        f"{shown(' '.join(fields))}",
        "unknown class",
    )


def _image_name(stem: str, reading: Reading) -> str:
    for suffix in _SUFFIXES:
        if f"{stem}{suffix}" in reading.options.image_paths:
            return f"{stem}{suffix}"
    return stem
