"""CLIP's modified ResNet as a feature extractor: four stages, no pooling head.

Shape letters: N images, H x W the input size in pixels, w the tower's width (64 for RN50).
"""

from __future__ import annotations

import torch
from detectron2.layers import FrozenBatchNorm2d
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from tcm_d2.layers.recomputing import run_past_norm, run_recomputed
from tcm_d2.layers.sync_norm import SyncBatchNorm2d

NORMS = ("BN", "FrozenBN", "SyncBN")
# Strides of res2 .. res5 in pixels.
STRIDES_PX = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class CLIPResNet(nn.Module):
    """The stem and the four stages of a CLIP ResNet.

    Every stride is an average pool before a stride-1 convolution (Radford et al. 2021, section
    2.4). Parameters keep CLIP's names (``conv1.weight`` .. ``layer4.2.bn3.bias``).

    For the backward pass a block keeps its input and the outputs of its first two convolutions; the
    rest is made again from them, at the cost of norms and 1x1 convolutions.

    Attributes:
        out_channels: channels of each output by name.
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
        self.out_channels = {
            "res2": self.layer1[-1].conv3.out_channels,
            "res3": self.layer2[-1].conv3.out_channels,
            "res4": self.layer3[-1].conv3.out_channels,
            "res5": self.layer4[-1].conv3.out_channels,
        }
        if norm == "FrozenBN":
            FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        elif norm == "SyncBN":
            SyncBatchNorm2d.replace_in(self)
        self.checkpoint_activations = False

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
