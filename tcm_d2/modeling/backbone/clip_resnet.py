"""CLIP's modified ResNet as a Detectron2 backbone: four stages, no pooling head.

Shape letters: N images, H x W the input size in pixels, w the tower's width (64 for RN50).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from tcm_d2.config.nodes import configurable_with_nodes
from tcm_d2.layers.recomputing import run_past_norm, run_recomputed
from tcm_d2.layers.sync_norm import SyncBatchNorm2d
from tcm_d2.modeling.clip.attention_pool import DenseAttentionPool
from tcm_d2.modeling.clip.towers import (
    CUSTOM_NAME,
    TextSide,
    build_clip,
    custom_architecture,
    named_architecture,
)
from tcm_d2.modeling.clip.weights import load_clip_weights, read_clip_state_dict
from tcm_d2.weight_files.unpickling import is_torchscript

logger = logging.getLogger(__name__)

NORMS = ("BN", "FrozenBN", "SyncBN")
# Strides of res2 .. res5 in pixels.
STRIDES_PX = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class CLIPResNet(Backbone):  # type: ignore[misc]
    """The stem and the four stages of a CLIP ResNet.

    Every stride is an average pool before a stride-1 convolution (Radford et al. 2021, section
    2.4). Parameters keep CLIP's names (``conv1.weight`` .. ``layer4.2.bn3.bias``).

    For the backward pass a block keeps its input and the outputs of its first two convolutions; the
    rest is made again from them, at the cost of norms and 1x1 convolutions.

    Attributes:
        checkpoint_activations: keep only each block's input for the backward pass, and run the
            block again there.
    """

    def __init__(self, tower: ModifiedResNet, *, norm: str) -> None:
        """Take over the stem and stages of ``tower``; its attention pool is left behind.

        Args:
            tower: a CLIP image tower, with weights if it is to have any: frozen normalisation
                copies them.
            norm: "BN" (batch statistics in training), "FrozenBN" (fixed statistics and affine
                parameters) or "SyncBN" (batch statistics over all processes).

        Raises:
            ValueError: ``norm`` is none of these.
        """
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
        self.conv1, self.bn1, self.act1 = tower.conv1, tower.bn1, tower.act1
        self.conv2, self.bn2, self.act2 = tower.conv2, tower.bn2, tower.act2
        self.conv3, self.bn3, self.act3 = tower.conv3, tower.bn3, tower.act3
        self.avgpool = tower.avgpool
        self.layer1, self.layer2 = tower.layer1, tower.layer2
        self.layer3, self.layer4 = tower.layer3, tower.layer4
        if norm == "FrozenBN":
            FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        elif norm == "SyncBN":
            SyncBatchNorm2d.replace_in(self)
        self.checkpoint_activations = False
        self._text_side: TextSide | None = None

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output by name."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return {
            name: ShapeSpec(channels=stage[-1].conv3.out_channels, stride=stride_px)
            for (name, stride_px), stage in zip(STRIDES_PX.items(), stages, strict=True)
        }

    def take_text_side(self) -> TextSide | None:
        """Return what CLIP has besides the image tower, the first time; None after that."""
        text_side, self._text_side = self._text_side, None
        return text_side

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the output of each stage.

        Args:
            images: (N, 3, H, W), normalised with CLIP's mean and deviation. Sizes that are no
                multiple of 32 lose the remainder, stage by stage.

        Returns:
            "res2" .. "res5": (N, 4w .. 32w, H/4 .. H/32, W/4 .. W/32).
        """
        if self.checkpoint_activations:
            x = run_recomputed(self.stem, images, norms_of=self)
        else:
            x = self.stem(images)
        keeps_less = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        features = {}
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        for name, stage in zip(STRIDES_PX, stages, strict=True):
            for block in stage:
                if self.checkpoint_activations:
                    x = run_recomputed(block, x, norms_of=block)
                else:
                    x = _run_block(block, x) if keeps_less else block(x)
            features[name] = x
        return features

    def stem(self, images: Tensor) -> Tensor:
        """Return what the first stage gets, (N, w, H/4, W/4)."""
        x = self.conv1(images)
        x = run_past_norm(lambda x: self.conv2(self.act1(self.bn1(x))), x, norms_of=self.bn1)
        x = run_past_norm(lambda x: self.conv3(self.act2(self.bn2(x))), x, norms_of=self.bn2)
        return run_past_norm(lambda x: self.avgpool(self.act3(self.bn3(x))), x, norms_of=self.bn3)


def _run_block(block: nn.Module, x: Tensor) -> Tensor:
    """Return what ``block``, open_clip's bottleneck, makes of ``x``, keeping less than it does."""

    def to_middle(out: Tensor) -> Tensor:
        return block.conv2(block.act1(block.bn1(out)))

    def to_end(out: Tensor) -> Tensor:
        return block.bn3(block.conv3(block.avgpool(block.act2(block.bn2(out)))))

    out = run_past_norm(to_middle, block.conv1(x), norms_of=block.bn1)
    out = run_past_norm(to_end, out, norms_of=block)
    if block.downsample is not None:
        x = run_past_norm(block.downsample, x, norms_of=block.downsample)
    return block.act3(out.add_(x))


def clip_resnet_arguments(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
    """Return the arguments of `build_clip_resnet` for a Detectron2 configuration."""
    clip = cfg.MODEL.CLIP
    return {
        "name": clip.NAME,
        "weights": clip.WEIGHTS,
        "embed_dim": clip.EMBED_DIM,
        "vision_layers": clip.VISION_LAYERS,
        "vision_width": clip.VISION_WIDTH,
        "text_width": clip.TEXT_WIDTH,
        "text_heads": clip.TEXT_HEADS,
        "text_layers": clip.TEXT_LAYERS,
        "vocab_size": clip.VOCAB_SIZE,
        "context_length": clip.CONTEXT_LENGTH,
        "position_image_size_px": clip.POSITION_IMAGE_SIZE_PX,
        "norm": clip.NORM,
    }


@configurable_with_nodes(from_config=clip_resnet_arguments)
def build_clip_resnet(
    *,
    name: str,
    weights: str,
    embed_dim: int,
    vision_layers: Sequence[int],
    vision_width: int,
    text_width: int,
    text_heads: int,
    text_layers: int,
    vocab_size: int,
    context_length: int,
    position_image_size_px: int,
    norm: str,
) -> CLIPResNet:
    """Build CLIP, read its weights if any, and return its image tower, which has the rest to give.

    Args:
        name: an open_clip architecture with a ResNet image tower, or "custom".
        weights: file with the weights of a whole CLIP model; "" keeps random ones.
        embed_dim: this and the next six are read only with "custom"; see `custom_architecture`.
        context_length: must be the named architecture's own.
        position_image_size_px: see `build_clip`.
        norm: see `CLIPResNet`.

    Raises:
        FileNotFoundError: the weights file is missing.
        ValueError: the architecture is unknown or has no ResNet, a size does not fit, or the
            weights are unreadable or another model's.
    """
    if name == CUSTOM_NAME:
        architecture = custom_architecture(
            embed_dim=embed_dim,
            vision_layers=vision_layers,
            vision_width=vision_width,
            text_width=text_width,
            text_heads=text_heads,
            text_layers=text_layers,
            vocab_size=vocab_size,
            context_length=context_length,
        )
    else:
        architecture = named_architecture(name, context_length=context_length)
    if weights and not architecture.get("quick_gelu", False) and _is_openai_archive(weights):
        logger.warning(
            "%s: an OpenAI archive was trained with QuickGELU, which %s has not; set "
            "MODEL.CLIP.NAME to %s-quickgelu",
            *(weights, name, name),
        )
    clip = build_clip(architecture, position_image_size_px=position_image_size_px)
    problem = ""
    if weights:
        problem = load_clip_weights(clip, read_clip_state_dict(weights), source=weights)
    backbone = CLIPResNet(clip.visual, norm=norm)
    backbone._text_side = TextSide(
        attention_pool=DenseAttentionPool(clip.visual.attnpool),
        clip=clip,
        joint_width=clip.text_projection.shape[1],
        token_width=clip.token_embedding.embedding_dim,
        problem=problem,
    )
    return backbone


# The name that Detectron2's users look for: build_clip_resnet_backbone(cfg, input_shape).
BACKBONE_REGISTRY._do_register("build_clip_resnet_backbone", build_clip_resnet)


def _is_openai_archive(weights: str) -> bool:
    """Return whether a weights file is in the format that OpenAI publishes."""
    path = Path(weights).expanduser()
    return path.is_file() and is_torchscript(path)
