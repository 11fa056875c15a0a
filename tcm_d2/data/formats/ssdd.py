"""SSDD's official rotated boxes: four corners, or centre, sides and an angle.

The angle ``rotated_bbox_theta`` is in degrees, clockwise on screen.
"""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.formats.content import FileContent, child, child_flag, child_number, child_text
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline, turned_box
from tcm_d2.data.formats.reading import Reading
from tcm_d2.data.formats.voc import corner_values, has_corners, open_objects

_KEYS = tuple(f"rotated_bbox_{key}" for key in ("cx", "cy", "w", "h", "theta"))


@register_format
class SSDD(AnnotationFormat):
    """One XML file an image."""

    name: ClassVar[str] = "ssdd"
    title: ClassVar[str] = "SSDD"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    def looks_like(self, content: FileContent) -> str | None:
        found = content.xml is not None and content.xml.find("object/rotated_bndbox") is not None
        return "<rotated_bndbox>" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        image, objects = open_objects(content, reading)
        for where, obj in objects:
            with reading.item(where):
                box = child(obj, "rotated_bndbox")
                if has_corners(box):
                    outline = Outline(corner_values(box), "turned")
                else:
                    cx, cy, width, height, angle = (child_number(box, key) for key in _KEYS)
                    angle_rad = reading.angle_rad(angle, "degrees")
                    outline = turned_box(cx, cy, width, height, angle_rad)
                reading.add(image, child_text(obj, "name"), outline, child_flag(obj, "difficult"))
