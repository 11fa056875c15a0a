"""Colours for classes and outcomes, RGB in 0..255."""

from __future__ import annotations

import colorsys

Color = tuple[int, int, int]

# Bright colours told apart by hue and by lightness, led by those of Okabe and Ito (2008), so that
# neighbours in the list differ for the common kinds of colour blindness too. No white or grey:
# ships, tanks and roofs are. Index = class index.
_CLASS_COLORS: tuple[Color, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (240, 228, 66),
    (0, 200, 145),
    (235, 94, 20),
    (160, 255, 90),
    (70, 110, 255),
    (255, 160, 150),
    (255, 90, 215),
    (190, 110, 255),
    (0, 235, 235),
    (255, 40, 110),
    (200, 170, 120),
    (255, 200, 255),
    (40, 150, 60),
    (140, 200, 255),
    (170, 60, 40),
)
# Outcomes of a comparison: light blue, yellow and vermilion stay apart for the colour-blind.
HIT_COLOR: Color = (86, 200, 255)
MISSED_COLOR: Color = (240, 228, 66)
FALSE_COLOR: Color = (255, 80, 20)
IGNORED_COLOR: Color = (170, 170, 170)

_GOLDEN_RATIO = 0.61803398875


def class_color(class_index: int) -> Color:
    """Return the colour of a class; it depends on the index only.

    Raises:
        ValueError: negative index.
    """
    if class_index < 0:
        raise ValueError(f"class_index: expected >= 0, got {class_index}")
    if class_index < len(_CLASS_COLORS):
        return _CLASS_COLORS[class_index]
    hue = (class_index * _GOLDEN_RATIO) % 1.0
    value = 1.0 if class_index % 2 else 0.75
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.7, value)
    return round(255 * red), round(255 * green), round(255 * blue)
