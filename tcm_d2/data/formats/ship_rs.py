"""ShipRSImageNet: turned boxes, angle ``rot`` in radians, clockwise on screen."""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.formats.content import FileContent, child_flag, child_number, child_text
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline, turned_box
from tcm_d2.data.formats.reading import Reading
from tcm_d2.data.formats.voc import bndbox_outline, corner_values, has_corners, open_objects

_KEYS = ("cx", "cy", "width", "height", "rot")


@register_format
class ShipRS(AnnotationFormat):
    """One XML file an image."""

    name: ClassVar[str] = "shiprs"
    title: ClassVar[str] = "ShipRSImageNet"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    def looks_like(self, content: FileContent) -> str | None:
        found = content.xml is not None and content.xml.find("object/rotated_box") is not None
        return "<rotated_box>" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        image, objects = open_objects(content, reading)
        for where, obj in objects:
            with reading.item(where):
                box, corners = obj.find("rotated_box"), obj.find("polygon")
                if box is not None:
                    cx, cy, width, height, angle = (child_number(box, key) for key in _KEYS)
                    angle_rad = reading.angle_rad(angle, "radians")
                    outline = turned_box(cx, cy, width, height, angle_rad)
                elif corners is not None and has_corners(corners):
                    outline = Outline(corner_values(corners), "turned")
                else:
                    outline = bndbox_outline(obj, reading)
                reading.add(image, child_text(obj, "name"), outline, child_flag(obj, "difficult"))
