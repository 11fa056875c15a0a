"""roLabelImg, and RSDD-SAR, which is written in it: angles in radians, clockwise on screen."""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, child_flag, child_number, child_text
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import turned_box
from tcm_d2.data.formats.reading import Reading
from tcm_d2.data.formats.voc import bndbox_outline, open_objects

_KEYS = ("cx", "cy", "w", "h", "angle")


@register_format
class RoLabelImg(AnnotationFormat):
    """One XML file an image."""

    name: ClassVar[str] = "rolabelimg"
    title: ClassVar[str] = "roLabelImg, RSDD-SAR"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    shows_upright: ClassVar[bool] = True
    also_reads: ClassVar[tuple[str, ...]] = ("voc",)

    def looks_like(self, content: FileContent) -> str | None:
        found = content.xml is not None and content.xml.find("object/robndbox/cx") is not None
        return "<robndbox> with <cx> and <angle>" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        image, objects = open_objects(content, reading)
        for where, obj in objects:
            with reading.item(where):
                box = obj.find("robndbox")
                if box is not None:
                    cx, cy, w, h, angle = (child_number(box, key) for key in _KEYS)
                    outline = turned_box(cx, cy, w, h, reading.angle_rad(angle, "radians"))
                elif obj.find("bndbox") is not None:
                    outline = bndbox_outline(obj, reading)
                else:
                    raise LabelError(
                        "expected <robndbox> or <bndbox> in every <object>, found neither; is this "
                        "a file of roLabelImg?",
                        "object without box",
                    )
                reading.add(image, child_text(obj, "name"), outline, child_flag(obj, "difficult"))
