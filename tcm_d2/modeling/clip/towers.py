"""CLIP as open_clip builds it, by the name of an architecture or by its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import open_clip
from open_clip.model import CLIP
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

CUSTOM_NAME = "custom"
# The image tower's coarsest stride.
GRID_STRIDE_PX = 32


class TextSide(NamedTuple):
    """What prompts a backbone by text: its ``take_text_side()`` gives this away, once.

    Attributes:
        attention_pool: res5 -> global and dense tokens of the joint space.
        clip: the CLIP whose text tower is to be taken over.
        joint_width: C, of the space of images and text.
        token_width: D, of the text tower's tokens.
        problem: why it cannot be used with the weights that the image tower has; "" if it can.
    """

    attention_pool: nn.Module
    clip: CLIP
    joint_width: int
    token_width: int
    problem: str


def take_text_side(backbone: nn.Module, *, is_needed: bool) -> TextSide | None:
    """Return what a backbone has to be prompted by text, which it gives away once.

    Raises:
        ValueError: it is needed, and there is none, or its weights are unusable.
    """
    # Taken in any case, so that nothing keeps it in memory.
    text_side: TextSide | None = getattr(backbone, "take_text_side", lambda: None)()
    if not is_needed:
        return None
    if text_side is None:
        raise ValueError(
            f"backbone: {type(backbone).__name__} has no text tower for TCM; use CLIP's "
            "(MODEL.BACKBONE.NAME build_clip_resnet_backbone), or switch TCM off "
            "(MODEL.TCM.ENABLED False; Python: model.tcm and model.class_text None)"
        )
    if text_side.problem:
        raise ValueError(text_side.problem)
    return text_side


def build_clip(architecture: dict[str, Any], *, position_image_size_px: int) -> CLIP:
    """Return a CLIP with a ResNet image tower and random weights.

    Args:
        architecture: from `named_architecture` or `custom_architecture`.
        position_image_size_px: image side for whose stride-32 grid the positional embedding of the
            attention pool is stored.

    Raises:
        ValueError: that side is no positive multiple of 32.
    """
    if position_image_size_px < GRID_STRIDE_PX or position_image_size_px % GRID_STRIDE_PX:
        raise ValueError(
            f"position image size: expected a positive multiple of {GRID_STRIDE_PX} px, got "
            f"{position_image_size_px}; set MODEL.CLIP.POSITION_IMAGE_SIZE_PX"
        )
    clip = CLIP(
        architecture["embed_dim"],
        {**architecture["vision_cfg"], "image_size": position_image_size_px},
        architecture["text_cfg"],
        quick_gelu=architecture.get("quick_gelu", False),
    )
    assert isinstance(clip.visual, ModifiedResNet)
    return clip


def custom_architecture(
    *,
    embed_dim: int,
    vision_layers: Sequence[int],
    vision_width: int,
    text_width: int,
    text_heads: int,
    text_layers: int,
    vocab_size: int,
    context_length: int,
) -> dict[str, Any]:
    """Return open_clip's description of an architecture given by numbers.

    Args:
        embed_dim: joint width C.
        vision_layers: blocks of the four stages.
        vision_width: channels of the stem; even.
        text_width: token width D.
        text_heads: attention heads of the text tower.
        text_layers: its layers.
        vocab_size: rows of its token embedding.
        context_length: its positions.

    Raises:
        ValueError: there are not four stages, or a width cannot be divided.
    """
    if len(vision_layers) != 4 or vision_width % 2:
        raise ValueError(
            "custom CLIP: expected four stages and an even width, got stages "
            f"{list(vision_layers)} and width {vision_width}; set "
            "MODEL.CLIP.VISION_LAYERS and VISION_WIDTH"
        )
    if text_width % text_heads:
        raise ValueError(
            f"custom CLIP: expected a text width divisible by its {text_heads} heads, got "
            f"{text_width}; set MODEL.CLIP.TEXT_WIDTH or TEXT_HEADS"
        )
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {"layers": list(vision_layers), "width": vision_width},
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text_heads,
            "layers": text_layers,
        },
        # As in all of OpenAI's models, which this keeps the shape of.
        "quick_gelu": True,
    }


def named_architecture(name: str, *, context_length: int) -> dict[str, Any]:
    """Return open_clip's description of one of its own ResNet architectures.

    Args:
        name: such as "RN50-quickgelu".
        context_length: must be the architecture's own.

    Raises:
        ValueError: the name is unknown or no ResNet's, or the context length another one.
    """
    # A hub name would be downloaded; only what ships with open_clip is known here.
    known = open_clip.list_models()
    architecture = open_clip.get_model_config(name) if name in known else None
    if architecture is None or not isinstance(architecture["vision_cfg"].get("layers"), list):
        resnets = ", ".join(known_name for known_name in known if known_name.startswith("RN"))
        raise ValueError(
            f"CLIP architecture: expected one with a ResNet image tower ({resnets}, or "
            f"{CUSTOM_NAME!r}), got {name!r}; set MODEL.CLIP.NAME"
        )
    own_length = architecture["text_cfg"]["context_length"]
    if own_length != context_length:
        raise ValueError(
            f"context length: expected {own_length} ({name}), got "
            f"{context_length}; set MODEL.CLIP.CONTEXT_LENGTH"
        )
    return architecture
