"""HRSC2016: all ships are one class; angles in radians, clockwise on screen."""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.formats.content import FileContent, child_flag, child_number
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import turned_box
from tcm_d2.data.formats.reading import Reading
from tcm_d2.data.formats.voc import open_objects

_KEYS = ("mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang")


@register_format
class HRSC(AnnotationFormat):
    """One XML file an image."""

    name: ClassVar[str] = "hrsc"
    title: ClassVar[str] = "HRSC2016"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    def looks_like(self, content: FileContent) -> str | None:
        root = content.xml
        found = root is not None and (root.tag == "HRSC_Image" or any(root.iter("HRSC_Object")))
        return "<HRSC_Object>" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        image, objects = open_objects(content, reading, tag="HRSC_Object", root_tag="HRSC_Image")
        for where, obj in objects:
            with reading.item(where):
                cx, cy, width, height, angle = (child_number(obj, key) for key in _KEYS)
                outline = turned_box(cx, cy, width, height, reading.angle_rad(angle, "radians"))
                reading.add(image, "ship", outline, child_flag(obj, "difficult"))
