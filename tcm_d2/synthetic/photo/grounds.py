"""Ground, water and pavement of photo-like scenes. Images are RGB uint8 (H, W, 3)."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import blob
from tcm_d2.synthetic.photo.colors import shade
from tcm_d2.synthetic.textures import emboss, to_uint8, value_noise

# Colours that a kind of ground varies between, and how rough its relief looks.
GROUNDS: dict[str, tuple[tuple[Color, ...], float]] = {
    "grass": (((88, 102, 62), (116, 122, 78), (132, 126, 88)), 0.05),
    "lawn": (((62, 92, 48), (86, 112, 62), (102, 122, 70)), 0.03),
    "dry": (((150, 136, 102), (176, 160, 124), (128, 120, 88)), 0.05),
    "soil": (((134, 104, 80), (162, 134, 106), (112, 88, 70)), 0.06),
    "red soil": (((152, 98, 70), (176, 122, 90), (128, 84, 62)), 0.06),
    "sand": (((194, 178, 146), (212, 198, 168), (176, 160, 128)), 0.03),
    "forest": (((32, 52, 34), (58, 80, 46), (76, 92, 56)), 0.5),
    "scrub": (((96, 98, 66), (138, 128, 94), (70, 80, 50)), 0.25),
    "gravel": (((146, 142, 134), (168, 164, 156), (124, 120, 112)), 0.08),
    "asphalt": (((92, 92, 94), (112, 112, 112), (80, 82, 86)), 0.02),
    "concrete": (((170, 168, 160), (190, 188, 180), (150, 148, 142)), 0.02),
    "dark field": (((54, 50, 46), (74, 68, 60), (44, 46, 42)), 0.04),
    "snow": (((222, 226, 232), (240, 242, 244), (196, 202, 210)), 0.03),
}
WATERS: tuple[Color, ...] = (
    (28, 48, 54),
    (36, 66, 82),
    (46, 86, 96),
    (22, 36, 50),
    (70, 96, 90),
    (58, 70, 60),
    (92, 104, 88),
    (40, 92, 122),
    (16, 26, 30),
    (112, 116, 100),
)


def paint_ground(
    rng: np.random.Generator, size: int, *, kind: str, gsd_m: float, sun_xy: np.ndarray
) -> np.ndarray:
    """Return a ground texture with patches of tens of metres and grain of decimetres."""
    colors, relief = GROUNDS[kind]
    first, second, third = (np.asarray(c, np.float32) + rng.uniform(-10, 10, 3) for c in colors)
    light = rng.uniform(0.8, 1.2)
    broad = value_noise(rng, size, size, cell_px=max(8.0, rng.uniform(8, 40) / gsd_m), octaves=4)
    middle = value_noise(rng, size, size, cell_px=max(3.0, rng.uniform(2, 8) / gsd_m), octaves=3)
    mix = (1 / (1 + np.exp(-1.5 * broad)))[..., None]
    part = np.clip(0.35 * middle - 0.1, 0, 0.8)[..., None]
    image = (first + mix * (second - first)) * (1 - part) + third * part
    fine = value_noise(rng, size, size, cell_px=max(1.5, rng.uniform(0.4, 1.5) / gsd_m), octaves=2)
    gain = rng.uniform(0.02, 0.07) * fine + rng.uniform(0.02, 0.06) * middle
    if relief > 0.1:
        gain += relief * emboss(middle, -sun_xy)
    return to_uint8(image * light * (1 + gain[..., None]))


def paint_water(
    rng: np.random.Generator, size: int, *, gsd_m: float, sun_xy: np.ndarray
) -> np.ndarray:
    """Return a water surface: depth colours, waves, at times glint."""
    base = np.asarray(WATERS[rng.integers(len(WATERS))], np.float32) + rng.uniform(-8, 8, 3)
    slow = value_noise(rng, size, size, cell_px=max(20.0, rng.uniform(20, 120) / gsd_m), octaves=3)
    waves = value_noise(rng, size, size, cell_px=max(2.0, rng.uniform(0.5, 3) / gsd_m), octaves=2)
    gain = rng.uniform(0.02, 0.1) * slow + rng.uniform(0.0, 0.12) * emboss(waves, sun_xy)
    image = base * (1 + gain[..., None])
    if rng.random() < 0.2:
        glint = np.clip(waves - rng.uniform(1.2, 2.0), 0, 1)[..., None]
        image = image + glint * rng.uniform(40, 110)
    return to_uint8(image)


def paint_pavement(
    canvas: Canvas,
    quad: np.ndarray,
    rng: np.random.Generator,
    *,
    color: Color,
    gsd_m: float,
    concrete: bool,
) -> None:
    """Pave a polygon: repaired patches, oil stains, tyre marks, and joints of concrete slabs."""
    canvas.fill(quad, color)
    low, high = np.maximum(quad.min(0), 0), np.minimum(quad.max(0), [canvas.width, canvas.height])
    extent = high - low
    if (extent < 8).any():
        return
    origin, along, across = quad[0], quad[1] - quad[0], quad[3] - quad[0]
    area_m2 = float(np.hypot(*along) * np.hypot(*across)) * gsd_m**2
    if concrete:
        _bands(canvas, quad, rng, color=color, width_px=rng.uniform(5, 25) / gsd_m)
        step = rng.uniform(4, 9) / gsd_m
        _joints(canvas, quad, step_px=step, color=shade(color, rng.uniform(0.72, 0.9)))
    for _ in range(min(14, int(rng.poisson(min(10.0, 2 + area_m2 / 600))))):
        start = rng.uniform(0, 0.9, 2)
        size = rng.uniform(0.03, 0.4, 2)
        u0, v0 = start
        u1, v1 = np.minimum(start + size, 1)
        corners = [
            origin + u * along + v * across for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1))
        ]
        tone = shade(color, rng.uniform(0.82, 1.14))
        canvas.fill(np.array(corners), tone, alpha=rng.uniform(0.2, 0.7))
    for _ in range(min(30, int(rng.poisson(min(24.0, 2 + area_m2 / 150))))):
        centre = origin + rng.random() * along + rng.random() * across
        radius = rng.uniform(0.3, 2.5) / gsd_m
        spot = blob(rng, roughness=0.4, num=10, radii=(radius, radius * rng.uniform(0.4, 1.0)))
        canvas.fill(centre + spot, shade(color, 0.55), alpha=rng.uniform(0.05, 0.4))
    for _ in range(int(rng.integers(0, 7))):  # cracks and tyre marks
        start = origin + rng.random() * along + rng.random() * across
        step = rng.normal(0, 1, 2) * rng.uniform(3, 25) / gsd_m
        bend = start + 0.5 * step + rng.normal(0, 0.1, 2) * np.hypot(*step)
        line = np.stack([start, bend, start + step])
        tone = shade(color, rng.choice([0.6, 0.75, 1.2]))
        canvas.stroke(
            line, tone, width_px=rng.uniform(0.1, 0.4) / gsd_m, alpha=rng.uniform(0.1, 0.5)
        )


def _joints(canvas: Canvas, quad: np.ndarray, *, step_px: float, color: Color) -> None:
    """Draw the joints of slabs along both sides of a quad."""
    if step_px < 5:
        return
    origin, along, across = quad[0], quad[1] - quad[0], quad[3] - quad[0]
    for side, other in ((along, across), (across, along)):
        for part in np.arange(step_px, np.hypot(*side), step_px) / max(1e-6, np.hypot(*side)):
            start = origin + part * side
            canvas.stroke(np.stack([start, start + other]), color, width_px=0.5, alpha=0.5)


def _bands(
    canvas: Canvas, quad: np.ndarray, rng: np.random.Generator, *, color: Color, width_px: float
) -> None:
    """Lay strips of slabs of several ages along one side of a quad."""
    origin, along, across = quad[0], quad[1] - quad[0], quad[3] - quad[0]
    contrast = rng.choice([0.0, rng.uniform(0.02, 0.12)])
    length = float(np.hypot(*across))
    if contrast == 0 or width_px < 3:
        return
    for start in np.arange(0, length, width_px) / length:
        stop = min(1.0, start + width_px / length)
        corners = [origin + start * across, origin + start * across + along]
        corners += [origin + stop * across + along, origin + stop * across]
        canvas.fill(np.array(corners), shade(color, 1 + rng.normal(0, contrast)), alpha=0.8)
