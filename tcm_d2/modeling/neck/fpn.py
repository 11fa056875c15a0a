"""Feature pyramid over three stages of the image tower, with two extra coarse levels.

Shape letters: N images, O output channels; level l has stride 2^l pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# P6 and P7.
NUM_EXTRA_LEVELS = 2
EXTRA_LEVEL_SOURCES = ("output", "input")


class RotatedFPN(nn.Module):
    """Feature pyramid network (arXiv 1612.03144) that takes features and owns no bottom-up.

    Convolutions have a bias, no norm and no activation; the upsampling is nearest.

    Deliberate difference from Detectron2's FPN: that one owns the bottom-up and takes its outputs
    as they are, so channels joined on the way (the score map on res5) would be lost.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        *,
        out_channels: int,
        extra_levels_from: str,
        relu_before_extra: bool,
    ) -> None:
        """Args:
        in_channels: channels of each input by name, fine to coarse, each half the size of the one
            before; joined channels included.
        out_channels: O.
        extra_levels_from: "output" (the coarsest pyramid level) or "input" (the coarsest input)
            feeds the first extra level.
        relu_before_extra: apply ReLU between the extra levels (not before the first).

        Raises:
            ValueError: ``extra_levels_from`` is neither.
        """
        super().__init__()
        if extra_levels_from not in EXTRA_LEVEL_SOURCES:
            raise ValueError(
                f"extra_levels_from: expected one of {', '.join(EXTRA_LEVEL_SOURCES)}, got "
                f"{extra_levels_from!r}"
            )
        self.in_features = list(in_channels)
        self.extra_levels_from = extra_levels_from
        self.relu_before_extra = relu_before_extra
        self.lateral_convs = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 1) for channels in in_channels.values()
        )
        self.output_convs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in in_channels
        )
        from_input = extra_levels_from == "input"
        first_channels = in_channels[self.in_features[-1]] if from_input else out_channels
        self.extra_convs = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 3, stride=2, padding=1)
            for channels in (first_channels, *[out_channels] * (NUM_EXTRA_LEVELS - 1))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the levels p3 .. p7, (N, O, ., .) each, fine to coarse.

        Args:
            features: maps by name, those of ``in_channels`` at least; sizes need not be even.
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
