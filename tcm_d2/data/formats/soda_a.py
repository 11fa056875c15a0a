"""SODA-A: one JSON file an image with polygons; regions to ignore are left out and counted."""

from __future__ import annotations

from typing import Any, ClassVar

from tcm_d2.data.dota.labels import LabelError
from tcm_d2.data.formats.content import FileContent, shown, to_numbers
from tcm_d2.data.formats.contract import AnnotationFormat, register_format
from tcm_d2.data.formats.outlines import polygon
from tcm_d2.data.formats.reading import Reading

_CLASSES = (
    "airplane", "helicopter", "small-vehicle", "large-vehicle", "ship", "container",
    "storage-tank", "swimming-pool", "windmill", "ignore",
)  # fmt: skip
_IGNORE = "ignore"


@register_format
class SODAA(AnnotationFormat):
    """One JSON file an image."""

    name: ClassVar[str] = "soda-a"
    title: ClassVar[str] = "SODA-A"
    suffixes: ClassVar[tuple[str, ...]] = (".json",)

    def looks_like(self, content: FileContent) -> str | None:
        objects = _annotations(content.json)
        found = any(isinstance(item, dict) and "poly" in item for item in objects or [])
        return "annotations with 'poly'" if found else None

    def read(self, content: FileContent, reading: Reading) -> None:
        objects = _annotations(content.json)
        if objects is None:
            raise LabelError(
                f"{content.path}: expected 'annotations' of SODA-A, found none", "another format"
            )
        names = _class_names(content)
        image = reading.new_image(content.path.stem, source=content.path)
        for number, item in enumerate(objects, start=1):
            with reading.item(f"{content.path}: annotation {number}"):
                if not isinstance(item, dict):
                    raise LabelError(f"expected an object, got {shown(item)}", "no object")
                name = names.get(str(item.get("category_id")))
                if name is None:
                    raise LabelError(
                        f"expected a category_id of {', '.join(names)}, got "
                        f"{shown(item.get('category_id'))}",
                        "unknown class",
                    )
                if name == _IGNORE:
                    reading.leave_out("region to ignore", f"{content.path}: annotation {number}")
                    continue
                reading.add(image, name, polygon(to_numbers(item.get("poly"), "poly")))


def _annotations(tree: Any) -> list[Any] | None:
    objects = tree.get("annotations") if isinstance(tree, dict) else None
    return objects if isinstance(objects, list) else None


def _class_names(content: FileContent) -> dict[str, str]:
    categories = content.json.get("categories")
    if not isinstance(categories, list) or not categories:
        return {str(index): name for index, name in enumerate(_CLASSES)}
    try:
        return {str(item["id"]): str(item["name"]) for item in categories}
    except (KeyError, TypeError):
        raise LabelError(
            f"{content.path}: expected id and name in 'categories', got {shown(categories)}",
            "bad categories",
        ) from None
