"""CVAT XML for images, 1.1: boxes turned about their centre, polygons, ellipses and masks.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/: ``rotation`` is in degrees,
clockwise on screen; a box without it is not turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar
from xml.etree import ElementTree

import numpy as np

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.boxes import as_turned_box
from tcm_d2.data.formats.content import FileContent, shown, to_flag, to_number
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline, mask_rectangle, polygon, turned_box
from tcm_d2.data.formats.reading import AnnotatedImage, AnnotatedObject, FormatMismatch, Reading

_WITHOUT_OUTLINE = ("points", "polyline", "tag", "cuboid", "skeleton")
# Attributes of a box that are read, or have no say in where it lies.
_BOX_ATTRIBUTES = (
    "label", "source", "occluded", "xtl", "ytl", "xbr", "ybr", "rotation", "z_order", "group_id",
    "outside", "keyframe", "frame", "id", "score",
)  # fmt: skip
_SHAPES = ("box", "polygon", "ellipse", "mask")
# A mask of more pixels is damage, not an object.
_MAX_MASK_PX = 1 << 28


@register_format
class CVAT(AnnotationFormat):
    """One XML file for all images."""

    name: ClassVar[str] = "cvat"
    title: ClassVar[str] = "CVAT for images 1.1"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    shows_upright: ClassVar[bool] = True

    def looks_like(self, content: FileContent) -> str | None:
        root = content.xml
        if root is None or root.tag != "annotations":
            return None
        found = root.find("image") is not None or root.find("track") is not None
        return "<image> below <annotations>" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        root = content.xml
        if root is None or root.tag != "annotations":
            raise LabelError(f"{content.path}: expected <annotations> of CVAT", "another format")
        if root.find("track") is not None:
            raise FormatMismatch(
                f"{content.path}: expected CVAT for images, got CVAT for video (<track>); export "
                "the task as 'CVAT for images'",
                "another format",
            )
        for number, node in enumerate(root.iterfind("image"), start=1):
            with reading.item(f"{content.path}: image {number}"):
                image = reading.new_image(
                    node.get("name"), source=content.path, size_hw=_size_hw(node)
                )
                self._read_image(node, image, reading)

    def _read_image(
        self, node: ElementTree.Element, image: AnnotatedImage, reading: Reading
    ) -> None:
        for number, shape in enumerate(node, start=1):
            where = f"{image.source}: {image.file_name}: shape {number}"
            with reading.item(where):
                if shape.tag in _WITHOUT_OUTLINE:
                    reading.leave_out(f"<{shape.tag}> without outline", f"{where} ({shape.tag})")
                    continue
                if shape.tag not in _SHAPES:
                    raise LabelError(f"unknown shape <{shape.tag}>", "unknown shape")
                outline = _OUTLINES[shape.tag](shape, reading)
                reading.add(image, shape.get("label"), outline, _difficult(shape))

    def write(self, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> dict[str, bytes]:
        root = ElementTree.Element("annotations")
        ElementTree.SubElement(root, "version").text = "1.1"
        labels = ElementTree.SubElement(
            ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
        )
        for name in classes:
            label = ElementTree.SubElement(labels, "label")
            ElementTree.SubElement(label, "name").text = name
        for number, image in enumerate(images):
            height, width = image.size_hw or (0, 0)
            node = ElementTree.SubElement(
                root,
                "image",
                id=str(number),
                name=image.file_name,
                width=str(width),
                height=str(height),
            )
            for obj in image.objects:
                _write_shape(node, obj)
        ElementTree.indent(root)
        return {"annotations.xml": ElementTree.tostring(root, "utf-8", xml_declaration=True)}


def _write_shape(node: ElementTree.Element, obj: AnnotatedObject) -> None:
    common = {"label": obj.class_name, "source": "manual", "occluded": "0", "z_order": "0"}
    box = as_turned_box(obj.quad)
    if box is None:
        pairs = zip(obj.quad[::2], obj.quad[1::2])
        points = ";".join(f"{x:.4f},{y:.4f}" for x, y in pairs)
        shape = ElementTree.SubElement(node, "polygon", {**common, "points": points})
    else:
        (cx, cy), width, height = box.center_xy, box.width, box.height
        corners = {
            "xtl": cx - width / 2, "ytl": cy - height / 2,
            "xbr": cx + width / 2, "ybr": cy + height / 2,
        }  # fmt: skip
        values = {key: f"{value:.4f}" for key, value in corners.items()}
        values["rotation"] = f"{box.angle_deg:.6f}"
        shape = ElementTree.SubElement(node, "box", {**common, **values})
    if obj.difficult:
        ElementTree.SubElement(shape, "attribute", name="difficult").text = "true"
    if obj.score is not None:
        ElementTree.SubElement(shape, "attribute", name="score").text = f"{obj.score:.4f}"


def _size_hw(node: ElementTree.Element) -> tuple[int, int] | None:
    height, width = node.get("height", ""), node.get("width", "")
    return (int(height), int(width)) if height.isdecimal() and width.isdecimal() else None


def _difficult(shape: ElementTree.Element) -> int:
    for attribute in shape.iterfind("attribute"):
        if attribute.get("name") == "difficult":
            return to_flag(attribute.text, "attribute difficult")
    return 0


def _number(shape: ElementTree.Element, key: str, default: str | None = None) -> float:
    return to_number(shape.get(key, default), f"{key!r} of <{shape.tag}>")


def _angle(shape: ElementTree.Element, reading: Reading) -> float:
    return reading.angle_rad(_number(shape, "rotation", "0"), "degrees")


def _box(shape: ElementTree.Element, reading: Reading) -> Outline:
    unknown = [key for key in shape.keys() if key not in _BOX_ATTRIBUTES]
    if unknown:
        reading.repair("unknown attribute of a box", f"<box> {', '.join(unknown)}: not read")
    x1, y1, x2, y2 = (_number(shape, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    angle = _angle(shape, reading)
    return turned_box((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, angle)


def _ellipse(shape: ElementTree.Element, reading: Reading) -> Outline:
    cx, cy, rx, ry = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
    return turned_box(cx, cy, 2 * rx, 2 * ry, _angle(shape, reading))


def _polygon(shape: ElementTree.Element, reading: Reading) -> Outline:
    text = shape.get("points", "")
    pairs = [pair.split(",") for pair in text.split(";") if pair]
    if any(len(pair) != 2 for pair in pairs):
        raise LabelError(f"expected x,y;x,y;... in points, got {shown(text)}", "bad points")
    return polygon([to_number(value, "points") for pair in pairs for value in pair])


def _mask(shape: ElementTree.Element, reading: Reading) -> Outline:
    left, top, width, height = (
        int(_number(shape, key)) for key in ("left", "top", "width", "height")
    )
    runs = [to_number(run, "rle") for run in shape.get("rle", "").split(",")]
    if not 0 < width * height <= _MAX_MASK_PX or min(runs) < 0 or sum(runs) != width * height:
        raise LabelError(
            f"expected runs that fill {width} x {height} px in rle, got {shown(shape.get('rle'))}",
            "bad mask",
        )
    lengths = np.array(runs, dtype=np.int64)
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)
    return mask_rectangle(values, left, top)


_OUTLINES = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}
