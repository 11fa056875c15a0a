"""Read annotation files of other data sets and tools as DOTA labels.

Each reader takes one file and returns a `DotaLabel`: quads in image pixels, class names without
blanks, the difficult flag. Angles in these files are radians, clockwise on screen.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import shapely

from tcm_d2.data.dota.labels import DotaLabel, DotaObject, LabelError

# ICDAR marks text that nobody can read with this transcription.
_UNREADABLE_TEXT = "###"
_NUM_COORDINATES = 8
# UCAS-AOD: four corners, then angle, x, y, width and height.
_NUM_UCAS_FIELDS = 13
_DIOR_CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


def read_dior_xml(path: str | os.PathLike[str]) -> DotaLabel:
    """Read an "Oriented Bounding Boxes" file of DIOR-R; class names become lower case.

    Raises:
        LabelError: (a ValueError) not such a file; names it.
    """
    label = DotaLabel()
    for obj in _parse_xml(path).iter("object"):
        box = _child(obj, "robndbox", path)
        quad = tuple(
            _number(box, f"{axis}_{corner}", path) for corner in _DIOR_CORNERS for axis in "xy"
        )
        name = _text(obj, "name", path).lower()
        label.objects.append(DotaObject(quad, _one_word(name), _flag(obj, "difficult")))
    return label


def read_hrsc_xml(path: str | os.PathLike[str]) -> DotaLabel:
    """Read an annotation file of HRSC2016: all ships are one class.

    Raises:
        LabelError: (a ValueError) not such a file; names it.
    """
    label = DotaLabel()
    for obj in _parse_xml(path).iter("HRSC_Object"):
        values = [_number(obj, f"mbox_{key}", path) for key in ("cx", "cy", "w", "h", "ang")]
        label.objects.append(DotaObject(_box_corners(*values), "ship", _flag(obj, "difficult")))
    return label


def read_rolabelimg_xml(path: str | os.PathLike[str]) -> DotaLabel:
    """Read a file of roLabelImg: rotated boxes, and upright ones.

    Raises:
        LabelError: (a ValueError) not such a file; names it.
    """
    label = DotaLabel()
    for obj in _parse_xml(path).iter("object"):
        rotated, upright = obj.find("robndbox"), obj.find("bndbox")
        if rotated is not None:
            values = [_number(rotated, key, path) for key in ("cx", "cy", "w", "h", "angle")]
            quad = _box_corners(*values)
        elif upright is not None:
            x1, y1, x2, y2 = (
                _number(upright, key, path) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            quad = (x1, y1, x2, y1, x2, y2, x1, y2)
        else:
            raise LabelError(
                f"{path}: expected <robndbox> or <bndbox> in every <object>, found neither; is "
                "this a file of roLabelImg?",
                "object without box",
            )
        name = _one_word(_text(obj, "name", path))
        label.objects.append(DotaObject(quad, name, _flag(obj, "difficult")))
    return label


def read_ucas_txt(path: str | os.PathLike[str], class_name: str) -> DotaLabel:
    """Read a file of UCAS-AOD; its folder, CAR or PLANE, says the class.

    Raises:
        LabelError: (a ValueError) with file and line: wrong number of fields, not a number.
    """
    label = DotaLabel()
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) not in (_NUM_COORDINATES, _NUM_UCAS_FIELDS):
            raise _wrong_fields(path, number, line, "13 numbers (4 corners, angle, x, y, w, h)")
        quad = _coordinates(fields[:_NUM_COORDINATES], path, number)
        label.objects.append(DotaObject(quad, class_name, 0))
    return label


def read_icdar_txt(path: str | os.PathLike[str]) -> DotaLabel:
    """Read a ground truth file of ICDAR2015; what nobody can read ("###") is difficult.

    Raises:
        LabelError: (a ValueError) with file and line: too few fields, not a number.
    """
    label = DotaLabel()
    for number, line in _lines(path):
        # What is written there may hold commas.
        fields = line.split(",", _NUM_COORDINATES)
        if len(fields) < _NUM_COORDINATES:
            raise _wrong_fields(path, number, line, "8 coordinates and the text, with commas")
        quad = _coordinates(fields[:_NUM_COORDINATES], path, number)
        unreadable = fields[_NUM_COORDINATES:] == [_UNREADABLE_TEXT]
        label.objects.append(DotaObject(quad, "text", int(unreadable)))
    return label


def read_yolo_obb(
    path: str | os.PathLike[str], classes: Sequence[str], size_hw: tuple[int, int]
) -> DotaLabel:
    """Read a label file of YOLO-OBB: class index, then four corners in parts of the image's size.

    Raises:
        LabelError: (a ValueError) with file and line: wrong number of fields, not a number, an
            index without a class, or corners in pixels.
    """
    label = DotaLabel()
    height, width = size_hw
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 1 + _NUM_COORDINATES:
            raise _wrong_fields(path, number, line, "9 fields (class index, 4 corners)")
        parts = _coordinates(fields[1:], path, number)
        if not fields[0].isdecimal() or int(fields[0]) >= len(classes):
            raise LabelError(
                f"{path}:{number}: expected a class index in [0, {len(classes)}), got "
                f"{fields[0]!r}; give all class names in the order of the indices",
                "unknown class",
            )
        if max(map(abs, parts)) > 2:
            raise LabelError(
                f"{path}:{number}: expected corners as parts of the image's size (0 to 1), got "
                f"{line.strip()!r}; are these pixels?",
                "corners in pixels",
            )
        quad = tuple(value * (height if i % 2 else width) for i, value in enumerate(parts))
        label.objects.append(DotaObject(quad, _one_word(classes[int(fields[0])]), 0))
    return label


class CocoLabels(NamedTuple):
    """The labels in a COCO file by image file name, the class names, and what was left out."""

    labels: dict[str, DotaLabel]
    classes: tuple[str, ...]
    num_left_out: int


def read_coco(path: str | os.PathLike[str]) -> CocoLabels:
    """Read a COCO annotation file with polygons.

    A polygon of four corners stays as it is; of others, and of objects in several parts, the
    smallest rectangle around them is taken; without polygons the upright box. Crowds are
    difficult. Objects given as a mask only (run lengths) are left out and counted.

    Raises:
        LabelError: (a ValueError) not such a file; names it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        names = {int(c["id"]): _one_word(str(c["name"])) for c in content["categories"]}
        files = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        labels = {name: DotaLabel() for name in files.values()}
        num_left_out = 0
        for item in content["annotations"]:
            quad = _coco_quad(item)
            if quad is None:
                num_left_out += 1
                continue
            obj = DotaObject(quad, names[int(item["category_id"])], int(item.get("iscrowd", 0)))
            labels[files[int(item["image_id"])]].objects.append(obj)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LabelError(
            f"{path}: expected a COCO file (images, annotations, categories), got "
            f"{type(error).__name__}: {error}; correct the file",
            "not a COCO file",
        ) from None
    return CocoLabels(labels, tuple(names[key] for key in sorted(names)), num_left_out)


def _coco_quad(item: dict[str, Any]) -> tuple[float, ...] | None:
    parts = item.get("segmentation") or []
    if isinstance(parts, dict):
        parts = []
        if not item.get("bbox") or item.get("iscrowd"):
            return None
    polygons = [[float(v) for v in part] for part in parts if len(part) >= 6]
    if len(polygons) == 1 and len(polygons[0]) == _NUM_COORDINATES:
        return tuple(polygons[0])
    if polygons:
        points = np.concatenate([np.array(p).reshape(-1, 2) for p in polygons])
        rectangle = shapely.MultiPoint(points).minimum_rotated_rectangle
        if rectangle.geom_type != "Polygon":
            return None
        return tuple(np.array(rectangle.exterior.coords)[:4].reshape(-1).tolist())
    if not item.get("bbox"):
        return None
    x, y, w, h = (float(value) for value in item["bbox"])
    return (x, y, x + w, y, x + w, y + h, x, y + h)


def _box_corners(
    cx: float, cy: float, width: float, height: float, angle_rad: float
) -> tuple[float, ...]:
    """Return the corners of a box turned clockwise on screen, from its top left corner on."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    corners = []
    for along, across in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        u, v = along * width / 2, across * height / 2
        corners += [cx + u * cos - v * sin, cy + u * sin + v * cos]
    return tuple(corners)


def _one_word(name: str) -> str:
    """Return a class name that fits into a DOTA label line."""
    return "-".join(name.split()) or "unnamed"


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of the lines that are not blank; a byte-order mark is dropped."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{path}: expected a UTF-8 text file, got bytes that are not ({error})",
            "not a text file",
        ) from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line


def _coordinates(
    fields: Sequence[str], path: str | os.PathLike[str], number: int
) -> tuple[float, ...]:
    try:
        values = tuple(map(float, fields))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise LabelError(
            f"{path}:{number}: expected {len(fields)} finite numbers, got {' '.join(fields)!r}; "
            "correct the line",
            "not a number",
        )
    return values


def _wrong_fields(
    path: str | os.PathLike[str], number: int, line: str, expected: str
) -> LabelError:
    return LabelError(
        f"{path}:{number}: expected {expected}, got {line.strip()[:80]!r}; correct the line",
        "wrong number of fields",
    )


def _parse_xml(path: str | os.PathLike[str]) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise LabelError(
            f"{path}: expected an XML file, got something else ({error}); fetch it again",
            "not an XML file",
        ) from None


def _child(node: ElementTree.Element, name: str, path: object) -> ElementTree.Element:
    child = node.find(name)
    if child is None:
        raise LabelError(
            f"{path}: expected <{name}> in every <{node.tag}>, found none; is this a file of that "
            "data set?",
            "missing element",
        )
    return child


def _text(node: ElementTree.Element, name: str, path: object) -> str:
    return (_child(node, name, path).text or "").strip()


def _number(node: ElementTree.Element, name: str, path: object) -> float:
    text = _text(node, name, path)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LabelError(f"{path}: expected a number in <{name}>, got {text!r}", "not a number")
    return value


def _flag(node: ElementTree.Element, name: str) -> int:
    child = node.find(name)
    return int(child is not None and (child.text or "").strip() not in ("", "0"))
