"""Colours of the photo-like scenes and their names. Colours are RGB in 0..255."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from tcm_d2.synthetic.canvas import Color

WHITE: Color = (236, 237, 234)

Palette = Sequence[tuple[Color, float]]

CAR_PAINTS: Palette = (
    ((240, 240, 238), 0.28),
    ((186, 190, 192), 0.17),
    ((118, 122, 126), 0.12),
    ((28, 30, 33), 0.17),
    ((60, 63, 68), 0.07),
    ((158, 34, 32), 0.07),
    ((38, 62, 116), 0.06),
    ((84, 120, 168), 0.02),
    ((178, 166, 138), 0.03),
    ((40, 74, 54), 0.02),
    ((212, 172, 48), 0.02),
    ((196, 98, 36), 0.01),
    ((96, 62, 44), 0.01),
)
TRUCK_PAINTS: Palette = (
    ((240, 240, 237), 0.42),
    ((206, 208, 206), 0.16),
    ((150, 154, 156), 0.1),
    ((112, 74, 56), 0.05),
    ((46, 84, 136), 0.07),
    ((58, 112, 84), 0.05),
    ((168, 48, 40), 0.06),
    ((206, 160, 62), 0.04),
    ((54, 56, 60), 0.05),
)
BUS_PAINTS: Palette = (
    ((226, 168, 42), 0.42),
    ((240, 240, 236), 0.3),
    ((178, 44, 40), 0.07),
    ((56, 96, 156), 0.07),
    ((70, 134, 90), 0.06),
    ((188, 190, 190), 0.08),
)
CONTAINER_PAINTS: Palette = (
    ((150, 66, 48), 0.24),
    ((44, 78, 128), 0.2),
    ((118, 122, 124), 0.1),
    ((230, 230, 226), 0.14),
    ((58, 108, 82), 0.1),
    ((190, 112, 44), 0.1),
    ((126, 40, 44), 0.07),
    ((196, 176, 62), 0.05),
)
ROOF_PAINTS: Palette = (
    ((146, 84, 64), 0.16),
    ((118, 76, 62), 0.1),
    ((138, 132, 124), 0.14),
    ((104, 102, 102), 0.14),
    ((168, 150, 128), 0.1),
    ((76, 77, 80), 0.12),
    ((214, 212, 206), 0.1),
    ((184, 98, 72), 0.06),
    ((74, 92, 124), 0.04),
    ((88, 110, 92), 0.04),
)
HALL_PAINTS: Palette = (
    ((222, 224, 222), 0.3),
    ((182, 184, 184), 0.24),
    ((140, 146, 150), 0.14),
    ((88, 112, 146), 0.1),
    ((156, 104, 84), 0.08),
    ((104, 104, 106), 0.1),
    ((168, 48, 44), 0.04),
)
COURT_PAINTS: Palette = (
    ((62, 106, 140), 0.18),
    ((78, 108, 86), 0.24),
    ((150, 86, 66), 0.16),
    ((92, 102, 104), 0.12),
    ((60, 92, 74), 0.1),
    ((118, 92, 112), 0.04),
    ((166, 148, 122), 0.08),
    ((132, 132, 130), 0.08),
)
ASPHALT: Palette = (
    ((104, 104, 106), 0.3),
    ((84, 85, 88), 0.25),
    ((126, 124, 121), 0.2),
    ((146, 143, 138), 0.15),
    ((68, 69, 73), 0.1),
)
CONCRETE: Palette = (
    ((182, 180, 172), 0.3),
    ((162, 161, 154), 0.25),
    ((202, 199, 190), 0.2),
    ((146, 144, 138), 0.15),
    ((176, 166, 148), 0.1),
)


def pick(rng: np.random.Generator, palette: Palette, *, light: float = 12.0) -> Color:
    """Draw a weighted colour and vary its brightness and its tint a little."""
    weights = np.array([weight for _, weight in palette])
    color = palette[rng.choice(len(palette), p=weights / weights.sum())][0]
    return vary(rng, color, light=light)


def vary(rng: np.random.Generator, color: Color, *, light: float) -> Color:
    """Return the colour with a random brightness step of up to ``light`` and a slight tint."""
    shift = rng.uniform(-light, light) + rng.normal(0, 0.25 * light, 3)
    return clip(np.asarray(color) + shift)


def shade(color: Color, factor: float) -> Color:
    """Return the colour darker (below 1) or brighter (above 1)."""
    return clip(np.asarray(color) * factor)


def clip(rgb: np.ndarray) -> Color:
    """Return the values as a colour in range."""
    red, green, blue = np.clip(rgb, 0, 255).tolist()
    return red, green, blue


def name_color(color: Color) -> str:
    """Return the everyday word for a colour, such as "red" or "dark grey"."""
    hue, light, saturation = colorsys.rgb_to_hls(*(c / 255 for c in color))
    chroma = saturation * (1 - abs(2 * light - 1))
    if chroma < 0.13:
        for limit, name in (
            (0.2, "black"),
            (0.37, "dark grey"),
            (0.62, "grey"),
            (0.8, "light grey"),
        ):
            if light < limit:
                return name
        return "white"
    degrees = 360 * hue
    if 12 <= degrees < 48 and light < 0.42:
        return "brown"
    if 20 <= degrees < 60 and light > 0.5 and chroma < 0.35:
        return "beige"
    for limit, name in (
        (16, "red"),
        (40, "orange"),
        (66, "yellow"),
        (165, "green"),
        (200, "turquoise"),
        (262, "blue"),
        (320, "purple"),
    ):
        if degrees < limit:
            return name
    return "red"
