"""A CLIP small enough for tests: RN50's structure, one block per stage, width 8; heads alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import nn

from tcm_d2.config.nodes import build_node
from tcm_d2.modeling.backbone.clip_resnet import CLIPResNet, build_clip_resnet
from tcm_d2.modeling.class_text import ClassText, ClassTextConfig
from tcm_d2.modeling.clip.attention_pool import DenseAttentionPool
from tcm_d2.modeling.clip.towers import take_text_side
from tcm_d2.modeling.detector import head_node

PROMPTS = ["plane", "small vehicle", "ground track field"]
TEXT = ClassTextConfig(class_names=PROMPTS, template="{label}", tokens_per_class=8)
SMALL_CLIP: dict[str, Any] = dict(
    name="custom",
    weights="",
    embed_dim=48,
    vision_layers=(1, 1, 1, 1),
    vision_width=8,
    text_width=64,
    text_heads=1,
    text_layers=2,
    vocab_size=49408,
    context_length=20,
    position_image_size_px=128,
    norm="BN",
)


class Towers(NamedTuple):
    """The parts of a CLIP."""

    image: CLIPResNet
    attention_pool: DenseAttentionPool
    text: ClassText


def small_towers(*, text: ClassTextConfig = TEXT, **changes: object) -> Towers:
    """Build the small towers with some settings changed."""
    image = build_clip_resnet(**{**SMALL_CLIP, **changes})
    text_side = take_text_side(image, is_needed=True)
    return Towers(image, text_side.attention_pool, ClassText(text_side.clip, text, num_classes=3))


def build_head(cfg: CfgNode) -> nn.Module:
    """Return the head that a configuration asks for, alone."""
    head: nn.Module = build_node(head_node(cfg))
    return head


def randomize(module: nn.Module) -> None:
    """Fill every parameter, so that none starts at a zero that hides a missing gradient."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def assert_every_parameter_gets_gradient(module: nn.Module, *, zero_ok: str = "") -> None:
    """Check gradients; those whose name ends with ``zero_ok`` are zero by mathematics."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not (zero_ok and name.endswith(zero_ok)):
            assert parameter.grad.abs().max() > 0, name
