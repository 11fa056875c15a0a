"""Names of head parameters in mmrotate checkpoints, and ours."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal

HeadKind = Literal["fcos", "atss", "retinanet"]
HEAD_TITLES: dict[HeadKind, str] = {"fcos": "FCOS", "atss": "ATSS", "retinanet": "RetinaNet"}

# Blocks of a tower in one nn.Sequential: convolution, norm, activation; without a norm (RetinaNet)
# convolution, activation.
_TOWER = re.compile(r"^(cls|reg)_convs\.(\d+)\.(conv|gn)\.(weight|bias)$")
_TOWER_NAMES = {"cls": "class_tower", "reg": "box_tower"}
_BLOCK_LENGTHS: dict[HeadKind, int] = {"fcos": 3, "atss": 3, "retinanet": 2}
_NAMES: dict[HeadKind, dict[str, str]] = {
    "fcos": {
        "conv_cls": "class_predictor",
        "conv_reg": "distance_predictor",
        "conv_angle": "angle_predictor",
        "conv_centerness": "centerness_predictor",
        "scale_angle": "angle_scale",
        "scales": "distance_scales",
    },
    "atss": {
        "atss_cls": "class_predictor",
        "atss_reg": "delta_predictor",
        "atss_centerness": "centerness_predictor",
        "scales": "delta_scales",
    },
    "retinanet": {"retina_cls": "class_predictor", "retina_reg": "delta_predictor"},
}
# The class predictor tells the reference's heads apart.
_MARKERS: dict[str, HeadKind] = {"conv_cls": "fcos", "atss_cls": "atss", "retina_cls": "retinanet"}
# In ours, the first of these that is there.
_OWN_MARKERS: dict[str, HeadKind] = {
    "head.distance_predictor.weight": "fcos",
    "head.delta_scales.0.scale": "atss",
    "head.delta_predictor.weight": "retinanet",
}


def find_head_kind(names: Iterable[str]) -> HeadKind | None:
    """Return which head the names belong to, or None.

    Args:
        names: names below ``bbox_head.``.
    """
    for name in names:
        kind = _MARKERS.get(name.partition(".")[0])
        if kind is not None:
            return kind
    return None


def find_own_head_kind(names: Collection[str]) -> HeadKind | None:
    """Return which of our heads is among the names of a whole detector of ours, or None."""
    return next((kind for marker, kind in _OWN_MARKERS.items() if marker in names), None)


def convert_head_name(name: str, kind: HeadKind) -> str | None:
    """Return our name of a rotated head's tensor, or None if it is not one.

    No value changes: the heads regress in the reference's own frame, and the coders convert.

    Args:
        name: name below ``bbox_head.``, such as ``cls_convs.0.conv.weight``.
        kind: the head it belongs to.
    """
    tower = _TOWER.match(name)
    if tower is not None:
        branch, block, layer_kind, suffix = tower.groups()
        layer = _BLOCK_LENGTHS[kind] * int(block) + (layer_kind == "gn")
        return f"{_TOWER_NAMES[branch]}.{layer}.{suffix}"
    first, _, rest = name.partition(".")
    ours = _NAMES[kind].get(first)
    return f"{ours}.{rest}" if ours is not None and rest else None


def convert_fcos_head_name(name: str) -> str | None:
    """Return our name of a rotated FCOS head's tensor, or None if it is not one."""
    return convert_head_name(name, "fcos")
