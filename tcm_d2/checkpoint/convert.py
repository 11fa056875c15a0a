"""Names of tensors in mmrotate's, CLIP's and torchvision's files, and ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from tcm_d2.checkpoint.load_report import Reshaped
from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY, import_parts
from tcm_d2.modeling.clip.weights import POOL_PREFIX, UNUSED_NAMES
from tcm_d2.modeling.heads.contract import ForeignNames
from tcm_d2.weight_files.description import Naming, find_naming

# Of a pyramid whose lateral convolutions are not there to be counted: it takes res3 .. res5. The
# reference keeps the extra levels' convolutions in the same list.
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
_CLIP_PREFIXES = {POOL_PREFIX: "attention_pool.", "visual.": "backbone."}
_CLIP_TEXT_NAME = re.compile(
    r"^(token_embedding\.|transformer\.|ln_final\.|positional_embedding$|text_projection$)"
)
_NECK_CONV = re.compile(r"^neck\.(lateral|fpn)_convs\.(\d+)\.conv\.(weight|bias)$")
_LATERAL_CONV = re.compile(r"^neck\.lateral_convs\.\d+\.conv\.weight$")
# A ResNet in torchvision's names: the stem, and a block's convolution, norm or shortcut.
_STEM = re.compile(r"^(conv|bn)1\.(\w+)$")
_BLOCK = re.compile(r"^layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)$")
# torchvision's classifier.
_CLASSIFIER = "fc."
_DECODER = re.compile(r"^(vis|text)_context_decoder\.(.+)$")
_DECODER_NAMES = {"vis": "tcm.visual_decoder", "text": "tcm.text_decoder"}
_HEAD_PREFIX, _OWN_HEAD_PREFIX = "bbox_head.", "head."
# A tower's block in mmrotate is a convolution, perhaps a norm, and an activation.
_TOWER = re.compile(r"^(cls|reg)_convs\.(\d+)\.(conv|gn)\.(weight|bias)$")
_TOWER_NAMES = {"cls": "class_tower", "reg": "box_tower"}
# What all heads have here, so that it tells none from another.
_COMMON_MODULES = {*_TOWER_NAMES.values(), "class_predictor"}


class ConvertedStateDict(NamedTuple):
    """A checkpoint in our names, and what of it has no place here.

    Attributes:
        state_dict: tensors by our names.
        dead: source names of tensors that no detector of ours uses.
        unknown: source names that match nothing.
        naming: whose names they were.
        reshaped: tensors given another shape.
        notes: why whole parts were left out, one sentence each.
    """

    state_dict: dict[str, Tensor]
    dead: list[str]
    unknown: list[str]
    naming: Naming
    reshaped: list[Reshaped]
    notes: list[str]


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> ConvertedStateDict:
    """Return a state dict of any known kind in our names. Values are shared, not copied.

    Names that no kind claims stay as they are.

    Args:
        state_dict: tensors by the names of the file they are from.
    """
    naming = find_naming(state_dict)
    if naming in ("mmrotate TCM", "mmrotate"):
        return convert_mmrotate_state_dict(state_dict)
    if naming == "CLIP":
        return _convert_clip_state_dict(state_dict)
    if naming == "torchvision":
        return _convert_torchvision_state_dict(state_dict)
    return ConvertedStateDict(dict(state_dict), [], [], naming, [], [])


def convert_mmrotate_state_dict(state_dict: Mapping[str, Tensor]) -> ConvertedStateDict:
    """Return the state dict of an mmrotate detector, with TCM or without, in our names.

    No value changes: the heads regress in the reference's own frame, and the coders convert. Only
    one tensor changes its shape: the context loses a leading axis of length one. A backbone other
    than CLIP's gets the names of Detectron2's ResNet.

    Args:
        state_dict: tensors by the reference's names.
    """
    converted = {}
    dead: list[str] = []
    unknown: list[str] = []
    reshaped, notes = [], _mmrotate_notes(state_dict)
    num_neck_inputs = count_neck_inputs(state_dict)
    head = _head_of_mmrotate(state_dict)
    for name, tensor in state_dict.items():
        our_name = convert_mmrotate_name(name, head, num_neck_inputs=num_neck_inputs)
        if our_name is None:
            (dead if name.startswith(DEAD_PREFIXES) else unknown).append(name)
            continue
        if name == "contexts" and tensor.dim() == 3:
            before, tensor = tensor, tensor.squeeze(0)
            how = "without the leading axis"
            reshaped.append(Reshaped(our_name, tuple(before.shape), tuple(tensor.shape), how))
        converted[our_name] = tensor
    naming = find_naming(state_dict)
    return ConvertedStateDict(converted, dead, unknown, naming, reshaped, notes)


def _head_of_mmrotate(state_dict: Mapping[str, Tensor]) -> ForeignNames | None:
    """Return whose head the names are; of several with such stages the one with most modules."""
    parts = {part for name in state_dict for part in name.split(".")}
    refined = [head for head in known_heads() if _has_last_stage(head, state_dict)]
    if refined:
        return max(refined, key=lambda head: len(parts & set(head.modules)))
    return find_foreign_head(
        n.removeprefix(_HEAD_PREFIX) for n in state_dict if n.startswith(_HEAD_PREFIX)
    )


def _has_last_stage(head: ForeignNames, names: Iterable[str]) -> bool:
    last = tuple(theirs for theirs, ours in head.stages.items() if not ours)
    return bool(last) and any(name.startswith(last) for name in names)


def known_heads() -> Iterator[ForeignNames]:
    """Yield the names that each registered head has in mmrotate's checkpoints."""
    import_parts()
    for _, head in ROTATED_HEAD_REGISTRY:
        if hasattr(head, "foreign_names"):
            yield head.foreign_names


def find_foreign_head(names: Iterable[str]) -> ForeignNames | None:
    """Return whose head these are, or None.

    Args:
        names: mmrotate's names below ``bbox_head.``.
    """
    modules = {name.partition(".")[0] for name in names}
    for head in (head for head in known_heads() if not head.stages):
        if any(ours == "class_predictor" and m in modules for m, ours in head.modules.items()):
            return head
    return None


def find_own_head(names: Iterable[str]) -> ForeignNames | None:
    """Return which registered head is among the names of a whole detector of ours, or None.

    It is the one with the fewest modules that has all that are there.
    """
    modules = {name.split(".")[1] for name in names if name.startswith(_OWN_HEAD_PREFIX)}
    modules -= _COMMON_MODULES
    fitting = [head for head in known_heads() if modules and modules <= _own_modules(head)]
    return min(fitting, key=lambda head: len(head.modules), default=None)


def _own_modules(head: ForeignNames) -> set[str]:
    return {name.partition(".")[0] for name in (*head.modules.values(), *head.stages.values())}


def convert_head_name(name: str, head: ForeignNames) -> str | None:
    """Return our name of a rotated head's tensor, or None if it is not one.

    No value changes: the heads regress in the reference's own frame, and the coders convert.

    Args:
        name: name below ``bbox_head.``, such as ``cls_convs.0.conv.weight``.
        head: the head it belongs to.
    """
    tower = _TOWER.match(name)
    if tower is not None:
        branch, block, layer_kind, suffix = tower.groups()
        layer = head.layers_per_block * int(block) + (layer_kind == "gn")
        return f"{_TOWER_NAMES[branch]}.{layer}.{suffix}"
    first, _, rest = name.partition(".")
    ours = head.modules.get(first)
    return f"{ours}.{rest}" if ours is not None and rest else None


def count_neck_inputs(names: Iterable[str]) -> int:
    """Return of how many stages mmrotate's pyramid is made."""
    # Parts of a state dict are welcome too.
    return max(sum(_LATERAL_CONV.match(name) is not None for name in names), NUM_NECK_INPUTS)


def _mmrotate_notes(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Return why parts of an mmrotate detector have no place in ours."""
    notes = []
    has_head = any(name.startswith(_HEAD_PREFIX) for name in state_dict)
    if has_head and _head_of_mmrotate(state_dict) is None:
        titles = ", ".join(head.title for head in known_heads())
        notes.append(f"the file's head is none of {titles}: not loaded")
    return notes


def convert_mmrotate_name(
    name: str, head: ForeignNames | None, *, num_neck_inputs: int = NUM_NECK_INPUTS
) -> str | None:
    """Return our name of a tensor, or None if it is dead there (see DEAD_PREFIXES) or unknown.

    Args:
        name: the reference's name, such as ``backbone.visual.conv1.weight``.
        head: the model's head; one name can mean different tensors in different heads. None
            knows no head.
        num_neck_inputs: see `count_neck_inputs`.
    """
    if name in _SINGLE_NAMES:
        return _SINGLE_NAMES[name]
    for theirs, ours in _PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    for theirs, ours in ({} if head is None else head.stages).items():
        if head is not None and name.startswith(theirs):
            head_name = convert_head_name(name.removeprefix(theirs), head)
            return None if head_name is None else f"head.{ours}{head_name}"
    if name.startswith(_HEAD_PREFIX):
        if head is None:
            return None
        head_name = convert_head_name(name.removeprefix(_HEAD_PREFIX), head)
        return None if head_name is None else f"head.{head_name}"
    if name.startswith("backbone."):
        resnet_name = convert_resnet_name(name.removeprefix("backbone."))
        return None if resnet_name is None else f"backbone.{resnet_name}"
    return _convert_neck_name(name, num_neck_inputs) or _convert_decoder_name(name)


def convert_resnet_name(name: str) -> str | None:
    """Return Detectron2's name of one of torchvision's ResNet's tensors, or None.

    Args:
        name: such as ``layer1.0.downsample.1.running_mean``.
    """
    if match := _STEM.match(name):
        return f"stem.conv1.{'norm.' if match[1] == 'bn' else ''}{match[2]}"
    match = _BLOCK.match(name)
    if match is None:
        return None
    stage, block, kind, index, suffix = match.groups()
    if kind == "downsample.":
        layer, is_norm = "shortcut", index == "1"
    else:
        layer, is_norm = f"conv{index}", kind == "bn"
    return f"res{int(stage) + 1}.{block}.{layer}.{'norm.' if is_norm else ''}{suffix}"


def _convert_neck_name(name: str, num_inputs: int) -> str | None:
    """Return our name of a pyramid convolution, or None."""
    match = _NECK_CONV.match(name)
    if match is None:
        return None
    kind, index, suffix = match[1], int(match[2]), match[3]
    if kind == "lateral":
        return f"neck.lateral_convs.{index}.{suffix}"
    if index < num_inputs:
        return f"neck.output_convs.{index}.{suffix}"
    return f"neck.extra_convs.{index - num_inputs}.{suffix}"


def _convert_decoder_name(name: str) -> str | None:
    """Return our name of a context decoder's tensor, or None."""
    match = _DECODER.match(name)
    if match is None:
        return None
    rest = re.sub(r"^text_proj\.", "query_proj.", match[2])
    rest = re.sub(r"^decoder\.", "layers.", rest)
    rest = re.sub(r"_attn\.proj\.", "_attn.out_proj.", rest)
    return f"{_DECODER_NAMES[match[1]]}.{rest}"


def _convert_torchvision_state_dict(state_dict: Mapping[str, Tensor]) -> ConvertedStateDict:
    """Return the state dict of a ResNet for ImageNet as that of a detector's backbone."""
    converted = {}
    unknown: list[str] = []
    for name, tensor in state_dict.items():
        our_name = convert_resnet_name(name)
        if our_name is not None:
            converted[f"backbone.{our_name}"] = tensor
        elif not name.startswith(_CLASSIFIER):
            unknown.append(name)
    dead = [name for name in state_dict if name.startswith(_CLASSIFIER)]
    return ConvertedStateDict(converted, dead, unknown, "torchvision", [], [])


def _convert_clip_state_dict(state_dict: Mapping[str, Tensor]) -> ConvertedStateDict:
    """Return the state dict of a whole CLIP with a ResNet image tower in our names."""
    converted = {}
    dead: list[str] = []
    unknown: list[str] = []
    for name, tensor in state_dict.items():
        our_name = convert_clip_name(name)
        if our_name is not None:
            converted[our_name] = tensor
        else:
            (dead if name in UNUSED_NAMES else unknown).append(name)
    return ConvertedStateDict(converted, dead, unknown, "CLIP", [], [])


def convert_clip_name(name: str) -> str | None:
    """Return our name of one of CLIP's tensors, or None.

    Args:
        name: CLIP's name, such as ``visual.layer1.0.conv1.weight``.
    """
    for theirs, ours in _CLIP_PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return f"text_encoder.{name}" if _CLIP_TEXT_NAME.match(name) else None
