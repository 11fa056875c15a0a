"""X-AnyLabeling: labelme's JSON with ``rotation`` shapes and a difficult flag.

https://github.com/CVHub520/X-AnyLabeling: a ``rotation`` shape has four corners and its
``direction`` in radians, clockwise on screen, which the corners imply.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from tcm_d2.data.formats.boxes import as_turned_box
from tcm_d2.data.formats.content import FileContent
from tcm_d2.data.formats.contract import register_format
from tcm_d2.data.formats.labelme import LabelMe, is_x_anylabeling
from tcm_d2.data.formats.reading import AnnotatedObject


@register_format
class XAnyLabeling(LabelMe):
    """One JSON file an image."""

    name: ClassVar[str] = "x-anylabeling"
    title: ClassVar[str] = "X-AnyLabeling"
    also_reads: ClassVar[tuple[str, ...]] = ("labelme",)

    def looks_like(self, content: FileContent) -> str | None:
        return "'rotation' shapes or 'difficult'" if is_x_anylabeling(content.json) else None

    def _shape(self, obj: AnnotatedObject) -> dict[str, Any]:
        box = as_turned_box(obj.quad)
        shape = super()._shape(obj)
        shape |= {
            "score": obj.score,
            "description": "",
            "difficult": bool(obj.difficult),
            "flags": {},
            "attributes": {},
            "kie_linking": [],
        }
        if box is not None:
            shape |= {"shape_type": "rotation", "direction": math.radians(box.angle_deg)}
        return shape
