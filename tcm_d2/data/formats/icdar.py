"""ICDAR's ground truth of scene text: four corners and the text, in MLT with a language before it.

Text that nobody can read is written "###" there, and is difficult here.
"""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, are_numbers, shown, to_number
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline
from tcm_d2.data.formats.reading import Reading

_UNREADABLE_TEXT = "###"
_NUM_COORDINATES = 8
_PREFIX = "gt_"


@register_format
class ICDAR(AnnotationFormat):
    """One text file an image, ``gt_<image id>.txt``."""

    name: ClassVar[str] = "icdar"
    title: ClassVar[str] = "ICDAR 2015 and MLT"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)

    def looks_like(self, content: FileContent) -> str | None:
        rows = [line.split(",", _NUM_COORDINATES)[:_NUM_COORDINATES] for _, line in content.rows]
        found = {len(row) for row in rows} == {_NUM_COORDINATES} and are_numbers(
            field for row in rows for field in row
        )
        return "8 coordinates with commas" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        image = reading.new_image(content.path.stem.removeprefix(_PREFIX), source=content.path)
        for number, line in content.rows:
            with reading.item(f"{content.path}:{number}"):
                # What is written there may hold commas.
                fields = line.split(",", _NUM_COORDINATES)
                if len(fields) < _NUM_COORDINATES:
                    raise LabelError(
                        "expected 8 coordinates and the text, with commas, got "
                        f"{shown(line)}; correct the line",
                        "wrong number of fields",
                    )
                quad = tuple(to_number(field, "a corner") for field in fields[:_NUM_COORDINATES])
                text = fields[_NUM_COORDINATES] if len(fields) > _NUM_COORDINATES else ""
                reading.add(image, "text", Outline(quad, "turned"), int(_is_unreadable(text)))


def _is_unreadable(text: str) -> bool:
    language, comma, transcription = text.strip().partition(",")
    if comma and language.strip().isalpha():
        return transcription.strip() == _UNREADABLE_TEXT
    return text.strip() == _UNREADABLE_TEXT
