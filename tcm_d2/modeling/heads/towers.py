"""Convolution towers shared by the rotated one-stage heads."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tcm_d2.layers.recomputing import run_past_norm, run_recomputed

# Groups of the towers' GroupNorm, as in FCOS and ATSS.
NUM_GROUPS = 32
NORMS = ("GN", "")


class Tower(nn.Sequential):
    """Layers one after the other that keep little for the backward pass.

    Attributes:
        checkpoint_activations: keep the input alone, and run everything again there. Else the
            convolutions' outputs are kept where a norm follows, and their inputs where none does.
    """

    checkpoint_activations = False

    def forward(self, input: Tensor) -> Tensor:
        """Return the last layer's output."""
        output: Tensor
        if self.checkpoint_activations:
            output = run_recomputed(super().forward, input, norms_of=self)
            return output
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            output = super().forward(input)
            return output
        x = input
        waiting: list[nn.Module] = []
        for layer in self:
            waiting.append(layer)
            if isinstance(layer, nn.Conv2d):
                x, waiting = run_past_norm(_chain(waiting), x, norms_of=waiting[0]), []
        return _chain(waiting)(x)


def _chain(layers: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    return run


def make_tower(in_channels: int, channels: int, *, num_convs: int, norm: str) -> Tower:
    """Return ``num_convs`` blocks of 3x3 convolution, norm and ReLU.

    Args:
        in_channels: channels of a pyramid level.
        channels: channels of every block.
        num_convs: number of blocks.
        norm: "GN" (32 groups, convolutions without bias) or "" (no norm, with bias).

    Raises:
        ValueError: ``norm`` is unknown, or ``channels`` cannot be grouped.
    """
    if norm not in NORMS:
        raise ValueError(f"norm: expected one of {NORMS}, got {norm!r}")
    if norm == "GN" and channels % NUM_GROUPS != 0:
        raise ValueError(f"channels: expected a multiple of {NUM_GROUPS} for GN, got {channels}")
    layers: list[nn.Module] = []
    for index in range(num_convs):
        conv = nn.Conv2d(
            in_channels if index == 0 else channels, channels, 3, padding=1, bias=norm == ""
        )
        init_normal(conv, bias=0.0)
        layers.append(conv)
        if norm == "GN":
            layers.append(GroupNorm(NUM_GROUPS, channels))
        layers.append(nn.ReLU(inplace=True))
    return Tower(*layers)


class GroupNorm(nn.GroupNorm):
    """Group normalization of maps of any size.

    nn.GroupNorm refuses a single map with one value per group, in evaluation too, although it
    takes two such maps. Such a value is its own mean, so that the bias comes out.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalized map, of the same shape (N, C, H, W)."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Predictor(nn.Conv2d):
    """A convolution in its own precision also under autocast.

    Bfloat16 has 8 bits: a side distance of 4 strides would be rounded by up to 1 px at stride 128,
    and class scores would tie in hundreds, so that NMS keeps others. The few outputs cost little.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (N, O, H, W) in the weight's dtype."""
        kind = input.device.type
        if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return super().forward(input)
        with torch.autocast(kind, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def make_predictor(channels: int, out_channels: int, *, bias: float) -> Predictor:
    """Return a 3x3 convolution from a tower to ``out_channels`` outputs.

    Args:
        channels: channels of the tower.
        out_channels: outputs per cell.
        bias: initial bias.
    """
    conv = Predictor(channels, out_channels, 3, padding=1)
    init_normal(conv, bias=bias)
    return conv


def init_normal(conv: nn.Conv2d, *, bias: float) -> None:
    """Fill ``conv`` in place: weights N(0, 0.01), as every published one-stage head does."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)


def bias_from_prior(prior_prob: float) -> float:
    """Return the logit at which the sigmoid equals ``prior_prob`` (arXiv 1708.02002, sec. 4.1)."""
    if not 0 < prior_prob < 1:
        raise ValueError(f"prior_prob: expected a value in (0, 1), got {prior_prob}")
    return -math.log((1 - prior_prob) / prior_prob)


class Scale(nn.Module):
    """Multiply by one learnable number, 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values`` times the learnable number."""
        return values * self.scale


def rows(level: Tensor, num_values: int) -> Tensor:
    """Return a map (N, A * V, H, W) as (N, H * W * A, V): cells row-major, then a cell's anchors.

    Args:
        level: channel a * V + v belongs to anchor a of a cell.
        num_values: V.
    """
    cells = level.flatten(2).transpose(1, 2)  # (N, HW, A * V)
    return cells.reshape(level.shape[0], -1, num_values)


def flatten_levels(levels: list[Tensor], num_values: int) -> Tensor:
    """Return the rows of all levels, (N * R, V): image by image, levels in order; see `rows`."""
    cells = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
    return cells.reshape(-1, num_values)
