"""DroneVehicle: polygons in XML, some upright boxes; misspelt class names are put right.

Its pictures have a white border of 100 px, which the coordinates count.
"""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.formats.content import FileContent, child_flag, child_text
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline
from tcm_d2.data.formats.reading import Reading
from tcm_d2.data.formats.voc import bndbox_outline, corner_values, open_objects

# As the files write them: what is meant.
_SPELLINGS = {
    "feright car": "freight-car",
    "feright_car": "freight-car",
    "feright": "freight-car",
    "truvk": "truck",
}


@register_format
class DroneVehicle(AnnotationFormat):
    """One XML file an image."""

    name: ClassVar[str] = "drone-vehicle"
    title: ClassVar[str] = "DroneVehicle (polygon XML)"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    also_reads: ClassVar[tuple[str, ...]] = ("voc",)

    def looks_like(self, content: FileContent) -> str | None:
        root = content.xml
        if root is None or root.find("object/polygon/x1") is None:
            return None
        return None if root.find("object/rotated_box") is not None else "<polygon> with <x1>"

    def read(self, content: FileContent, reading: Reading) -> None:
        image, objects = open_objects(content, reading)
        for where, obj in objects:
            with reading.item(where):
                corners = obj.find("polygon")
                if corners is None:
                    outline = bndbox_outline(obj, reading)
                else:
                    outline = Outline(corner_values(corners), "turned")
                name = child_text(obj, "name")
                if name in _SPELLINGS:
                    reading.repair("misspelt class name", f"{where}: {name!r}")
                reading.add(
                    image, _SPELLINGS.get(name, name), outline, child_flag(obj, "difficult")
                )
