"""TCM's score maps of whole images: what the class prompts see, before any head.

Shape letters: K classes, H x W the image, h x w the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The grid of the score map (the image tower's coarsest stride); windows start on it.
_CELL_PX = 32
# The finest map that is returned: as fine as the targets of TCM's auxiliary loss.
_FINEST_PX = 4
_MAX_SIDE = 1024


@torch.no_grad()
def compute_score_maps(
    model: nn.Module, image: Tensor, *, window_px: int = 1024, overlap_px: int = 256
) -> Tensor:
    """Return the probability that TCM's prompts give each place, before the detector's head.

    The sigmoid of the score map (cosine / temperature), the quantity of TCM's auxiliary loss.
    Images larger than the window are seen window by window, each with its own text features where
    the prompts depend on the image; overlaps are averaged.

    Args:
        model: a `RotatedOneStageDetector` with TCM; set to evaluation for the time of the call.
        image: (3, H, W) values 0..255, in the model's channel order and scale (what the data
            mapper gives in evaluation).
        window_px: side of a window, the patches' size in training.
        overlap_px: of neighbouring windows.

    Returns:
        (K, h, w) float in [0, 1] on the CPU, covering the image from edge to edge; h and w are
        H / 4 and W / 4, fewer for images above 4096 px.

    Raises:
        ValueError: a model without TCM, another image shape, a window not above the overlap.
    """
    if getattr(model, "tcm", None) is None:
        raise ValueError("model: has no TCM (MODEL.TCM.ENABLED False) and so no score maps")
    if image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(f"image: expected shape (3, H, W), got {tuple(image.shape)}")
    window, step = _on_grid(window_px), _on_grid(window_px - overlap_px)
    if window_px < _CELL_PX or step < _CELL_PX or overlap_px < 0:
        raise ValueError(
            f"window_px: expected at least {_CELL_PX} and {_CELL_PX} more than the overlap_px, got "
            f"{window_px} with an overlap of {overlap_px}"
        )
    height, width = image.shape[1:]
    rows, columns = -(-height // _CELL_PX), -(-width // _CELL_PX)
    total: Tensor | None = None
    weight = torch.zeros(rows, columns)
    was_training = model.training
    model.eval()
    try:
        for top in _starts(rows, window // _CELL_PX, step // _CELL_PX):
            for left in _starts(columns, window // _CELL_PX, step // _CELL_PX):
                y, x = top * _CELL_PX, left * _CELL_PX
                part = _score(model, image[:, y : y + window, x : x + window])  # (K, r, c)
                if total is None:
                    total = part.new_zeros(part.shape[0], rows, columns)
                place = (slice(top, top + part.shape[1]), slice(left, left + part.shape[2]))
                total[(slice(None), *place)] += part
                weight[place] += 1
    finally:
        model.train(was_training)
    assert total is not None
    return _cover(total / weight, (height, width))


def _score(model: nn.Module, crop: Tensor) -> Tensor:
    """Return the probabilities (K, r, c) of one window, on the CPU."""
    images = model.preprocess_images([{"image": crop}])  # type: ignore[operator]
    _, score_map_NKHW = model.features(images.tensor)  # type: ignore[operator]
    scores: Tensor = score_map_NKHW[0].float().sigmoid().cpu()
    return scores


def _cover(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Cut the padding off maps (K, rows, columns) whose cells are _CELL_PX wide."""
    factor = min(_CELL_PX // _FINEST_PX, max(1, _MAX_SIDE // max(maps.shape[1:])))
    fine = F.interpolate(maps[None], scale_factor=factor, mode="bilinear", align_corners=False)[0]
    height, width = (max(1, round(n * factor / _CELL_PX)) for n in size_hw)
    return fine[:, :height, :width].contiguous()


def _starts(num_cells: int, window: int, step: int) -> list[int]:
    last = max(0, num_cells - window)
    return [*range(0, last, step), last]


def _on_grid(length_px: int) -> int:
    return length_px // _CELL_PX * _CELL_PX
