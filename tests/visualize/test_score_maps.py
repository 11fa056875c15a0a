from __future__ import annotations

import numpy as np
import pytest

from tcm_d2.visualize import draw_class_score_maps

IMAGE = np.full((60, 80, 3), 90, np.uint8)
NAMES = ("plane", "ship", "harbor")


def test_one_tile_per_class_after_the_image() -> None:
    maps = np.zeros((3, 3, 4))
    maps[1, 0, 0] = 1.0
    sheet = draw_class_score_maps(IMAGE, maps, NAMES, columns=2, tile_width_px=80)
    assert sheet.shape == (2 * (80 + 18 + 6) + 6, 2 * 86 + 6, 3)
    # Row by row: image, plane; ship, harbor. A tile is 80 x 60 within 80 x 80.
    ship, harbor = sheet[120:180, 6:86], sheet[120:180, 92:172]
    assert ship[:20, :20].max() > 180 and harbor.max() < 60
    assert (sheet[20:70, 10:80] == 90).all()


def test_chosen_classes_and_their_own_range() -> None:
    maps = np.stack([np.linspace(0.1, 0.2, 12).reshape(3, 4)] * 3)
    fixed = draw_class_score_maps(IMAGE, maps, NAMES, classes=[2], columns=2)
    own = draw_class_score_maps(IMAGE, maps, NAMES, classes=[2], columns=2, value_range=None)
    assert fixed.shape == own.shape and own.mean() > fixed.mean()


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="one map per class name"):
        draw_class_score_maps(IMAGE, np.zeros((2, 3, 4)), NAMES)
    with pytest.raises(ValueError, match=r"indices 0\.\.2, got 3\.\.3"):
        draw_class_score_maps(IMAGE, np.zeros((3, 3, 4)), NAMES, classes=[3])
