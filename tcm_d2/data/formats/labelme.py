"""labelme: polygons and rectangles in one JSON file an image.

https://github.com/wkentaro/labelme: a ``rectangle`` has two opposite corners, an
``oriented_rectangle`` four.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, shown, to_flag, to_numbers
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import Outline, polygon, upright_box
from tcm_d2.data.formats.reading import AnnotatedImage, AnnotatedObject, Reading

# Shapes that have no outline of an object, or one that is drawn into a picture.
_WITHOUT_OUTLINE = ("point", "points", "line", "linestrip", "lines", "mask", "cuboid")
_OWN_KEYS = ("kie_linking", "difficult", "direction")


@register_format
class LabelMe(AnnotationFormat):
    """One JSON file an image."""

    name: ClassVar[str] = "labelme"
    title: ClassVar[str] = "labelme"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    shows_upright: ClassVar[bool] = True
    also_reads: ClassVar[tuple[str, ...]] = ("x-anylabeling",)

    def looks_like(self, content: FileContent) -> str | None:
        found = shapes_of(content.json) is not None and not is_x_anylabeling(content.json)
        return "'shapes' and 'imagePath'" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        shapes = shapes_of(content.json)
        if shapes is None:
            raise LabelError(
                f"{content.path}: expected a JSON file with 'shapes' and 'imagePath'",
                "another format",
            )
        image = reading.new_image(
            content.path.stem, source=content.path, size_hw=_size_hw(content.json)
        )
        for number, shape in enumerate(shapes, start=1):
            where = f"{content.path}: shape {number}"
            with reading.item(where):
                if not isinstance(shape, dict):
                    raise LabelError(f"expected an object, got {shown(shape)}", "no object")
                kind = shape.get("shape_type") or "polygon"
                if kind in _WITHOUT_OUTLINE:
                    reading.leave_out(f"{kind} without outline", f"{where} ({kind})")
                    continue
                outline = _outline(kind, shape)
                reading.add(image, shape.get("label"), outline, _difficult(shape))

    def write(self, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> dict[str, bytes]:
        return {f"{image.image_id}.json": self._write_image(image) for image in images}

    def _write_image(self, image: AnnotatedImage) -> bytes:
        height, width = image.size_hw or (None, None)
        tree: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [self._shape(obj) for obj in image.objects],
            "imagePath": image.file_name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        return (json.dumps(tree, ensure_ascii=False, indent=2) + "\n").encode()

    def _shape(self, obj: AnnotatedObject) -> dict[str, Any]:
        points = [list(pair) for pair in zip(obj.quad[::2], obj.quad[1::2])]
        return {
            "label": obj.class_name,
            "points": points,
            "group_id": None,
            "description": "" if obj.score is None else f"score {obj.score:.4f}",
            "shape_type": "polygon",
            "flags": {"difficult": True} if obj.difficult else {},
        }


def shapes_of(tree: Any) -> list[Any] | None:
    """Return the shapes of a file of labelme's kind; None for any other file."""
    if not isinstance(tree, dict) or "imagePath" not in tree:
        return None
    shapes = tree.get("shapes")
    return shapes if isinstance(shapes, list) else None


def is_x_anylabeling(tree: Any) -> bool:
    """Return whether a shape holds what X-AnyLabeling writes and labelme doesn't."""
    shapes = [shape for shape in shapes_of(tree) or [] if isinstance(shape, dict)]
    return any(
        shape.get("shape_type") == "rotation" or any(key in shape for key in _OWN_KEYS)
        for shape in shapes
    )


def _outline(kind: str, shape: dict[str, Any]) -> Outline:
    points = shape.get("points")
    if not isinstance(points, list):
        raise LabelError(f"expected a list of points, got {shown(points)}", "bad points")
    pairs = [to_numbers(point, "points", 2) for point in points]
    values = [value for pair in pairs for value in pair]
    if kind == "circle":
        if len(pairs) != 2:
            raise LabelError(f"expected centre and edge, got {len(pairs)} points", "bad points")
        (cx, cy), (x, y) = pairs
        radius = ((x - cx) ** 2 + (y - cy) ** 2) ** 0.5
        return upright_box(cx - radius, cy - radius, cx + radius, cy + radius)
    if kind == "rectangle":
        if len(pairs) not in (2, 4):
            raise LabelError(f"expected 2 or 4 corners, got {len(pairs)}", "bad points")
        xs, ys = values[::2], values[1::2]
        return upright_box(min(xs), min(ys), max(xs), max(ys))
    if kind in ("rotation", "oriented_rectangle") and len(pairs) != 4:
        raise LabelError(f"expected 4 corners, got {len(pairs)}", "bad points")
    if kind in ("polygon", "rotation", "oriented_rectangle", "quadrilateral"):
        return polygon(values)
    raise LabelError(f"unknown shape_type {shown(kind)}", "unknown shape")


def _difficult(shape: dict[str, Any]) -> int:
    flags = shape.get("flags")
    value = shape.get("difficult", flags.get("difficult") if isinstance(flags, dict) else None)
    return to_flag(value, "difficult")


def _size_hw(tree: dict[str, Any]) -> tuple[int, int] | None:
    height, width = tree.get("imageHeight"), tree.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None
