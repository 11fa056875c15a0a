"""What the anchor-based heads share: boxes from deltas, and the normaliser.

Letters: N images, A anchors per cell, R anchors of one image over all levels, Q some of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.dense.anchors import AnchorGenerator, AnchorGrid
from tcm_d2.modeling.dense.delta_coder import DeltaBoxCoder
from tcm_d2.modeling.dense.normalizers import mean_over_ranks
from tcm_d2.modeling.heads.dense_head import DenseHead
from tcm_d2.modeling.heads.towers import rows

# Numbers that describe a box relative to its anchor: dx, dy, dw, dh, da.
NUM_DELTAS = 5


class AnchorHead(DenseHead):
    """A head whose output has ``deltas`` of boxes from their anchors, (N, A * 5, H, W) per level.

    Quirks of the source (mmrotate's heads) that are kept for its weights: the anchors' places and
    axes (``AnchorGenerator``); predicted centres are moved into the image; an image without
    positive anchors counts as one positive in the normaliser.
    """

    anchor_generator: AnchorGenerator
    coder: DeltaBoxCoder
    clamps_centers = True

    @property
    def strides_px(self) -> list[int]:
        """Stride of each level."""
        return self.anchor_generator.strides_px

    @property
    def anchors_per_cell(self) -> int:
        """A."""
        return self.anchor_generator.num_anchors

    def make_grid(self, output: Any) -> AnchorGrid:
        """Return the anchors of one image of this output."""
        sizes_hw = [(level.shape[2], level.shape[3]) for level in output.deltas]
        return self.anchor_generator.make_grid(sizes_hw, output.deltas[0].device)

    def decode_at(
        self,
        output: Any,
        grid: AnchorGrid,
        image: int,
        level: int,
        index: Tensor,
        image_size_hw: tuple[int, int],
    ) -> Tensor:
        """Return the boxes (Q, 5) of one image at some anchors of a level, centres in the image."""
        anchors = grid.boxes.split(grid.level_num_anchors)[level][index]
        deltas = rows(output.deltas[level][image, None], NUM_DELTAS)[0, index]
        return self.coder.decode(anchors, at_least_float32(deltas), image_size_hw=image_size_hw)

    def decode_all(self, output: Any, grid: AnchorGrid) -> Tensor:
        """Return the boxes (N, R, 5) of all anchors, centres where they are predicted."""
        deltas = torch.cat([rows(level, NUM_DELTAS) for level in output.deltas], dim=1)
        num_images = deltas.shape[0]  # not len, which an export takes for a constant
        anchors = grid.boxes.expand(num_images, -1, -1)
        flat = self.coder.decode(anchors.flatten(0, 1), deltas.flatten(0, 1))
        return flat.unflatten(0, (num_images, -1))


def count_positives(location_index: Tensor, num_images: int, num_anchors: int) -> Tensor:
    """Return the mean over ranks of the number of positive anchors, a float scalar.

    As in the reference an image without any counts as one.

    Args:
        location_index: (Q,) int64 image * R + anchor.
        num_images: N.
        num_anchors: R.
    """
    per_image = torch.bincount(location_index // num_anchors, minlength=num_images)
    return mean_over_ranks(per_image.clamp(min=1).sum().float())
