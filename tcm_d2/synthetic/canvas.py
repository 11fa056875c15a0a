"""The supersampled picture that scenes are painted on, with its record of placed objects.

Coordinates are pixels of the final image, continuous: pixel (0, 0) covers [0, 1) x [0, 1).
Colours are RGB in 0..255.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

from tcm_d2.synthetic.geometry import Pose, ellipse

# Picture pixels per final pixel and side.
SUPERSAMPLING = 2
# Fractional bits of the coordinates handed to OpenCV.
_SHIFT = 4
# Blended lines are drawn in pieces of this length.
_BLEND_PIECE_PX = 40.0

Color = tuple[float, float, float]


@dataclass
class PlacedObject:
    """A painted object: its class, corners (4, 2) in final pixels and the visible fraction."""

    class_name: str
    quad: np.ndarray
    visible_fraction: float


class Canvas:
    """A picture with polygons, strokes, shadows and a map of what is taken.

    Attributes:
        sun_xy: shadow offset per pixel of height, in image axes.
        occupied: bool-like uint8 (H, W); 1 where something stands.
        paved: uint8 (H, W); 1 where no tree grows although there is room for objects.
        cover: uint8 (H, W); 1 where a tree crown hides what is below.
        objects: the placed objects in painting order.
    """

    def __init__(self, background: np.ndarray, *, sun_xy: np.ndarray, shadow_alpha: float) -> None:
        self.height, self.width = background.shape[:2]
        size = (self.width * SUPERSAMPLING, self.height * SUPERSAMPLING)
        self.pixels = cv2.resize(background, size, interpolation=cv2.INTER_LINEAR)
        self.sun_xy = np.asarray(sun_xy, np.float64)
        self.shadow_alpha = shadow_alpha
        self.occupied = np.zeros((self.height, self.width), np.uint8)
        self.paved = np.zeros((self.height, self.width), np.uint8)
        self.cover = np.zeros((self.height, self.width), np.uint8)
        self.objects: list[PlacedObject] = []

    def finish(self) -> np.ndarray:
        """Return the picture (H, W, 3) at final resolution."""
        return cv2.resize(self.pixels, (self.width, self.height), interpolation=cv2.INTER_AREA)

    def fill(self, points: np.ndarray, color: Color, *, alpha: float = 1.0) -> None:
        """Fill a polygon (P, 2); ``alpha`` below 1 blends it over what is there."""
        raster = _rasterize(points, SUPERSAMPLING)
        if alpha >= 1.0:
            rgb = tuple(float(c) for c in color)
            cv2.fillPoly(self.pixels, [raster], rgb, cv2.LINE_AA, _SHIFT)
            return
        window = _window(points * SUPERSAMPLING, self.pixels.shape[1], self.pixels.shape[0])
        if window is None:
            return
        x0, y0, x1, y1 = window
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        offset = np.array([x0, y0], np.int32) << _SHIFT
        cv2.fillPoly(mask, [raster - offset], 255, cv2.LINE_AA, _SHIFT)
        weight = mask[..., None].astype(np.float32) * (alpha / 255.0)
        patch = self.pixels[y0:y1, x0:x1]
        blended = patch + weight * (np.asarray(color, np.float32) - patch)
        self.pixels[y0:y1, x0:x1] = (blended + 0.5).astype(np.uint8)

    def stroke(
        self,
        points: np.ndarray,
        color: Color,
        *,
        width_px: float,
        closed: bool = False,
        alpha: float = 1.0,
    ) -> None:
        """Draw a polyline; widths below a picture pixel become fainter instead of thinner."""
        thickness = width_px * SUPERSAMPLING
        if alpha >= 1.0 and thickness >= 0.9:
            rgb = tuple(float(c) for c in color)
            cv2.polylines(
                self.pixels,
                [_rasterize(points, SUPERSAMPLING)],
                closed,
                rgb,
                max(1, round(thickness)),
                cv2.LINE_AA,
                _SHIFT,
            )
            return
        ends = np.roll(points, -1, axis=0) if closed else points[1:]
        half = max(width_px, 1.0 / SUPERSAMPLING) / 2
        weight = alpha * min(1.0, max(0.25, thickness))
        for start, end in zip(points[: len(ends)], ends):
            self._blend_segment(start, end, color, half_width=half, alpha=weight)

    def _blend_segment(
        self, start: np.ndarray, end: np.ndarray, color: Color, *, half_width: float, alpha: float
    ) -> None:
        """Blend a straight line in pieces, so that long slanted lines touch few pixels."""
        step = end - start
        length = float(np.hypot(*step))
        if length <= 0:
            return
        side = np.array([-step[1], step[0]]) * (half_width / length)
        pieces = int(np.ceil(length / _BLEND_PIECE_PX))
        knots = start + step * np.linspace(0, 1, pieces + 1)[:, None]
        for a, b in itertools.pairwise(knots):
            self.fill(np.stack([a + side, b + side, b - side, a - side]), color, alpha=alpha)

    def disc(
        self, x: float, y: float, radius_px: float, color: Color, *, alpha: float = 1.0
    ) -> None:
        """Fill a circle."""
        outline = ellipse(center=(x, y), radii=(radius_px, radius_px), num=36)
        self.fill(outline, color, alpha=alpha)

    def shadow(self, points: np.ndarray, *, height_px: float, connected: bool = False) -> None:
        """Cast the shadow of an outline at ``height_px``; ``connected`` joins it to the foot."""
        shifted = points + self.sun_xy * height_px
        if connected:
            both = np.concatenate([points, shifted]).astype(np.float32)
            shifted = cv2.convexHull(both)[:, 0].astype(np.float64)
        self.fill(shifted, (12, 14, 22), alpha=self.shadow_alpha)

    def texture(self, points: np.ndarray, texture: np.ndarray, *, alpha: float = 1.0) -> None:
        """Fill a polygon with a texture (H, W, 3) of the final image's size."""
        mask = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(mask, [_rasterize(points, 1)], 255, cv2.LINE_8, _SHIFT)
        self.texture_mask(mask, texture, alpha=alpha)

    def texture_mask(self, mask: np.ndarray, texture: np.ndarray, *, alpha: float = 1.0) -> None:
        """Blend a texture in where ``mask`` (H, W) uint8 0..255 says so."""
        size = (self.pixels.shape[1], self.pixels.shape[0])
        large_mask = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
        rows, cols = np.nonzero(large_mask.any(1))[0], np.nonzero(large_mask.any(0))[0]
        if not len(rows):
            return
        window = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        large = cv2.resize(texture, size, interpolation=cv2.INTER_LINEAR)[window]
        weight = large_mask[window][..., None].astype(np.float32) * (alpha / 255.0)
        patch = self.pixels[window]
        self.pixels[window] = (patch + weight * (large.astype(np.float32) - patch) + 0.5).astype(
            np.uint8
        )

    def is_free(self, points: np.ndarray, *, for_tree: bool = False) -> bool:
        """Return whether nothing stands inside the polygon (and, for trees, it is not paved)."""
        if for_tree and self._taken_fraction(self.paved, points) > 0.0:
            return False
        return self._taken_fraction(self.occupied, points) == 0.0

    def pave(self, points: np.ndarray) -> None:
        """Keep trees off the polygon."""
        cv2.fillPoly(self.paved, [_rasterize(points, 1)], 1, cv2.LINE_8, _SHIFT)

    def reserve(self, points: np.ndarray) -> None:
        """Mark the polygon as taken."""
        cv2.fillPoly(self.occupied, [_rasterize(points, 1)], 1, cv2.LINE_8, _SHIFT)

    def hide(self, points: np.ndarray) -> None:
        """Mark the polygon as hidden from above."""
        cv2.fillPoly(self.cover, [_rasterize(points, 1)], 1, cv2.LINE_8, _SHIFT)

    def hidden_fraction(self, quad: np.ndarray) -> float:
        """Return the part of the polygon's pixels that is hidden from above."""
        return self._taken_fraction(self.cover, quad)

    def record(self, class_name: str, pose: Pose, *, visible_fraction: float) -> None:
        """Note a placed object for the label file."""
        self.objects.append(PlacedObject(class_name, pose.quad(), visible_fraction))

    def _taken_fraction(self, plane: np.ndarray, points: np.ndarray) -> float:
        window = _window(points, self.width, self.height)
        if window is None:
            return 0.0
        x0, y0, x1, y1 = window
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        offset = np.array([x0, y0], np.int32) << _SHIFT
        cv2.fillPoly(mask, [_rasterize(points, 1) - offset], 1, cv2.LINE_8, _SHIFT)
        total = int(mask.sum())
        return float((mask & plane[y0:y1, x0:x1]).sum()) / total if total else 0.0


def _rasterize(points: np.ndarray, factor: int) -> np.ndarray:
    """Return fixed-point coordinates whose integers are pixel centres, as OpenCV wants them."""
    return np.rint((points * factor - 0.5) * (1 << _SHIFT)).astype(np.int32)


def _window(points: np.ndarray, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the pixel window x0, y0, x1, y1 around points inside the picture, None if empty."""
    low = np.floor(points.min(0)).astype(int) - 2
    high = np.ceil(points.max(0)).astype(int) + 3
    x0, y0 = max(0, int(low[0])), max(0, int(low[1]))
    x1, y1 = min(width, int(high[0])), min(height, int(high[1]))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None
