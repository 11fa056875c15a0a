"""A CLIP small enough for tests: RN50's structure, one block per stage, width 8."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tcm_d2.modeling.clip.weights import CLIPConfig, CLIPTowers, build_clip_towers

PROMPTS = ["plane", "small vehicle", "ground track field"]
SMALL_CLIP = CLIPConfig(
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
    with_text=True,
    class_prompts=PROMPTS,
    tokens_per_class=8,
)


def small_towers(**changes: object) -> CLIPTowers:
    """Build the small towers with some settings changed."""
    return build_clip_towers(replace(SMALL_CLIP, **changes))


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
