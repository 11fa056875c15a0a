"""COCO's JSON with polygons; also HRSID's, and CVAT's, which says how far a box is turned.

CVAT writes the unturned ``bbox`` of a turned rectangle, an empty ``segmentation``, and
``attributes.rotation`` in degrees, clockwise on screen, about the centre.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, shown, to_flag, to_number, to_numbers
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import (
    Outline,
    fitted_rectangle,
    mask_rectangle,
    polygon,
    turned_box,
    upright_box,
)
from tcm_d2.data.formats.reading import AnnotatedImage, FormatMismatch, Reading
from tcm_d2.structures.quads import signed_areas

_PARTS = ("images", "annotations", "categories")
_MIN_POLYGON_NUMBERS = 6
# A mask of more pixels is damage, not an object.
_MAX_MASK_PX = 1 << 28


@register_format
class COCO(AnnotationFormat):
    """One JSON file for all images."""

    name: ClassVar[str] = "coco"
    title: ClassVar[str] = "COCO (also CVAT's, HRSID)"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    shows_upright: ClassVar[bool] = True

    def looks_like(self, content: FileContent) -> str | None:
        tree = content.json
        if not isinstance(tree, dict) or not isinstance(tree.get("images"), list):
            return None
        items = tree.get("annotations")
        if not isinstance(items, list) or any("poly" in i for i in items if isinstance(i, dict)):
            return None
        return "'images' and 'annotations'"

    def read(self, content: FileContent, reading: Reading) -> None:
        tree = content.json
        lists = [tree.get(key) if isinstance(tree, dict) else None for key in _PARTS]
        missing = [key for key, part in zip(_PARTS, lists) if not isinstance(part, list)]
        if reading.options.classes is not None and missing == ["categories"]:
            missing = []
        if missing:
            raise LabelError(
                f"{content.path}: expected a COCO file with the lists {', '.join(_PARTS)}, got one "
                f"without {', '.join(missing)}; correct the file",
                "not a COCO file",
            )
        names = _class_names(content, lists[2], reading)
        images: dict[str, AnnotatedImage] = {}
        for number, item in enumerate(lists[0] or [], start=1):
            with reading.item(f"{content.path}: image {number}"):
                key = _id(item, "id")
                if key in images:
                    raise LabelError(f"image id {key} is there twice", "id twice")
                images[key] = reading.new_image(
                    item.get("file_name"), source=content.path, size_hw=_size_hw(item)
                )
        for number, item in enumerate(lists[1] or [], start=1):
            name = item.get("id", f"number {number}") if isinstance(item, dict) else number
            where = f"{content.path}: annotation {str(name)[:40]}"
            with reading.item(where):
                image = _looked_up(images, item, "image_id", "images")
                name = _looked_up(names, item, "category_id", "categories")
                outline = _outline(item, where, reading)
                reading.add(image, name, outline, _difficult(item), _score(item))

    def write(self, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> dict[str, bytes]:
        ids = {name: index for index, name in enumerate(classes, start=1)}
        tree: dict[str, Any] = {"images": [], "annotations": []}
        tree["categories"] = [{"id": index, "name": name} for name, index in ids.items()]
        for number, image in enumerate(images, start=1):
            height, width = image.size_hw or (0, 0)
            tree["images"].append(
                {"id": number, "file_name": image.file_name, "height": height, "width": width}
            )
            for obj in image.objects:
                corners = np.array(obj.quad).reshape(4, 2)
                (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
                item = {
                    "id": len(tree["annotations"]) + 1,
                    "image_id": number,
                    "category_id": ids[obj.class_name],
                    "segmentation": [list(obj.quad)],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": abs(float(signed_areas(corners))),
                    "iscrowd": 0,
                }
                if obj.difficult:
                    item["ignore"] = 1
                if obj.score is not None:
                    item["score"] = obj.score
                tree["annotations"].append(item)
        return {"instances.json": (json.dumps(tree, ensure_ascii=False) + "\n").encode()}


def _class_names(content: FileContent, categories: Any, reading: Reading) -> dict[str, str]:
    if categories is None:
        return {str(index): name for index, name in (reading.options.classes or {}).items()}
    names: dict[str, str] = {}
    for number, item in enumerate(categories, start=1):
        with reading.item(f"{content.path}: category {number}"):
            key = _id(item, "id")
            if key in names:
                raise LabelError(f"category id {key} is there twice", "id twice")
            name = item.get("name")
            if not isinstance(name, str) or not name.strip():
                raise LabelError(f"expected a name, got {shown(name)}", "no class name")
            names[key] = name
    return names


def _id(item: Any, key: str) -> str:
    """Return an id as text: files of some tools write numbers in one place and texts in another."""
    value = item.get(key) if isinstance(item, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise LabelError(f"expected {key!r}, a number or a text, got {shown(value)}", "no id")
    return str(value)


def _looked_up(known: dict[str, Any], item: Any, key: str, what: str) -> Any:
    found = _id(item, key)
    if found not in known:
        raise LabelError(f"{key} {found[:40]} is not among the {what}", f"{key} unknown")
    return known[found]


def _size_hw(item: Any) -> tuple[int, int] | None:
    height, width = item.get("height"), item.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _difficult(item: dict[str, Any]) -> int:
    flags = (to_flag(item.get(key), key) for key in ("iscrowd", "ignore", "difficult"))
    return max(flags)


def _score(item: dict[str, Any]) -> float | None:
    return None if item.get("score") is None else to_number(item["score"], "score")


def _outline(item: dict[str, Any], where: str, reading: Reading) -> Outline:
    segmentation = item.get("segmentation")
    if isinstance(segmentation, dict):
        return _mask(segmentation)
    if segmentation:
        return _polygons(segmentation, where, reading)
    if not item.get("bbox"):
        raise LabelError("expected 'segmentation' or 'bbox', found neither", "no outline")
    box = to_numbers(item["bbox"], "bbox")
    if len(box) == 5:
        return _bbox5(box, reading)
    x, y, width, height = to_numbers(item["bbox"], "bbox", 4)
    attributes = item.get("attributes")
    rotation = attributes.get("rotation") if isinstance(attributes, dict) else None
    if rotation is None:
        return upright_box(x, y, x + width, y + height)
    angle = reading.angle_rad(to_number(rotation, "attributes.rotation"), "degrees")
    return turned_box(x + width / 2, y + height / 2, width, height, angle)


def _polygons(segmentation: Any, where: str, reading: Reading) -> Outline:
    if not isinstance(segmentation, list):
        raise LabelError(f"expected polygons, got {shown(segmentation)}", "bad segmentation")
    if not isinstance(segmentation[0], list):
        reading.repair("segmentation without inner list", f"{where}: taken as one polygon")
        segmentation = [segmentation]
    polygons = [to_numbers(part, "segmentation") for part in segmentation]
    parts = [part for part in polygons if len(part) >= _MIN_POLYGON_NUMBERS]
    if len(parts) < len(polygons):
        reading.repair("polygon of fewer than three corners", f"{where}: the part is dropped")
    if not parts:
        raise LabelError("expected a polygon of three corners or more", "bad segmentation")
    if any(len(part) % 2 for part in parts):
        raise LabelError("expected pairs of x and y in segmentation", "bad segmentation")
    if len(parts) == 1:
        return polygon(parts[0])
    return fitted_rectangle(np.concatenate([np.array(part).reshape(-1, 2) for part in parts]))


def _mask(rle: dict[str, Any]) -> Outline:
    """Return the rectangle around a mask given as run lengths, packed or as a list."""
    height, width = to_numbers(rle.get("size"), "size of segmentation", 2)
    if not 0 < height * width <= _MAX_MASK_PX or height % 1 or width % 1:
        raise LabelError(f"expected the size of a mask, got {shown(rle.get('size'))}", "bad mask")
    counts = rle.get("counts")
    runs = _unpacked(counts) if isinstance(counts, str) else to_numbers(counts, "counts")
    if min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise LabelError(
            f"expected runs that fill {width:g} x {height:g} px, got {shown(counts)}", "bad mask"
        )
    lengths = np.array(runs, dtype=np.int64)
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    # Down the columns.
    return mask_rectangle(values.reshape(int(width), int(height)).T)


def _unpacked(counts: str) -> list[int]:
    """Return the run lengths in COCO's text: five bits a character from "0" on, the lowest first.

    A sixth bit says that more follow, and from the third number on differences to the last but one
    are written.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise LabelError(f"expected COCO's run lengths, got {shown(counts)}", "bad mask")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise LabelError(f"expected COCO's run lengths, got {shown(counts)}", "bad mask")
    return runs


def _bbox5(box: Sequence[float], reading: Reading) -> Outline:
    kind = reading.options.bbox5
    if kind is None:
        raise FormatMismatch(
            f"bbox of five values, {list(box)}, can be meant in several ways; say which: --bbox5 "
            "center (cx, cy, w, h, degrees clockwise), corner (x, y of the unturned top left "
            "corner, w, h, degrees clockwise about the centre) or detectron2 (cx, cy, w, h, "
            "degrees counter-clockwise)",
            "bbox of five values",
        )
    x, y, width, height, value = box
    angle = reading.angle_rad(value, "degrees")
    if kind == "corner":
        x, y = x + width / 2, y + height / 2
    return turned_box(x, y, width, height, -angle if kind == "detectron2" else angle)
