"""Sheets of class score maps over an image: what TCM's prompts see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tcm_d2.visualize.checks import ArrayLike, to_numpy
from tcm_d2.visualize.draw import draw_score_map
from tcm_d2.visualize.sheets import make_contact_sheet


def draw_class_score_maps(
    image_rgb: np.ndarray,
    score_maps_KHW: ArrayLike,
    class_names: Sequence[str],
    *,
    classes: Sequence[int] | None = None,
    picture: np.ndarray | None = None,
    value_range: tuple[float, float] | None = (0.0, 1.0),
    columns: int = 4,
    tile_width_px: int = 400,
    opacity: float = 0.6,
) -> np.ndarray:
    """Return a sheet: the picture, then one heat map per class with its name and highest score.

    Args:
        image_rgb: uint8 (H, W, 3).
        score_maps_KHW: float (K, h, w), of any size, covering the image.
        class_names: K names.
        classes: class indices in the order of the tiles; None for all.
        picture: for the first tile, such as the image with boxes; None for the image itself.
        value_range: scores of the darkest and brightest colour, the same on all tiles; None for
            each map's own lowest and highest.
        columns: tiles per row.
        tile_width_px: side of a tile.
        opacity: weight of the heat maps, 0..1.

    Raises:
        TypeError: image not a uint8 array.
        ValueError: maps that are not (K, h, w) with as many names, class index without a map.
    """
    maps = to_numpy(score_maps_KHW)
    if maps.ndim != 3 or len(maps) != len(class_names):
        raise ValueError(
            f"score_maps_KHW: expected shape ({len(class_names)}, h, w), one map per class name, "
            f"got {maps.shape}"
        )
    chosen = list(range(len(maps))) if classes is None else [int(index) for index in classes]
    if chosen and not 0 <= min(chosen) <= max(chosen) < len(maps):
        raise ValueError(
            f"classes: expected indices 0..{len(maps) - 1}, got {min(chosen)}..{max(chosen)}"
        )
    tiles, captions = [image_rgb if picture is None else picture], ["image"]
    for index in chosen:
        tiles.append(
            draw_score_map(image_rgb, maps[index], value_range=value_range, opacity=opacity)
        )
        captions.append(f"{class_names[index]}  max {maps[index].max():.2f}")
    return make_contact_sheet(
        tiles, columns=columns, captions=captions, tile_width_px=tile_width_px
    )
