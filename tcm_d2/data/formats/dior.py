"""DIOR-R: "Oriented Bounding Boxes" with four named corners; class names become lower case."""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.formats.content import FileContent, child, child_flag, child_number, child_text
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline
from tcm_d2.data.formats.reading import Reading
from tcm_d2.data.formats.voc import open_objects

_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


@register_format
class DIOR(AnnotationFormat):
    """One XML file an image."""

    name: ClassVar[str] = "dior"
    title: ClassVar[str] = "DIOR-R"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    def looks_like(self, content: FileContent) -> str | None:
        found = content.xml is not None and content.xml.find("object/robndbox/x_left_top")
        return None if found is None or found is False else "<robndbox> with <x_left_top>"

    def read(self, content: FileContent, reading: Reading) -> None:
        image, objects = open_objects(content, reading)
        for where, obj in objects:
            with reading.item(where):
                box = child(obj, "robndbox")
                quad = tuple(child_number(box, f"{axis}_{c}") for c in _CORNERS for axis in "xy")
                name = child_text(obj, "name").lower()
                reading.add(image, name, Outline(quad, "turned"), child_flag(obj, "difficult"))
