"""S2A-Net's head: features are aligned to the first stage's boxes by a deformable convolution.

Letters: N images, C channels, F filters, P points of a kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY
from tcm_d2.modeling.heads.contract import ForeignNames
from tcm_d2.modeling.heads.refined import RefinedHead
from tcm_d2.modeling.heads.towers import init_normal, make_tower

# Of a rotating filter: turns by 45 degrees of a 3x3 kernel.
NUM_TURNS = 8
# The kernel's outer cells, clockwise from the upper left: row, column.
_RING = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]


class AlignConv(nn.Module):
    """A 3x3 convolution that takes its nine points from the grid of thirds of each cell's box."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deform_conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        init_normal(self.deform_conv, bias=0.0)

    def forward(self, feature: Tensor, offsets: Tensor) -> Tensor:
        """Return the aligned map (N, C, H, W).

        Args:
            feature: (N, C, H, W) of one level.
            offsets: see `kernel_offsets`.
        """
        weight = self.deform_conv.weight.to(feature.dtype)
        return deform_conv2d(feature, offsets.to(feature.dtype), weight, padding=1).relu()


def kernel_offsets(
    anchors: Tensor, clockwise_rad: Tensor, size_hw: tuple[int, int], stride_px: int
) -> Tensor:
    """Return how far each point of a 3x3 kernel moves, (N, 2 * P, H, W): y and x of each, in cells.

    Args:
        anchors: (N, H * W, 5) boxes of the cells, row-major, image pixels.
        clockwise_rad: (N, H * W) their angles; a half turn more turns the kernel around.
        size_hw: H and W.
        stride_px: of the level.
    """
    height, width = size_hw
    steps = torch.arange(-1, 2, dtype=anchors.dtype, device=anchors.device)
    kernel_y, kernel_x = (k.flatten() for k in torch.meshgrid(steps, steps, indexing="ij"))  # (P,)
    ys = torch.arange(height, dtype=anchors.dtype, device=anchors.device)
    xs = torch.arange(width, dtype=anchors.dtype, device=anchors.device)
    cell_y, cell_x = (c.flatten()[:, None] for c in torch.meshgrid(ys, xs, indexing="ij"))
    center_x, center_y, side_w, side_h = (anchors[..., :4] / stride_px).split(1, dim=-1)
    cos, sin = clockwise_rad[..., None].cos(), clockwise_rad[..., None].sin()
    along_w, along_h = side_w / 3 * kernel_x, side_h / 3 * kernel_y  # (N, HW, P)
    x = center_x + cos * along_w - sin * along_h - (cell_x + kernel_x)
    y = center_y + sin * along_w + cos * along_h - (cell_y + kernel_y)
    offsets = torch.stack([y, x], dim=-1).flatten(2)  # (N, HW, 2 P)
    return offsets.transpose(1, 2).unflatten(2, (height, width))


class RotatingConv(nn.Module):
    """A 3x3 convolution with each filter in eight turns, as adjacent output channels.

    ``indices`` (1, 3, 3, 8) say where each value of a kernel goes in each turn, counted from 1, as
    published weights hold them.
    """

    indices: Tensor

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        num_filters = channels // NUM_TURNS
        self.weight = nn.Parameter(torch.empty(num_filters, in_channels, 1, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.normal_(self.weight, std=(2 / (9 * in_channels)) ** 0.5)
        indices = torch.full((1, 3, 3, NUM_TURNS), 5, dtype=torch.int32)
        for turn in range(NUM_TURNS):
            for start, (row, column) in enumerate(_RING):
                to_row, to_column = _RING[(start + turn) % NUM_TURNS]
                indices[0, row, column, turn] = 3 * to_row + to_column + 1
        self.register_buffer("indices", indices)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, filters * 8, H, W)."""
        num_filters, in_channels = self.weight.shape[:2]
        flat = self.weight.flatten(2)[:, None].expand(-1, NUM_TURNS, -1, -1)  # (F, 8, C, 9)
        places = self.indices.reshape(9, NUM_TURNS).t().long() - 1  # (8, 9)
        places = places[None, :, None].expand(num_filters, -1, in_channels, -1)
        turned = torch.zeros_like(flat).scatter(3, places, flat)
        kernel = turned.reshape(num_filters * NUM_TURNS, in_channels, 3, 3)
        return nn.functional.conv2d(x, kernel, self.bias, padding=1)


@ROTATED_HEAD_REGISTRY.register()
class RotatedS2ANetHead(RefinedHead):
    """Predict a box per cell, then class and box again from features aligned to that box.

    Source: S2A-Net (arXiv 2008.09397), mmrotate's S2AHead and S2ARefineHead.
    """

    foreign_names = ForeignNames(
        title="S2A-Net",
        modules={
            "retina_cls": "class_predictor",
            "retina_reg": "delta_predictor",
            "or_conv": "rotating",
            "feat_refine_module": "align_conv",
            "deform_conv": "align_conv.deform_conv",
        },
        layers_per_block=2,
        # Of 1.x, and of 0.x.
        stages={
            "bbox_head_init.": "first.",
            "bbox_head_refine.0.": "",
            "fam_head.": "first.",
            "odm_head.": "",
            "align_conv.": "",
        },
    )

    def make_second_stage(self, in_channels: int, channels: int, num_convs: int) -> None:
        """See `RefinedHead`.

        Raises:
            ValueError: more than one anchor per cell, or channels that are no multiple of 8.
        """
        num_anchors = self.anchor_generator.num_anchors
        if num_anchors != 1 or channels % NUM_TURNS:
            raise ValueError(
                "anchor_generator and channels: expected 1 anchor per cell and a multiple of "
                f"{NUM_TURNS}, got {num_anchors} and {channels}"
            )
        self.align_conv = AlignConv(in_channels)
        self.rotating = RotatingConv(in_channels, channels)
        num_filters = channels // NUM_TURNS
        self.class_tower = make_tower(num_filters, channels, num_convs=num_convs, norm="")
        self.box_tower = make_tower(channels, channels, num_convs=num_convs, norm="")

    def align(self, feature: Tensor, boxes: Tensor, stride_px: int) -> tuple[Tensor, Tensor]:
        """Return what the towers see; see `RefinedHead`."""
        turns = self.coder.clockwise_rad(boxes)
        offsets = kernel_offsets(boxes, turns, feature.shape[-2:], stride_px)
        turned = self.rotating(self.align_conv(feature, offsets))
        # The same whichever way an object points.
        upright = turned.unflatten(1, (-1, NUM_TURNS)).amax(dim=2)
        return upright, turned
