"""YOLO-OBB: class index, then four corners in parts of the image's size.

Segmentation labels have the same form with more corners; a rectangle is fitted to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import yaml

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, are_numbers, shown, to_number
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import polygon
from tcm_d2.data.formats.reading import AnnotatedImage, FormatMismatch, Reading

# Corners may lie outside of the image, but not that far: those are pixels.
_MAX_PART = 2
_NUM_FIELDS = 9
_MIN_FIELDS = 7
# Lists of classes that stand beside the labels.
_NO_LABELS = ("classes", "obj")


@register_format
class YoloOBB(AnnotationFormat):
    """One text file an image."""

    name: ClassVar[str] = "yolo-obb"
    title: ClassVar[str] = "YOLO-OBB"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)
    shows_upright: ClassVar[bool] = True

    def looks_like(self, content: FileContent) -> str | None:
        rows = [line.split() for _, line in content.rows]
        if not rows or any(len(r) < _MIN_FIELDS or not r[0].isdecimal() for r in rows):
            return None
        fields = [field for row in rows for field in row[1:]]
        found = are_numbers(fields) and max(abs(float(field)) for field in fields) <= _MAX_PART
        return "class indices and parts of the image's size" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        if content.path.stem in _NO_LABELS and self.looks_like(content) is None:
            return
        classes = reading.options.classes
        if not classes:
            raise FormatMismatch(
                f"{content.path}: classes: expected all class names by YOLO's indices; give "
                "data.yaml with --classes-file",
                "unknown class",
            )
        image = reading.new_image(content.path.stem, source=content.path)
        height, width = reading.size_hw(image)
        for number, line in content.rows:
            with reading.item(f"{content.path}:{number}"):
                fields = line.split()
                if len(fields) < _MIN_FIELDS or len(fields) % 2 == 0:
                    raise LabelError(
                        f"expected {_NUM_FIELDS} fields (class index, 4 corners), got "
                        f"{shown(line)}; correct the line",
                        "wrong number of fields",
                    )
                parts = [to_number(field, "a corner") for field in fields[1:]]
                if max(map(abs, parts)) > _MAX_PART:
                    raise LabelError(
                        "expected corners as parts of the image's size (0 to 1), got "
                        f"{shown(line)}; are these pixels?",
                        "corners in pixels",
                    )
                pixels = [value * (height if i % 2 else width) for i, value in enumerate(parts)]
                reading.add(image, _class_name(fields[0], dict(classes)), polygon(pixels))

    def write(self, images: Sequence[AnnotatedImage], classes: Sequence[str]) -> dict[str, bytes]:
        index_of = {name: index for index, name in enumerate(classes)}
        files = {}
        for image in images:
            height, width = image.size_hw or (0, 0)
            rows = []
            for obj in image.objects:
                parts = (v / (height if i % 2 else width) for i, v in enumerate(obj.quad))
                numbers = " ".join(f"{part:.8f}" for part in parts)
                rows.append(f"{index_of[obj.class_name]} {numbers}\n")
            files[f"labels/{image.image_id}.txt"] = "".join(rows).encode()
        names = yaml.safe_dump({"names": dict(enumerate(classes))}, allow_unicode=True)
        return {**files, "data.yaml": names.encode()}


def _class_name(text: str, classes: dict[int, str]) -> str:
    if text.isdecimal() and len(text) < 10 and int(text) in classes:
        return classes[int(text)]
    raise LabelError(
        f"expected a class index of {_ranges(sorted(classes))}, got {text[:20]!r}; give all class "
        "names by their indices",
        "unknown class",
    )


def _ranges(indices: Sequence[int]) -> str:
    if list(indices) == list(range(len(indices))):
        return f"[0, {len(indices)})"
    return ", ".join(map(str, indices))
