"""Names of tensors in mmrotate's TCM checkpoints, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from tcm_d2.checkpoint.head_names import HeadKind, convert_head_name, find_head_kind

# The neck takes res3 .. res5; the reference keeps the extra levels' convolutions in the same list.
NUM_NECK_INPUTS = 3
# Built by the published DOTA models but bypassed, so never trained.
DEAD_PREFIXES = ("prompt_generator.",)

_SINGLE_NAMES = {
    "contexts": "tcm.context",
    "gamma": "tcm.text_scale",
    "vis_gamma": "tcm.visual_scale",
}
# The more special prefix first.
_PREFIXES = {
    "backbone.visual.attnpool.": "attention_pool.",
    "backbone.visual.": "backbone.",
    "text_encoder.": "text_encoder.",
}
_NECK_CONV = re.compile(r"^neck\.(lateral|fpn)_convs\.(\d+)\.conv\.(weight|bias)$")
_DECODER = re.compile(r"^(vis|text)_context_decoder\.(.+)$")
_DECODER_NAMES = {"vis": "tcm.visual_decoder", "text": "tcm.text_decoder"}
_HEAD_PREFIX = "bbox_head."


class ConvertedStateDict(NamedTuple):
    """A checkpoint in our names, and what of it has no place here.

    Attributes:
        state_dict: tensors by our names.
        dead: source names of tensors that the published model holds but never uses.
        unknown: source names that match nothing.
    """

    state_dict: dict[str, Tensor]
    dead: list[str]
    unknown: list[str]


def convert_mmrotate_state_dict(state_dict: Mapping[str, Tensor]) -> ConvertedStateDict:
    """Return an mmrotate TCM state dict in our names. Values are shared, not copied.

    Only one tensor changes its shape: the context loses a leading axis of length one.

    Args:
        state_dict: tensors by the reference's names.
    """
    converted, dead, unknown = {}, [], []
    head_names = [n.removeprefix(_HEAD_PREFIX) for n in state_dict if n.startswith(_HEAD_PREFIX)]
    head_kind = find_head_kind(head_names) or "fcos"
    for name, tensor in state_dict.items():
        our_name = convert_mmrotate_name(name, head_kind)
        if our_name is not None:
            is_context = name == "contexts" and tensor.dim() == 3
            converted[our_name] = tensor.squeeze(0) if is_context else tensor
        elif name.startswith(DEAD_PREFIXES):
            dead.append(name)
        else:
            unknown.append(name)
    return ConvertedStateDict(converted, dead, unknown)


def convert_mmrotate_name(name: str, head_kind: HeadKind = "fcos") -> str | None:
    """Return our name of a tensor, or None if it is dead there (see DEAD_PREFIXES) or unknown.

    Args:
        name: the reference's name, such as ``backbone.visual.conv1.weight``.
        head_kind: the model's head; one name can mean different tensors in different heads.
    """
    if name in _SINGLE_NAMES:
        return _SINGLE_NAMES[name]
    for theirs, ours in _PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    if name.startswith(_HEAD_PREFIX):
        head_name = convert_head_name(name.removeprefix(_HEAD_PREFIX), head_kind)
        return None if head_name is None else f"head.{head_name}"
    return _convert_neck_name(name) or _convert_decoder_name(name)


def _convert_neck_name(name: str) -> str | None:
    """Return our name of a pyramid convolution, or None."""
    match = _NECK_CONV.match(name)
    if match is None:
        return None
    kind, index, suffix = match[1], int(match[2]), match[3]
    if kind == "lateral":
        return f"neck.lateral_convs.{index}.{suffix}"
    if index < NUM_NECK_INPUTS:
        return f"neck.output_convs.{index}.{suffix}"
    return f"neck.extra_convs.{index - NUM_NECK_INPUTS}.{suffix}"


def _convert_decoder_name(name: str) -> str | None:
    """Return our name of a context decoder's tensor, or None."""
    match = _DECODER.match(name)
    if match is None:
        return None
    rest = re.sub(r"^text_proj\.", "query_proj.", match[2])
    rest = re.sub(r"^decoder\.", "layers.", rest)
    rest = re.sub(r"_attn\.proj\.", "_attn.out_proj.", rest)
    return f"{_DECODER_NAMES[match[1]]}.{rest}"
