"""DOTA's own label files, so that they can be recognised and written for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tcm_d2.data.dota.labels import (
    AllProblems,
    DotaLabel,
    DotaObject,
    OnError,
    format_label,
    read_label,
)
from tcm_d2.data.formats.content import FileContent, are_numbers
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline
from tcm_d2.data.formats.reading import AnnotatedImage, Reading

_HEADS = ("imagesource", "gsd")
_ON_ERROR: dict[str, OnError] = {"stop": "raise", "skip": "skip", "repair": "repair"}


@register_format
class DOTA(AnnotationFormat):
    """One text file an image."""

    name: ClassVar[str] = "dota"
    title: ClassVar[str] = "DOTA"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def looks_like(self, content: FileContent) -> str | None:
        rows = [line for _, line in content.rows if not line.lower().startswith(_HEADS)]
        if len(rows) < len(content.rows):
            return "a head line 'imagesource' or 'gsd'"
        fields = [row.split() for row in rows]
        if not fields or any(len(row) not in (9, 10) for row in fields):
            return None
        # Nine numbers are YOLO's: its class comes first.
        found = are_numbers(value for row in fields for value in row[:8]) and not any(
            are_numbers([row[8]]) for row in fields
        )
        return "8 coordinates and a class name" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        image = reading.new_image(content.path.stem, source=content.path)
        problems = AllProblems()
        on_error = "raise" if reading.options.strict else _ON_ERROR[reading.options.on_error]
        label = read_label(content.path, on_error=on_error, problems=problems)
        reading.summary.left_out.merge(problems)
        for number, obj in enumerate(label.objects, start=1):
            with reading.item(f"{content.path}: object {number}"):
                reading.add(image, obj.class_name, Outline(obj.quad, "turned"), obj.difficult)

    def write(self, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> dict[str, bytes]:
        return {f"{image.image_id}.txt": format_label(_label(image)) for image in images}


def _label(image: AnnotatedImage) -> DotaLabel:
    return DotaLabel(
        [DotaObject(o.quad, "-".join(o.class_name.split()), o.difficult) for o in image.objects]
    )
