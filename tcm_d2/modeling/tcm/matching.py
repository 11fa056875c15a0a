"""Instance-language matching: the score map, its loss, and its way into the features.

Shape letters: N images, K classes, C joint width, H x W the stride-32 grid, h x w the masks' size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Keeps the loss finite without objects.
MASK_SUM_EPS = 1e-8


def score_map(dense_NCHW: Tensor, text_NKC: Tensor, *, temperature: float) -> Tensor:
    """Return the cosine of every place with every class over the temperature, (N, K, H, W).

    TCM (arXiv 2302.14338, section 3.4, eq. 8), without the sigmoid.

    Args:
        dense_NCHW: dense tokens, any length.
        text_NKC: class embeddings of each image, any length.
        temperature: tau.
    """
    dense_NCHW = F.normalize(dense_NCHW, dim=1)
    text_NKC = F.normalize(text_NKC, dim=2)
    return torch.einsum("nchw,nkc->nkhw", dense_NCHW, text_NKC) / temperature


def score_map_loss(
    score_map_NKHW: Tensor,
    class_masks: Tensor,
    *,
    mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the mean binary cross-entropy of the score map inside objects, a scalar.

    Places outside every object do not count (TCM, section 3.5). Gradients flow to the score map,
    and are zero where no image has an object.

    Args:
        score_map_NKHW: logits; resized bilinearly to the masks' size.
        class_masks: bool (N, K, h, w), the union of each class's boxes.
        mean_over_ranks: of the number of places that count, in data-parallel training: the mean
            of the ranks' losses then is the loss of one rank with the whole batch. None for one
            rank. The reference divides by each rank's own number.

    Raises:
        ValueError: images or classes of the two differ.
    """
    if score_map_NKHW.shape[:2] != class_masks.shape[:2] or class_masks.dim() != 4:
        raise ValueError(
            f"class_masks: expected shape {(*score_map_NKHW.shape[:2], 'h', 'w')}, got "
            f"{tuple(class_masks.shape)}; the masks need one channel per class of the score map"
        )
    return masked_score_map_loss(
        score_map_NKHW, class_masks, class_masks.any(dim=1), mean_over_ranks=mean_over_ranks
    )


def masked_score_map_loss(
    score_map_NKHW: Tensor,
    class_masks: Tensor,
    object_masks: Tensor,
    *,
    mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the mean binary cross-entropy inside given masks, a scalar.

    As in the published code the sigmoid is taken first and its logarithm cut at -100: scores above
    16.6 saturate in float32 and have no gradient. At the published temperature no score passes
    1 / 0.07 = 14.3. NaN anywhere gives NaN: torch's own loss raises, on CUDA with an assertion that
    ends the process.

    Args:
        score_map_NKHW: logits; resized bilinearly to the masks' size.
        class_masks: bool (N, K, h, w), the targets.
        object_masks: bool (N, h, w), the places that count, for all classes alike.
        mean_over_ranks: see `score_map_loss`.
    """
    if score_map_NKHW.dtype in (torch.float16, torch.bfloat16):
        score_map_NKHW = score_map_NKHW.float()
    logits = F.interpolate(
        score_map_NKHW, size=class_masks.shape[-2:], mode="bilinear", align_corners=False
    )
    inside = object_masks[:, None].expand_as(logits).to(logits.dtype)
    scores = logits.sigmoid()
    is_nan = scores.isnan()
    # Autocast refuses this loss because half precision would saturate it; these are float32.
    with torch.autocast(logits.device.type, enabled=False):
        cost = F.binary_cross_entropy(
            scores.masked_fill(is_nan, 0.5),
            class_masks.to(logits.dtype),
            weight=inside,
            reduction="sum",
        ).masked_fill(is_nan.any(), float("nan"))
    num_inside = inside.sum()
    if mean_over_ranks is not None:
        num_inside = mean_over_ranks(num_inside)
    return cost / (num_inside + MASK_SUM_EPS)


def join_score_map(res5: Tensor, score_map_NKHW: Tensor) -> Tensor:
    """Return res5 with the raw score map as K more channels, (N, C5 + K, H, W).

    A score map of another size is resized bilinearly with corners aligned, unlike in the loss: that
    is what the reference does in the two places.

    Args:
        res5: (N, C5, H, W).
        score_map_NKHW: raw, not squashed.
    """
    if score_map_NKHW.shape[-2:] != res5.shape[-2:]:
        score_map_NKHW = F.interpolate(
            score_map_NKHW, size=res5.shape[-2:], mode="bilinear", align_corners=True
        )
    return torch.cat([res5, score_map_NKHW.to(res5.dtype)], dim=1)
