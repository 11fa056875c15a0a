"""What the anchor-based heads share: anchors of their outputs, candidates, normalisers.

Letters: N images, K classes, A anchors per cell, R anchors of one image over all levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tcm_d2.layers.precision import at_least_float32
from tcm_d2.modeling.dense.anchors import AnchorGenerator, AnchorGrid
from tcm_d2.modeling.dense.decode import select_candidates
from tcm_d2.modeling.dense.delta_coder import DeltaBoxCoder
from tcm_d2.modeling.dense.normalizers import mean_over_ranks
from tcm_d2.modeling.heads.towers import flatten_levels

# Numbers that describe a box relative to its anchor: dx, dy, dw, dh, da.
NUM_DELTAS = 5


def make_anchor_grid(generator: AnchorGenerator, levels: list[Tensor]) -> AnchorGrid:
    """Return the anchors of one image for output maps (N, C, H, W) per level."""
    sizes_hw = [(level.shape[2], level.shape[3]) for level in levels]
    return generator.make_grid(sizes_hw, levels[0].device)


def flatten_anchors(levels: list[Tensor], num_values: int) -> Tensor:
    """Return level maps (N, A * C, H, W) as (N * R, C), image by image in the grid's order.

    Args:
        levels: one map per level; channel a * C + c belongs to anchor a of the cell.
        num_values: C, values per anchor.
    """
    return flatten_levels(levels).reshape(-1, num_values)


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


def anchor_candidates(
    class_logits: list[Tensor],
    deltas: list[Tensor],
    centerness_logits: list[Tensor] | None,
    *,
    grid: AnchorGrid,
    coder: DeltaBoxCoder,
    image_size_hw: tuple[int, int],
    num_classes: int,
    score_threshold: float,
    topk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes (Q, 5), scores (Q,) and classes (Q,) of one image before NMS.

    The threshold and the limit per level act on the class score alone; the score returned is class
    score x centre-ness, where there is one.

    Args:
        class_logits: per level (A * K, H, W).
        deltas: per level (A * 5, H, W).
        centerness_logits: per level (A, H, W), or None.
        grid: the anchors.
        coder: turns deltas into boxes.
        image_size_hw: centres outside this image are moved onto its border (see the coder).
        num_classes: K.
        score_threshold: in [0, 1).
        topk: candidates per level.
    """
    boxes, scores, classes = [], [], []
    for level, anchors in enumerate(grid.boxes.split(grid.level_num_anchors)):
        chosen = select_candidates(
            _by_anchor(class_logits[level], num_classes), score_threshold=score_threshold, topk=topk
        )
        index = chosen.location_index
        level_deltas = at_least_float32(_by_anchor(deltas[level], NUM_DELTAS)[index])
        level_scores = chosen.scores
        if centerness_logits is not None:
            centerness = at_least_float32(_by_anchor(centerness_logits[level], 1)[index, 0])
            level_scores = level_scores * centerness.sigmoid()
        # Sides are clamped to a factor of the anchor's: every box has an area.
        boxes.append(coder.decode(anchors[index], level_deltas, image_size_hw=image_size_hw))
        scores.append(level_scores)
        classes.append(chosen.classes)
    return torch.cat(boxes), torch.cat(scores), torch.cat(classes)


def _by_anchor(level: Tensor, num_values: int) -> Tensor:
    """Return one image's map (A * C, H, W) as (H * W * A, C)."""
    return level.flatten(1).t().reshape(-1, num_values)
