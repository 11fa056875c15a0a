"""R3Det's head: features are moved to the first stage's boxes by bilinear sampling.

Letters: N images, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY
from tcm_d2.modeling.heads.contract import ForeignNames
from tcm_d2.modeling.heads.refined import RefinedHead
from tcm_d2.modeling.heads.towers import init_normal, make_tower


class FeatureRefinement(nn.Module):
    """Add to each cell what wide convolutions see there, and at the centre of the cell's box.

    A habit of the source that is kept, because trained weights depend on it: x and y of the centre
    are exchanged, so that what is sampled lies mirrored at the map's diagonal.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1_5 = nn.Conv2d(channels, channels, (1, 5), padding=(0, 2))
        self.conv_5_1 = nn.Conv2d(channels, channels, (5, 1), padding=(2, 0))
        self.conv_1_1 = nn.Conv2d(channels, channels, 1)
        for conv in (self.conv_1_5, self.conv_5_1, self.conv_1_1):
            init_normal(conv, bias=0.0)

    def forward(self, feature: Tensor, boxes: Tensor, stride_px: int) -> Tensor:
        """Return the refined map (N, C, H, W).

        Args:
            feature: (N, C, H, W) of one level.
            boxes: (N, H * W, 5) of its cells, row-major, image pixels.
            stride_px: of the level.
        """
        seen = self.conv_5_1(self.conv_1_5(feature)) + self.conv_1_1(feature)
        row, column = (boxes[..., :2] / stride_px).unbind(dim=-1)
        return feature + seen + sample_bilinear(seen, row, column)


def sample_bilinear(feature: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the map (N, C, H, W) of what lies at one place for each cell.

    Cells have their values at whole numbers. Between the outer ones and the border, up to a cell
    outside, the outer value continues; beyond it is 0.

    Args:
        feature: (N, C, H, W).
        row: (N, H * W) place of each cell, row-major, in cells.
        column: (N, H * W).
    """
    height, width = feature.shape[-2:]
    is_inside = (row >= -1) & (row <= height) & (column >= -1) & (column <= width)
    # grid_sample's -1 and 1 are the first and the last value.
    y = row.clamp(0, height - 1) * (2 / max(height - 1, 1)) - 1
    x = column.clamp(0, width - 1) * (2 / max(width - 1, 1)) - 1
    places = torch.stack([x, y], dim=-1).unflatten(1, (height, width)).to(feature.dtype)
    sampled = nn.functional.grid_sample(feature, places, align_corners=True)
    return sampled * is_inside.unflatten(1, (1, height, width)).to(feature.dtype)


@ROTATED_HEAD_REGISTRY.register()
class RotatedR3DetHead(RefinedHead):
    """Predict a box per cell, then class and box again from features moved to that box.

    One refinement stage, as in the published detectors but one. Source: R3Det (arXiv 1908.05612),
    mmrotate's R3Head and R3RefineHead.
    """

    foreign_names = ForeignNames(
        title="R3Det",
        modules={
            "retina_cls": "class_predictor",
            "retina_reg": "delta_predictor",
            "feat_refine_module": "refinement",
            "conv_1_5": "refinement.conv_1_5",
            "conv_5_1": "refinement.conv_5_1",
            "conv_1_1": "refinement.conv_1_1",
        },
        layers_per_block=2,
        # Of 1.x, and of 0.x.
        stages={
            "bbox_head_init.": "first.",
            "bbox_head_refine.0.": "",
            "bbox_head.": "first.",
            "refine_head.0.": "",
            "feat_refine_module.0.": "",
        },
    )

    def make_second_stage(self, in_channels: int, channels: int, num_convs: int) -> None:
        """See `RefinedHead`."""
        self.refinement = FeatureRefinement(in_channels)
        self.class_tower = make_tower(in_channels, channels, num_convs=num_convs, norm="")
        self.box_tower = make_tower(in_channels, channels, num_convs=num_convs, norm="")

    def align(self, feature: Tensor, boxes: Tensor, stride_px: int) -> tuple[Tensor, Tensor]:
        """Return what the towers see; see `RefinedHead`."""
        refined = self.refinement(feature, boxes, stride_px)
        return refined, refined
