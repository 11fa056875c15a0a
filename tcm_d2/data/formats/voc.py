"""Pascal VOC: upright boxes, and CVAT's, which say in an attribute how far they are turned.

https://docs.cvat.ai/docs/dataset_management/formats/format-voc/: ``rotation`` is in degrees,
clockwise on screen, about the centre of the unturned box.
"""

from __future__ import annotations

from typing import ClassVar
from xml.etree import ElementTree

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import (
    FileContent,
    child,
    child_flag,
    child_number,
    child_text,
    to_number,
)
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline, turned_box, upright_box
from tcm_d2.data.formats.reading import AnnotatedImage, Reading

# Elements by which other formats say how an object is turned.
_TURNED_ELEMENTS = ("robndbox", "rotated_bndbox", "rotated_box", "polygon", "points")
_CORNERS = tuple(f"{axis}{number}" for number in range(1, 5) for axis in "xy")


@register_format
class PascalVOC(AnnotationFormat):
    """One XML file an image."""

    name: ClassVar[str] = "voc"
    title: ClassVar[str] = "Pascal VOC (also CVAT's, with rotation)"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    shows_upright: ClassVar[bool] = True

    def looks_like(self, content: FileContent) -> str | None:
        root = content.xml
        if root is None or root.find("object/bndbox") is None:
            return None
        if any(root.find(f"object/{name}") is not None for name in _TURNED_ELEMENTS):
            return None
        return "<object> with <bndbox> alone"

    def read(self, content: FileContent, reading: Reading) -> None:
        image, objects = open_objects(content, reading)
        for where, obj in objects:
            with reading.item(where):
                name, outline = child_text(obj, "name"), bndbox_outline(obj, reading)
                reading.add(image, name, outline, child_flag(obj, "difficult"))


def open_objects(
    content: FileContent, reading: Reading, *, tag: str = "object", root_tag: str = "annotation"
) -> tuple[AnnotatedImage, list[tuple[str, ElementTree.Element]]]:
    """Start the image of an XML file; return it and (where, element) of its objects.

    Raises:
        LabelError: (a ValueError) no XML, or neither objects nor the right root.
    """
    root = content.xml
    objects = [] if root is None else list(root.iter(tag))
    if root is None or (not objects and root.tag != root_tag):
        raise LabelError(
            f"{content.path}: expected an XML file with <{root_tag}> and <{tag}>, got "
            f"{'no XML' if root is None else f'<{root.tag}>'}",
            "another format",
        )
    image = reading.new_image(content.path.stem, source=content.path, size_hw=_size_hw(root))
    return image, [(f"{content.path}: object {n}", obj) for n, obj in enumerate(objects, start=1)]


def bndbox_outline(obj: ElementTree.Element, reading: Reading) -> Outline:
    """Return the box in ``<bndbox>``, turned where an attribute says so."""
    box = child(obj, "bndbox")
    x1, y1, x2, y2 = (child_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    rotation = _rotation(obj, box)
    if rotation is None:
        return upright_box(x1, y1, x2, y2)
    angle = reading.angle_rad(to_number(rotation, "rotation"), "degrees")
    return turned_box((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, angle)


def corner_values(node: ElementTree.Element) -> tuple[float, ...]:
    """Return the numbers in ``<x1> <y1> ... <y4>``."""
    return tuple(child_number(node, key) for key in _CORNERS)


def has_corners(node: ElementTree.Element | None) -> bool:
    """Return whether all of ``<x1> <y1> ... <y4>`` are there."""
    return node is not None and all(node.find(key) is not None for key in _CORNERS)


def _rotation(obj: ElementTree.Element, box: ElementTree.Element) -> str | None:
    for attribute in obj.iterfind("attributes/attribute"):
        if (attribute.findtext("name") or "").strip() == "rotation":
            return attribute.findtext("value") or ""
    if box.find("rotation") is not None:
        raise LabelError(
            "expected 'rotation' as an attribute, as CVAT writes it, got <rotation> in <bndbox>, "
            "whose direction is not known; convert it to CVAT's form",
            "rotation of unknown direction",
        )
    return None


def _size_hw(root: ElementTree.Element) -> tuple[int, int] | None:
    """Return height and width in ``<size>``; None where they are missing or mean nothing."""
    try:
        height, width = (
            int(float(root.findtext(f"size/{key}") or "")) for key in ("height", "width")
        )
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None
