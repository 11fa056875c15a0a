"""FAIR1M: closed polygons of five points in pixels."""

from __future__ import annotations

from typing import ClassVar

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, child, child_text, shown, to_number
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import polygon
from tcm_d2.data.formats.reading import Reading
from tcm_d2.data.formats.voc import open_objects


@register_format
class FAIR1M(AnnotationFormat):
    """One XML file an image."""

    name: ClassVar[str] = "fair1m"
    title: ClassVar[str] = "FAIR1M"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    def looks_like(self, content: FileContent) -> str | None:
        root = content.xml
        found = root is not None and root.find("objects/object/points/point") is not None
        return "<objects> with <points>" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        image, objects = open_objects(content, reading)
        for where, obj in objects:
            with reading.item(where):
                system = (obj.findtext("coordinate") or "pixel").strip()
                if system != "pixel":
                    raise LabelError(
                        f"expected coordinates in pixels, got {shown(system)}", "no pixels"
                    )
                values: list[float] = []
                for point in child(obj, "points").iter("point"):
                    pair = (point.text or "").split(",")
                    if len(pair) != 2:
                        raise LabelError(
                            f"expected x,y in <point>, got {shown(point.text)}",
                            "wrong number of values",
                        )
                    values += [to_number(value, "<point>") for value in pair]
                name = child_text(child(obj, "possibleresult"), "name")
                reading.add(image, name, polygon(values))
