"""Label Studio's JSON: percent of the image's size, turned about the top left corner.

https://labelstud.io/templates/image_bbox: ``x``, ``y``, ``width``, ``height`` in percent,
``rotation`` in degrees, clockwise on screen, about the point (x, y). Read are exports ("JSON", and
"JSON-MIN" with one list of regions a task); predictions are proposals and not read as labels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.boxes import as_turned_box
from tcm_d2.data.formats.content import FileContent, shown, to_flag, to_number, to_numbers
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline, polygon, turned_box
from tcm_d2.data.formats.reading import AnnotatedImage, AnnotatedObject, Reading, image_id_of

_LABEL_KEYS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")
# Label Studio puts this before the name of an uploaded file.
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
_ANNOTATION_KEYS = ("annotations", "completions")


@register_format
class LabelStudio(AnnotationFormat):
    """One JSON file for all images."""

    name: ClassVar[str] = "label-studio"
    title: ClassVar[str] = "Label Studio"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    shows_upright: ClassVar[bool] = True

    def looks_like(self, content: FileContent) -> str | None:
        tasks = content.json
        if not isinstance(tasks, list) or not tasks or not isinstance(tasks[0], dict):
            return None
        if isinstance(tasks[0].get("data"), dict):
            return "a list of tasks with 'data'"
        found = _regions_of_min(tasks[0]) is not None
        return "a list of tasks with regions" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        if not isinstance(content.json, list):
            raise LabelError(f"{content.path}: expected a list of tasks", "another format")
        for number, task in enumerate(content.json, start=1):
            where = f"{content.path}: task {number}"
            with reading.item(where):
                if not isinstance(task, dict):
                    raise LabelError(f"expected a task, got {shown(task)}", "no task")
                regions = _regions(task)
                if regions is None:
                    reading.leave_out("task without annotation", where)
                    continue
                name = _file_name(task, reading)
                image = reading.new_image(name, source=content.path, size_hw=_size_hw(regions))
                for index, region in enumerate(regions, start=1):
                    _read_region(region, f"{where}: region {index}", image, reading)

    def write(self, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> dict[str, bytes]:
        tasks = []
        for number, image in enumerate(images, start=1):
            regions = [
                _written_region(obj, f"{number}_{index}", image.size_hw or (0, 0))
                for index, obj in enumerate(image.objects)
            ]
            # Detections are proposals to correct; labels are annotations.
            is_found = any(obj.score is not None for obj in image.objects)
            kind = "predictions" if is_found else "annotations"
            tasks.append(
                {"id": number, "data": {"image": image.file_name}, kind: [{"result": regions}]}
            )
        return {"tasks.json": (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode()}


def _regions(task: dict[str, Any]) -> list[Any] | None:
    """Return the regions of a task; None where nobody has annotated it."""
    if not isinstance(task.get("data"), dict):
        regions = _regions_of_min(task)
        if regions is None:
            raise LabelError("expected 'data' or a list of regions, found neither", "no task")
        return regions
    lists = [task[key] for key in _ANNOTATION_KEYS if isinstance(task.get(key), list)]
    found = lists[0] if lists else []
    done = [a for a in found if isinstance(a, dict) and not a.get("was_cancelled")]
    if len(done) > 1:
        raise LabelError(
            f"expected one annotation of the image, got {len(done)} (several annotators); export "
            "one of them",
            "several annotations",
        )
    if not done:
        return None
    regions = done[0].get("result")
    if not isinstance(regions, list):
        raise LabelError(f"expected a list in 'result', got {shown(regions)}", "no regions")
    return regions


def _regions_of_min(task: dict[str, Any]) -> list[Any] | None:
    """Return the regions of a task of JSON-MIN, with "value" and "type" as in JSON."""
    for value in task.values():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            if all(any(key in item for key in _LABEL_KEYS) for item in value):
                return [{**item, "value": item} for item in value]
    return None


def _read_region(region: Any, where: str, image: AnnotatedImage, reading: Reading) -> None:
    with reading.item(where):
        if not isinstance(region, dict) or not isinstance(region.get("value"), dict):
            raise LabelError(f"expected a region with a value, got {shown(region)}", "no region")
        value = region["value"]
        labels = next((value[key] for key in _LABEL_KEYS if key in value), None)
        if labels is None:
            kind = str(region.get("type"))
            reading.leave_out(f"region of type {kind[:40]!r}", where)
            return
        if not isinstance(labels, list) or len(labels) != 1:
            raise LabelError(f"expected one label, got {shown(labels)}", "several labels")
        if to_number(region.get("image_rotation") or 0, "image_rotation"):
            raise LabelError(
                "expected an image that was not rotated in Label Studio, got image_rotation "
                f"{region['image_rotation']}; rotate it back there",
                "rotated image",
            )
        size = (region.get("original_height"), region.get("original_width"))
        if any(side is None for side in size):
            size = reading.size_hw(image)
        height, width = to_numbers(list(size), "original_height and original_width", 2)
        outline = _outline(value, height, width, reading)
        reading.add(image, labels[0], outline, _difficult(region))


def _outline(value: dict[str, Any], height: float, width: float, reading: Reading) -> Outline:
    if "points" in value:
        points = value["points"]
        if not isinstance(points, list):
            raise LabelError(f"expected a list of points, got {shown(points)}", "bad points")
        pairs = [to_numbers(point, "points", 2) for point in points]
        return polygon([v for x, y in pairs for v in (x * width / 100, y * height / 100)])
    x = to_number(value.get("x"), "x") * width / 100
    y = to_number(value.get("y"), "y") * height / 100
    angle = reading.angle_rad(to_number(value.get("rotation") or 0, "rotation"), "degrees")
    if "radiusX" in value:
        radius_x = to_number(value["radiusX"], "radiusX") * width / 100
        radius_y = to_number(value.get("radiusY"), "radiusY") * height / 100
        return turned_box(x, y, 2 * radius_x, 2 * radius_y, angle)
    w = to_number(value.get("width"), "width") * width / 100
    h = to_number(value.get("height"), "height") * height / 100
    cos, sin = math.cos(angle), math.sin(angle)
    center = (x + (w * cos - h * sin) / 2, y + (w * sin + h * cos) / 2)
    return turned_box(*center, w, h, angle)


def _difficult(region: dict[str, Any]) -> int:
    meta = region.get("meta")
    return to_flag(meta.get("difficult") if isinstance(meta, dict) else None, "meta.difficult")


def _size_hw(regions: Sequence[Any]) -> tuple[int, int] | None:
    for region in regions:
        if isinstance(region, dict):
            height, width = region.get("original_height"), region.get("original_width")
            if isinstance(height, int) and isinstance(width, int):
                return height, width
    return None


def _file_name(task: dict[str, Any], reading: Reading) -> str:
    """Return the image's name as it was before it was uploaded."""
    texts = list(_image_texts(task.get("data", task)))
    if not texts:
        raise LabelError("expected the image's address in 'data', found none", "no image")
    parts = urlsplit(texts[0])
    address = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    name = address.replace("\\", "/").rpartition("/")[2]
    plain = _UPLOAD_PREFIX.sub("", name)
    known = reading.options.image_paths
    if plain != name and image_id_of(name) not in known:
        return plain
    return name


def _image_texts(data: dict[str, Any]) -> Iterator[str]:
    if isinstance(data.get("image"), str):
        yield data["image"]
    for value in data.values():
        if isinstance(value, str) and image_id_of(urlsplit(value).path) != urlsplit(value).path:
            yield value


def _written_region(
    obj: AnnotatedObject, region_id: str, size_hw: tuple[int, int]
) -> dict[str, Any]:
    height, width = size_hw
    box = as_turned_box(obj.quad)
    if box is None:
        kind = "polygonlabels"
        pairs = zip(obj.quad[::2], obj.quad[1::2])
        value: dict[str, Any] = {
            "points": [[x * 100 / width, y * 100 / height] for x, y in pairs],
            "closed": True,
        }
    else:
        kind = "rectanglelabels"
        value = {
            "x": box.corner_xy[0] * 100 / width,
            "y": box.corner_xy[1] * 100 / height,
            "width": box.width * 100 / width,
            "height": box.height * 100 / height,
            "rotation": box.angle_deg,
        }
    region: dict[str, Any] = {
        "id": region_id,
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {**value, kind: [obj.class_name]},
    }
    if obj.score is not None:
        region["score"] = obj.score
    if obj.difficult:
        region["meta"] = {"difficult": 1}
    return region
