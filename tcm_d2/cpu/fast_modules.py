"""Modules that are fast on the CPU, each in the place of a plain one; see `accelerate`.

In evaluation without gradients they fold norms into convolutions and run on packed weights
(`InferenceLayers`); in training 3x3 convolutions run by Winograd's algorithm. Graphs that are
compiled, exported or traced hold what the plain module does.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d as NormedConv2d
from open_clip.modified_resnet import Bottleneck
from torch import Tensor, nn

from tcm_d2.cpu.fast_conv import conv3x3
from tcm_d2.cpu.inference_layers import (
    InferenceLayers,
    is_captured,
    is_float32_as_fast,
    is_norm,
    is_packable,
)
from tcm_d2.modeling.backbone.clip_resnet import CLIPResNet
from tcm_d2.modeling.clip.attention_pool import DenseAttentionPool
from tcm_d2.modeling.heads.towers import GroupNorm, Tower

# Grids whose resized embedding is kept: a few input sizes alternate, not hundreds.
MAX_KEPT_GRIDS = 8


class FastModule(nn.Module):
    """What all have: a plain class that they stand for, and memory for what they fold and pack.

    An object of the plain class becomes one of these, and back, by its ``__class__`` alone: it
    stays the same object, with its parameters, buffers, hooks and names.
    """

    PLAIN: ClassVar[type[nn.Module]]

    @classmethod
    def can_replace(cls, module: nn.Module) -> bool:
        """Return whether a module of exactly the plain class is one that gains."""
        return True

    @classmethod
    def put_in(cls, module: Any) -> None:
        """Turn a module of the plain class into one of these."""
        module._layers = InferenceLayers()
        module.__class__ = cls

    def take_out(self: Any) -> None:
        """Turn it back."""
        del self._layers
        self.__class__ = self.PLAIN

    def train(self: Any, mode: bool = True) -> Any:
        """Set the mode as ``nn.Module.train`` does, and forget what was folded and packed."""
        self._layers.clear()
        return super().train(mode)

    def infers(self, x: Tensor) -> bool:
        """Return whether this call may take the fast way of evaluation.

        Hooks on the modules below it, which are not called there, want the plain one.
        """
        if self.training or torch.is_grad_enabled() or is_captured() or x.device.type != "cpu":
            return False
        return not any(m._forward_hooks or m._forward_pre_hooks for m in self.children())


class FastConv2d(FastModule, nn.Conv2d):
    """A convolution by itself."""

    PLAIN = nn.Conv2d

    @classmethod
    def can_replace(cls, module: Any) -> bool:
        """Return whether kernels on packed weights can do it."""
        return is_packable(module)

    def forward(self: Any, input: Tensor) -> Tensor:
        """Return the convolution of (N, C, H, W)."""
        if self.infers(input):
            return self._layers.conv(self, input)
        out = conv3x3(self, input)
        return super().forward(input) if out is None else out


class FastNormedConv2d(FastModule, NormedConv2d):
    """Detectron2's convolution, which owns the norm and the activation behind it."""

    PLAIN = NormedConv2d

    @classmethod
    def can_replace(cls, module: Any) -> bool:
        """Return whether all of it can run as one."""
        is_known = module.activation in (None, F.relu, F.relu_) or _is_relu(module.activation)
        return is_known and (module.norm is None or is_norm(module.norm))

    def forward(self: Any, x: Tensor) -> Tensor:
        """Return the activation of the norm of the convolution of (N, C, H, W)."""
        if not self.infers(x):
            return super().forward(x)
        return self._layers.conv(self, x, norm=self.norm, relu=self.activation is not None)


class FastLinear(FastModule, nn.Linear):
    """A linear layer on tokens of images."""

    PLAIN = nn.Linear

    def forward(self: Any, input: Tensor) -> Tensor:
        """Return the outputs (..., O) of (..., I)."""
        return self._layers.linear(self, input) if self.infers(input) else super().forward(input)


class FastSequential(FastModule, nn.Sequential):
    """Convolutions, norms and ReLUs one after the other, among other layers."""

    PLAIN = nn.Sequential

    @classmethod
    def can_replace(cls, module: Any) -> bool:
        """Return whether there is a convolution, or a GroupNorm, with something to merge."""
        layers = list(module)
        return any(_is_conv(a) or _is_group_norm(a) for a in layers[:-1])

    def forward(self: Any, input: Tensor) -> Tensor:
        """Return the last layer's output."""
        if not self.infers(input):
            return super().forward(input)
        return run_chain(self._layers, self, input)


class FastTower(FastModule, Tower):
    """A tower of a head."""

    PLAIN = Tower

    def forward(self: Any, input: Tensor) -> Tensor:
        """Return the last layer's output, in float32 also under bfloat16 where that is as fast."""
        if not self.infers(input):
            return super().forward(input)
        if is_float32_as_fast(input):
            with torch.autocast("cpu", enabled=False):
                return run_chain(self._layers, self, input.float())
        return run_chain(self._layers, self, input)


class FastBottleneck(FastModule, Bottleneck):
    """open_clip's bottleneck of three convolutions."""

    PLAIN = Bottleneck

    @classmethod
    def can_replace(cls, module: Any) -> bool:
        """Return whether convolutions, norms and activations are the usual ones."""
        convs, norms = (module.conv1, module.conv2, module.conv3), (module.bn1, module.bn2)
        relus = (module.act1, module.act2, module.act3)
        is_usual = all(map(_is_conv, convs)) and all(map(is_norm, (*norms, module.bn3)))
        return is_usual and all(map(_is_relu, relus))

    def forward(self: Any, x: Tensor) -> Tensor:
        """Return the output of the block for (N, C, H, W)."""
        if not self.infers(x):
            return super().forward(x)
        run = self._layers.conv
        out = run(self.conv1, x, norm=self.bn1, relu=True)
        out = run(self.conv2, out, norm=self.bn2, relu=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        return run(self.conv3, self.avgpool(out), norm=self.bn3, residual=shortcut, relu=True)


class FastCLIPResNet(FastModule, CLIPResNet):
    """CLIP's image tower: all maps lie channels last, from the first one on."""

    PLAIN = CLIPResNet

    def stem(self: Any, images: Tensor) -> Tensor:
        """Return what the first stage gets."""
        if not self.infers(images):
            return super().stem(images)
        layers = (self.conv1, self.bn1, self.act1, self.conv2, self.bn2, self.act2)
        layers += (self.conv3, self.bn3, self.act3, self.avgpool)
        maps = images.contiguous(memory_format=torch.channels_last)
        return run_chain(self._layers, layers, maps)


class FastAttentionPool(FastModule, DenseAttentionPool):
    """CLIP's attention pool: positional embeddings of other grids than its own are kept."""

    PLAIN = DenseAttentionPool

    def embedding_for(self: Any, height: int, width: int) -> Tensor:
        """Return the positional embedding (1 + height * width, E) for a grid."""
        make = partial(super().embedding_for, height, width)
        if not self.infers(self.positional_embedding):
            return make()
        if len(self._layers) >= MAX_KEPT_GRIDS:
            self._layers.clear()
        return self._layers.keep((height, width), [self.positional_embedding], make)


FAST_MODULES = {
    kind.PLAIN: kind
    for kind in (
        *(FastConv2d, FastNormedConv2d, FastSequential),
        *(FastTower, FastBottleneck, FastCLIPResNet, FastAttentionPool),
    )
}


def run_chain(layers: InferenceLayers, modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Return what modules make of ``x`` one after the other, rounding apart.

    A norm and a ReLU behind a convolution, and a ReLU behind a GroupNorm, run with it.
    """
    waiting = list(modules)
    while waiting:
        module = waiting.pop(0)
        norm = waiting.pop(0) if _is_conv(module) and waiting and is_norm(waiting[0]) else None
        can_clamp = bool(waiting) and _is_relu(waiting[0])
        if _is_conv(module):
            x = layers.conv(module, x, norm=norm, relu=can_clamp)
        elif can_clamp and _is_group_norm(module):
            x = layers.group_norm(module, x)
        else:
            x, can_clamp = module(x), False
        waiting = waiting[can_clamp:]
    return x


def _is_conv(module: nn.Module) -> bool:
    return type(module) in (nn.Conv2d, FastConv2d)


def _is_group_norm(module: nn.Module) -> bool:
    return type(module) in (nn.GroupNorm, GroupNorm)


def _is_relu(module: object) -> bool:
    return type(module) is nn.ReLU
