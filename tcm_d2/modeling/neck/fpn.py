"""Feature pyramid over stages of any backbone, with extra coarse levels.

Shape letters: N images, O output channels; level l has stride 2^l pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from tcm_d2.config.registries import PART_REGISTRY

EXTRA_LEVEL_SOURCES = ("output", "input")


@PART_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class FPNConfig:
    """What the pyramid is built from, besides its inputs.

    Another neck is another class with ``in_features``, ``out_channels``, ``build`` and
    ``from_config``.

    Attributes:
        in_features: names of the backbone's outputs, fine to coarse, each half the size of the one
            before; the score map joins the last.
        out_channels: O.
        extra_levels_from: "output" (the coarsest pyramid level) or "input" (the coarsest input,
            with the score map) feeds the first extra level.
        relu_before_extra: apply ReLU between the extra levels (not before the first).
        num_extra_levels: P6 and P7 above C3 to C5; at least one. Earlier copies do not name it.
    """

    in_features: Sequence[str]
    out_channels: int
    extra_levels_from: str
    relu_before_extra: bool
    num_extra_levels: int = 2

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments for a Detectron2 configuration."""
        fpn = cfg.MODEL.ROTATED_FPN
        return {name: fpn[name.upper()] for name in cls.__dataclass_fields__}

    def build(
        self, input_shape: Mapping[str, ShapeSpec], *, joined_channels: int = 0
    ) -> RotatedFPN:
        """Return the pyramid on outputs of a backbone.

        Args:
            input_shape: channels and stride of each output by name.
            joined_channels: more channels that the coarsest input has: those of the score map.

        Raises:
            ValueError: the backbone lacks an input, or see `RotatedFPN`.
        """
        missing = [name for name in self.in_features if name not in input_shape]
        if missing:
            raise ValueError(
                f"neck.in_features: the backbone has no output {', '.join(missing)}; it has "
                f"{', '.join(input_shape)}; set MODEL.ROTATED_FPN.IN_FEATURES, or what the "
                "backbone gives (of Detectron2's ResNets MODEL.RESNETS.OUT_FEATURES)"
            )
        inputs = [input_shape[name] for name in self.in_features]
        last = inputs[-1]
        inputs[-1] = ShapeSpec(channels=last.channels + joined_channels, stride=last.stride)
        return RotatedFPN(self, inputs)


class RotatedFPN(nn.Module):
    """Feature pyramid network (arXiv 1612.03144) that takes features and owns no bottom-up.

    Convolutions have a bias, no norm and no activation; the upsampling is nearest.

    Deliberate difference from Detectron2's FPN: that one owns the bottom-up and takes its outputs
    as they are, so channels joined on the way (the score map on res5) would be lost.
    """

    def __init__(self, config: FPNConfig, inputs: Sequence[ShapeSpec]) -> None:
        """Args:
        config: the pyramid's own settings.
        inputs: channels and stride of each input, joined channels included.

        Raises:
            ValueError: ``extra_levels_from`` is neither.
        """
        super().__init__()
        if config.extra_levels_from not in EXTRA_LEVEL_SOURCES:
            raise ValueError(
                f"extra_levels_from: expected one of {', '.join(EXTRA_LEVEL_SOURCES)}, got "
                f"{config.extra_levels_from!r}"
            )
        if config.num_extra_levels < 1:
            raise ValueError(f"num_extra_levels: expected >= 1, got {config.num_extra_levels}")
        num_extra = config.num_extra_levels
        self.in_features = list(config.in_features)
        self.extra_levels_from = config.extra_levels_from
        self.relu_before_extra = config.relu_before_extra
        out_channels = config.out_channels
        strides_px = [shape.stride for shape in inputs]
        strides_px += [strides_px[-1] * 2**level for level in range(1, num_extra + 1)]
        self._output_shape = [ShapeSpec(channels=out_channels, stride=s) for s in strides_px]
        self.lateral_convs = nn.ModuleList(
            nn.Conv2d(shape.channels, out_channels, 1) for shape in inputs
        )
        self.output_convs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in inputs
        )
        from_input = config.extra_levels_from == "input"
        first_channels = inputs[-1].channels if from_input else out_channels
        self.extra_convs = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)
            for channels in (first_channels, *[out_channels] * (num_extra - 1))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def output_shape(self) -> list[ShapeSpec]:
        """Return channels and stride of each level, fine to coarse."""
        return self._output_shape

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the levels p3 .. p7, (N, O, ., .) each, fine to coarse.

        Args:
            features: maps by name, those of ``in_features`` at least; sizes need not be even.
        """
        inputs = [features[name] for name in self.in_features]
        merged = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=True)]
        for fine in range(len(merged) - 2, -1, -1):
            size_hw = merged[fine].shape[-2:]
            merged[fine] = merged[fine] + F.interpolate(merged[fine + 1], size=size_hw)
        levels = [conv(x) for conv, x in zip(self.output_convs, merged, strict=True)]
        x = inputs[-1] if self.extra_levels_from == "input" else levels[-1]
        for index, conv in enumerate(self.extra_convs):
            x = _strided(conv, F.relu(x) if index > 0 and self.relu_before_extra else x)
            levels.append(x)
        return levels


def _strided(conv: nn.Module, x: Tensor) -> Tensor:
    """Return ``conv(x)``, in float32 on the CPU where ``x`` is one pixel wide.

    There, with stride 2 and padding 1, torch (2.15, oneDNN) leaves the outer columns of the
    weight's gradient as uninitialised memory in bfloat16.
    """
    if x.shape[-1] > 1 or x.device.type != "cpu":
        return conv(x)
    with torch.autocast("cpu", enabled=False):
        return conv(x.to(conv.weight.dtype))
