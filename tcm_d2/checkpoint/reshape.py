"""Fit tensors that have our names into a model's shapes: the few that may differ are reshaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from tcm_d2.checkpoint.convert import NUM_NECK_INPUTS, find_own_head
from tcm_d2.checkpoint.load_report import Reshaped, Shape
from tcm_d2.modeling.clip.attention_pool import resize_positional_embedding
from tcm_d2.modeling.clip.weights import first_text_positions

_IMAGE_POSITIONS = "attention_pool.positional_embedding"
_TEXT_POSITIONS = "text_encoder.positional_embedding"
# Convolutions whose input may have the score map joined to res5.
_AFTER_SCORE_MAP = re.compile(r"neck\.(lateral_convs\.\d+|extra_convs\.0)\.weight")
# Its first dimension is the number of channels of res5.
_RES5_NAME = "backbone.layer4.0.conv3.weight"
_HEAD_PREFIX, _NECK_PREFIX = "head.", "neck."
_LATERAL = re.compile(r"neck\.lateral_convs\.\d+\.weight")
# First names of the image tower of Detectron2's ResNet, and of CLIP's.
_RESNET_PREFIX, _CLIP_PREFIX = "backbone.stem.", "backbone.layer1."
# Towers that are worth nothing in parts.
_TOWERS = {
    "backbone.": "image tower",
    "attention_pool.": "attention pool",
    "text_encoder.": "text tower",
}
# Counters of BatchNorm, which frozen normalisation has not and nothing reads.
COUNTER_SUFFIX = ".num_batches_tracked"


class Fit(NamedTuple):
    """Tensors in a model's names and shapes, and those that have another shape.

    Attributes:
        tensors: ready to load.
        reshaped: those of them that were given another shape.
        mismatched: (name, shape in the file, shape in the model).
        notes: why a whole part was left out, one sentence each.
    """

    tensors: dict[str, Tensor]
    reshaped: list[Reshaped]
    mismatched: list[tuple[str, Shape, Shape]]
    notes: list[str]


def fit_tensors(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Fit:
    """Return those of ``tensors`` that a model has, in the model's shapes.

    Positional embeddings are resized (image) or cut (text); convolutions on res5 keep its columns
    where those of the score map are more, fewer or none. A head of another kind and a tower of
    another architecture are left out whole: some of their layers would fit, and mean others.

    Args:
        tensors: by our names.
        own: the model's state dict; only names and shapes are read.

    Raises:
        ValueError: the text tower has fewer positions in the file.
    """
    fit = Fit({}, [], [], [])
    left_out = _find_foreign_parts(tensors, own)
    for prefix, reason in left_out.items():
        fit.notes.append(f"{reason}: {prefix}* not loaded")
    for name, tensor in tensors.items():
        if name not in own:
            continue
        shapes = tuple(tensor.shape), tuple(own[name].shape)
        if name.startswith(tuple(left_out)):
            if shapes[0] != shapes[1]:
                fit.mismatched.append((name, *shapes))
            continue
        if shapes[0] == shapes[1]:
            fit.tensors[name] = tensor
            continue
        changed = _reshape(name, tensors, own)
        if changed is None:
            fit.mismatched.append((name, *shapes))
        else:
            fit.tensors[name] = changed[0]
            fit.reshaped.append(Reshaped(name, *shapes, changed[1]))
    return fit


def _find_foreign_parts(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return why parts of the model cannot come from the file, by the prefix of their names."""
    reasons = {}
    theirs, ours = find_own_head(tensors), find_own_head(own)
    if theirs is not None and ours is not None and theirs != ours:
        reasons[_HEAD_PREFIX] = f"the file's head is {theirs.title}'s, the model's {ours.title}'s"
    laterals = [
        sum(_LATERAL.fullmatch(name) is not None for name in names) for names in (tensors, own)
    ]
    if all(laterals) and laterals[0] != laterals[1] and laterals[0] >= NUM_NECK_INPUTS:
        reasons[_NECK_PREFIX] = (
            f"the file's pyramid is over {laterals[0]} stages, the model's over {laterals[1]}"
        )
    for prefix, tower in _TOWERS.items():
        if not any(name.startswith(prefix) for name in own):
            continue
        for name, tensor in tensors.items():
            if not name.startswith(prefix) or name.endswith(COUNTER_SUFFIX):
                continue
            if name in (_IMAGE_POSITIONS, _TEXT_POSITIONS):
                continue
            if name not in own or own[name].shape != tensor.shape:
                reasons[prefix] = f"the file's {tower} is another one (see {name})"
                if name.startswith(_RESNET_PREFIX) and any(n.startswith(_CLIP_PREFIX) for n in own):
                    reasons[prefix] = (
                        f"the file's {tower} is an ordinary ResNet, not CLIP's (other stem, other "
                        "strides; MODEL.CLIP.WEIGHTS gives CLIP's)"
                    )
                break
    return reasons


def _reshape(
    name: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[Tensor, str] | None:
    """Return a tensor in the model's shape and what was done to it, or None."""
    tensor, shape = tensors[name], own[name].shape
    if name == _IMAGE_POSITIONS and tensor.dim() == 2 and tensor.shape[1] == shape[1]:
        grid = round((shape[0] - 1) ** 0.5)
        return resize_positional_embedding(tensor.float(), (grid, grid)), "grid resized"
    if name == _TEXT_POSITIONS and tensor.dim() == 2 and tensor.shape[1] == shape[1]:
        return first_text_positions(tensor, shape[0]), "first positions"
    if _AFTER_SCORE_MAP.fullmatch(name):
        return _change_score_map_columns(name, tensors, own)
    return None


def _change_score_map_columns(
    name: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[Tensor, str] | None:
    """Return a convolution with its columns for res5 kept and those for the score map zero.

    Zero columns ignore the score map at first, and learn: their gradient is not zero.
    """
    tensor, empty = tensors[name], own[name]
    if _RES5_NAME not in own or tensor.dim() != 4:
        return None
    num_kept = own[_RES5_NAME].shape[0]
    # A file without a CLIP backbone has no score map either.
    num_theirs = len(tensors[_RES5_NAME]) if _RES5_NAME in tensors else tensor.shape[1]
    same_rest = (tensor.shape[0], *tensor.shape[2:]) == (empty.shape[0], *empty.shape[2:])
    if num_theirs != num_kept or not same_rest or min(tensor.shape[1], empty.shape[1]) < num_kept:
        return None
    changed = tensor.new_zeros(empty.shape)
    changed[:, :num_kept] = tensor[:, :num_kept]
    num_new = empty.shape[1] - num_kept
    how = f"{num_new} columns of the score map zero" if num_new else "without the score map"
    return changed, how
