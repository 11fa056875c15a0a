"""What cameras, the air and map servers do to a picture. Images are RGB uint8 (H, W, 3)."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from tcm_d2.synthetic.textures import to_uint8, value_noise


class Photograph(NamedTuple):
    """An image and where it shows nothing: bool (H, W), the black corner of a turned mosaic."""

    image: np.ndarray
    black: np.ndarray


def photograph(rng: np.random.Generator, image: np.ndarray) -> Photograph:
    """Return the image as one of many cameras shows it.

    Uneven light, tone curve, colour cast, haze, clouds, resampling, sharpening, noise, JPEG, grey
    images, black corners.
    """
    out = _tones(rng, image.astype(np.float32))
    out = _optics(rng, out)
    if rng.random() < 0.12:
        out = np.repeat(out @ np.array([[0.3], [0.59], [0.11]], np.float32), 3, axis=2)
    noise = rng.standard_normal(out.shape[:2], dtype=np.float32)[..., None]
    if rng.random() < 0.5:
        noise = 0.6 * noise + 0.4 * rng.standard_normal(out.shape, dtype=np.float32)
    out += rng.choice([0.5, 2.0, rng.uniform(2, 8)]) * noise
    pixels = to_uint8(out)
    black = np.zeros(pixels.shape[:2], bool)
    if rng.random() < 0.15:
        black = _corner(rng, *black.shape)
        pixels[black] = 0
    if rng.random() < 0.75:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 97))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
    return Photograph(pixels, black)


def _tones(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light that varies over the image, contrast, gamma, saturation, cast, haze, clouds."""
    height, width = image.shape[:2]
    light = value_noise(rng, height, width, cell_px=rng.uniform(80, 300), octaves=2)
    fine = value_noise(rng, height, width, cell_px=rng.uniform(2, 6), octaves=2)
    image = image * (1 + rng.uniform(0, 0.06) * light + rng.uniform(0.005, 0.04) * fine)[..., None]
    image = 255 * np.clip(image / 255, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.22)))
    contrast, brightness = rng.uniform(0.72, 1.35), rng.normal(0, 14)
    cast = rng.normal(1, 0.04, 3).astype(np.float32)
    image = (image - 112) * contrast * cast + 112 + brightness
    gray = image.mean(2, keepdims=True)
    image = gray + (image - gray) * rng.uniform(0.45, 1.3)
    if rng.random() < 0.35:
        haze = rng.uniform(0.03, 0.4)
        tone = np.array([176, 184, 192], np.float32) + rng.normal(0, 12, 3).astype(np.float32)
        image = image * (1 - haze) + haze * tone
    if rng.random() < 0.03:
        cloud = value_noise(rng, height, width, cell_px=rng.uniform(40, 160), octaves=4)
        cover = np.clip(0.5 * (cloud - rng.uniform(0.6, 1.6)), 0, 0.8)[..., None]
        image = image * (1 - cover) + 240 * cover
    return np.clip(image, 0, 255)


def _optics(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Blur, or coarser pixels enlarged again, then at times sharpening as map servers do it."""
    height, width = image.shape[:2]
    draw = rng.random()
    if draw < 0.3:
        factor = rng.uniform(0.35, 0.9)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        method = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(2)]
        image = cv2.resize(small, (width, height), interpolation=method)
    elif draw < 0.75:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.3))
    if rng.random() < 0.45:
        soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 2.0))
        image = image + rng.uniform(0.2, 1.4) * (image - soft)
    return np.clip(image, 0, 255)


def _corner(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return what a slanted line cuts off at one side, never the middle."""
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    along = (x - width / 2) * np.cos(turn) + (y - height / 2) * np.sin(turn)
    return along > rng.uniform(0.3, 0.6) * max(height, width)
