"""Noise, ground textures and the camera's imperfections. Images are RGB uint8 (H, W, 3)."""

from __future__ import annotations

import cv2
import numpy as np

# Pairs of colours that one kind of ground varies between.
GROUND_COLORS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "grass": ((86, 104, 62), (112, 124, 78)),
    "lush": ((58, 86, 48), (84, 108, 62)),
    "dry": ((150, 138, 104), (174, 158, 122)),
    "soil": ((132, 106, 82), (164, 138, 110)),
    "forest": ((34, 56, 36), (62, 84, 50)),
    "urban": ((124, 122, 116), (150, 147, 140)),
    "sand": ((190, 174, 142), (206, 192, 162)),
}
WATER_COLORS = ((30, 52, 58), (38, 68, 84), (48, 86, 92), (26, 42, 56), (70, 96, 92))


def value_noise(
    rng: np.random.Generator, height: int, width: int, *, cell_px: float, octaves: int
) -> np.ndarray:
    """Return multi-octave noise (H, W) float32 with mean near 0 and standard deviation near 1."""
    total = np.zeros((height, width), np.float32)
    weight_sq = 0.0
    for octave in range(octaves):
        cell = max(1.0, cell_px / 2**octave)
        weight = 0.55**octave
        grid_hw = (int(height / cell) + 3, int(width / cell) + 3)
        grid = rng.standard_normal(grid_hw, dtype=np.float32)
        if cell > 1.0:
            size = (int(grid_hw[1] * cell), int(grid_hw[0] * cell))
            grid = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC) * 1.35
        total += weight * grid[:height, :width]
        weight_sq += weight**2
    return total / np.float32(np.sqrt(weight_sq))


def emboss(noise: np.ndarray, sun_xy: np.ndarray) -> np.ndarray:
    """Return the slope of ``noise`` towards the sun, as a relief lit from the side would show."""
    slope_x = cv2.Sobel(noise, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    slope_y = cv2.Sobel(noise, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    return slope_x * float(sun_xy[0]) + slope_y * float(sun_xy[1])


def ground(
    rng: np.random.Generator, height: int, width: int, *, kind: str, sun_xy: np.ndarray
) -> np.ndarray:
    """Return a ground texture of a kind named in ``GROUND_COLORS``."""
    first, second = (np.asarray(c, np.float32) for c in GROUND_COLORS[kind])
    mix = 1.0 / (1.0 + np.exp(-1.6 * value_noise(rng, height, width, cell_px=90, octaves=4)))
    image = first + mix[..., None] * (second - first)
    fine = value_noise(rng, height, width, cell_px=9, octaves=3)
    gain = 0.035 * fine + 0.05 * value_noise(rng, height, width, cell_px=34, octaves=2)
    if kind in ("forest", "lush"):
        gain += (0.45 if kind == "forest" else 0.12) * emboss(fine, -sun_xy)
    return to_uint8(image * (1.0 + gain[..., None]))


def water(rng: np.random.Generator, height: int, width: int, *, sun_xy: np.ndarray) -> np.ndarray:
    """Return a water surface with slow colour changes and small waves."""
    base = np.asarray(WATER_COLORS[rng.integers(len(WATER_COLORS))], np.float32)
    slow = value_noise(rng, height, width, cell_px=140, octaves=3)
    waves = value_noise(rng, height, width, cell_px=5, octaves=2)
    gain = 0.06 * slow + rng.uniform(0.02, 0.08) * emboss(waves, sun_xy) + 0.012 * waves
    return to_uint8(base * (1.0 + gain[..., None]))


def grain(rng: np.random.Generator, image: np.ndarray, *, strength: float) -> np.ndarray:
    """Return the image with brightness variations of several sizes, so no surface is flat."""
    height, width = image.shape[:2]
    gain = 0.03 * value_noise(rng, height, width, cell_px=40, octaves=2)
    gain += 0.022 * value_noise(rng, height, width, cell_px=3, octaves=2)
    return to_uint8(image * (1.0 + strength * gain[..., None]))


def degrade(rng: np.random.Generator, image: np.ndarray, *, strength: float) -> np.ndarray:
    """Return the image as a camera and a map server give it.

    Haze, contrast, colour cast, blur, noise and JPEG; ``strength`` 0 changes nothing, 1 is the
    spread seen in DOTA.
    """
    if strength <= 0:
        return image
    out = image.astype(np.float32)
    contrast = 1.0 + strength * rng.uniform(-0.18, 0.12)
    brightness = strength * rng.uniform(-16, 18)
    cast = 1.0 + strength * rng.uniform(-0.05, 0.05, 3).astype(np.float32)
    out = (out - 110.0) * contrast * cast + 110.0 + brightness
    gray = out.mean(2, keepdims=True)
    out = gray + (out - gray) * (1.0 - strength * rng.uniform(0.0, 0.5))
    haze = strength * max(0.0, rng.uniform(-0.2, 0.22))
    out = out * (1 - haze) + haze * np.array([176, 182, 188], np.float32)
    if rng.random() < 0.06 * strength:  # panchromatic images occur in DOTA
        out = np.repeat(out.mean(2, keepdims=True), 3, axis=2)
    out = cv2.GaussianBlur(out, (0, 0), 0.25 + strength * rng.uniform(0.05, 0.55))
    noise = rng.standard_normal(out.shape, dtype=np.float32)
    out += strength * rng.uniform(1.0, 4.0) * noise
    quality = round(97 - strength * rng.uniform(2, 25))
    _, packed = cv2.imencode(".jpg", to_uint8(out), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(packed, cv2.IMREAD_COLOR)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Return the image rounded and clipped to uint8."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
