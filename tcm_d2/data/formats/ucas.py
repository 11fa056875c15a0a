"""UCAS-AOD: four corners, then angle, x, y, width and height; its folder says the class."""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, are_numbers, shown, to_number
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline
from tcm_d2.data.formats.reading import FormatMismatch, Reading

_NUM_COORDINATES = 8
_NUM_FIELDS = 13
UCAS_AOD_CLASSES: tuple[str, ...] = ("car", "plane")


@register_format
class UCASAOD(AnnotationFormat):
    """One text file an image."""

    name: ClassVar[str] = "ucas"
    title: ClassVar[str] = "UCAS-AOD"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def looks_like(self, content: FileContent) -> str | None:
        rows = [line.split() for _, line in content.rows]
        found = {len(row) for row in rows} == {_NUM_FIELDS} and are_numbers(
            field for row in rows for field in row
        )
        return "13 numbers a line" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        class_name = self._class_name(content, reading)
        image = reading.new_image(content.path.stem, source=content.path)
        for number, line in content.rows:
            with reading.item(f"{content.path}:{number}"):
                fields = line.split()
                if len(fields) not in (_NUM_COORDINATES, _NUM_FIELDS):
                    raise LabelError(
                        "expected 13 numbers (4 corners, angle, x, y, w, h), got "
                        f"{shown(line)}; correct the line",
                        "wrong number of fields",
                    )
                quad = tuple(to_number(field, "a corner") for field in fields[:_NUM_COORDINATES])
                reading.add(image, class_name, Outline(quad, "turned"))

    def _class_name(self, content: FileContent, reading: Reading) -> str:
        classes = reading.options.classes
        if classes is not None and len(classes) == 1:
            return next(iter(classes.values()))
        folder = content.path.resolve().parent.name.lower()
        if classes is None and folder in UCAS_AOD_CLASSES:
            return folder
        raise FormatMismatch(
            f"{content.path}: classes: expected the one class of this UCAS-AOD folder, car or "
            "plane; give it with --classes",
            "unknown class",
        )
