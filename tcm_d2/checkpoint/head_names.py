"""Names of head parameters in mmrotate checkpoints, and ours."""

from __future__ import annotations

import re

# A tower block is convolution, norm, activation in one nn.Sequential.
_TOWER = re.compile(r"^(cls|reg)_convs\.(\d+)\.(conv|gn)\.(weight|bias)$")
_TOWER_NAMES = {"cls": "class_tower", "reg": "box_tower"}
_FCOS_NAMES = {
    "conv_cls": "class_predictor",
    "conv_reg": "distance_predictor",
    "conv_angle": "angle_predictor",
    "conv_centerness": "centerness_predictor",
    "scale_angle": "angle_scale",
    "scales": "distance_scales",
}


def convert_fcos_head_name(name: str) -> str | None:
    """Return our name of a rotated FCOS head's tensor, or None if it is not one.

    No value changes: the head regresses in the reference's own frame, and the coder converts.

    Args:
        name: name below ``bbox_head.``, such as ``cls_convs.0.conv.weight``.
    """
    tower = _TOWER.match(name)
    if tower is not None:
        branch, block, kind, suffix = tower.groups()
        layer = 3 * int(block) + (kind == "gn")
        return f"{_TOWER_NAMES[branch]}.{layer}.{suffix}"
    first, _, rest = name.partition(".")
    return f"{_FCOS_NAMES[first]}.{rest}" if first in _FCOS_NAMES and rest else None
