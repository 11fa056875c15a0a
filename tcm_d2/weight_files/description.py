"""Say which model a set of tensors belongs to, judged by its names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor

# Whose names a file's tensors have. "mmrotate TCM" has CLIP's towers, "mmrotate" an ordinary
# backbone, "torchvision" is a ResNet for images.
Naming = Literal["tcm_d2", "mmrotate TCM", "mmrotate", "CLIP", "torchvision", "unknown"]

CLIP_MARKER = "visual.layer1.0.conv1.weight"
_TORCHVISION_MARKER = "layer1.0.conv1.weight"
_MMROTATE_TCM_PREFIXES = ("backbone.visual.", "vis_context_decoder.", "text_context_decoder.")
_MMROTATE_NAME = re.compile(r"bbox_head\.|neck\.(lateral|fpn)_convs\.\d+\.conv\.")
_OWN_PREFIXES = ("tcm.", "neck.output_convs.", "head.class_predictor.", "attention_pool.")
# Prefix of a name, what such a file is; the more telling first.
_OTHERS = (
    ("visual.trunk.", "CLIP with a timm image tower"),
    ("visual.transformer.", "CLIP with a ViT image tower"),
    ("visual.class_embedding", "CLIP with a ViT image tower"),
    ("visual.", "part of a CLIP model"),
    ("proposal_generator.", "a Detectron2 two-stage detector"),
    ("backbone.bottom_up.", "a Detectron2 detector"),
    ("roi_head.", "an mmdetection or mmrotate two-stage detector"),
    ("rpn_head.", "an mmdetection or mmrotate two-stage detector"),
    ("model.0.conv.", "a YOLO detector"),
    ("blocks.0.attn.", "a vision transformer"),
    ("layer1.0.conv1.", "an image ResNet, not CLIP"),
    ("bbox_head.", "an mmrotate or mmdetection detector without CLIP"),
    ("neck.lateral_convs.", "an mmrotate or mmdetection detector without CLIP"),
    ("backbone.layer1.0.conv1.", "a detector with a ResNet backbone"),
)


def find_naming(names: Iterable[str]) -> Naming:
    """Return whose names these are."""
    names = list(names)
    if any(name.startswith(_MMROTATE_TCM_PREFIXES) for name in names):
        return "mmrotate TCM"
    if CLIP_MARKER in names:
        return "CLIP"
    if any(_MMROTATE_NAME.match(name) for name in names):
        return "mmrotate"
    if _TORCHVISION_MARKER in names:
        return "torchvision"
    return "tcm_d2" if any(name.startswith(_OWN_PREFIXES) for name in names) else "unknown"


def describe_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return what the tensors seem to be, as a phrase with an article or none."""
    if not tensors:
        return "no tensors"
    naming = find_naming(tensors)
    if naming == "CLIP":
        return _describe_clip(tensors)
    if naming == "tcm_d2":
        return "a detector of tcm_d2"
    if naming == "mmrotate TCM":
        return "a TCM detector in mmrotate's names"
    for prefix, phrase in _OTHERS:
        if any(name.startswith(prefix) for name in tensors):
            return phrase
    return f"something unknown ({len(tensors)} tensors, the first {next(iter(tensors))!r})"


def _describe_clip(tensors: Mapping[str, Tensor]) -> str:
    """Return what tells one CLIP with a ResNet image tower from another."""
    blocks = [
        len({name.split(".")[2] for name in tensors if name.startswith(f"visual.layer{stage}.")})
        for stage in range(1, 5)
    ]
    width = tensors[CLIP_MARKER].shape[0]
    projection = tensors.get("text_projection")
    joint = "no text tower" if projection is None else f"joint width {projection.shape[-1]}"
    return f"CLIP with a ResNet image tower (blocks {blocks}, width {width}, {joint})"
