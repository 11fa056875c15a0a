"""Outlines, labels that find room, and legends. Pictures are RGB uint8 (H, W, 3), changed in place.

Coordinates are continuous pixels: pixel (0, 0) covers [0, 1) x [0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from tcm_d2.visualize.palette import Color

# Fractional bits of coordinates handed to OpenCV.
_SHIFT = 4
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Height in px of a capital letter at font scale 1.
_FONT_CAP_PX = 22.0
_MIN_CAP_PX, _MAX_CAP_PX = 7.0, 15.0
# A label may lie on at most this part of busy pixels.
_MAX_BUSY_FRACTION = 0.12
# A legend takes at most this part of the picture's sides.
_MAX_LEGEND_FRACTION = (0.55, 0.7)
_PAD_PX = 3


class LegendEntry(NamedTuple):
    """A line of a legend."""

    text: str
    color: Color
    dashed: bool = False


def auto_line_width(image_hw: tuple[int, int], quads: np.ndarray) -> int:
    """Return a line width that suits the picture's size and its boxes (M, 4, 2)."""
    by_image = max(1, round(min(image_hw) / 450))
    quads = quads[np.isfinite(quads).all(axis=(1, 2))]
    if not len(quads):
        return by_image
    sides = np.hypot(*np.moveaxis(quads - np.roll(quads, 1, axis=1), -1, 0))  # (M, 4)
    by_boxes = max(1, int(np.median(sides.min(1)) / 9))
    return min(by_image, by_boxes, 6)


def outline_quads(
    image: np.ndarray,
    quads: np.ndarray,
    colors: Sequence[Color],
    *,
    line_width_px: int,
    dashed: bool = False,
) -> None:
    """Draw the outlines of quads (M, 4, 2), one colour each."""
    for quad, color in zip(quads, colors):
        if not np.isfinite(quad).all():
            continue
        if not dashed:
            cv2.polylines(image, [_fixed(quad)], True, color, line_width_px, cv2.LINE_AA, _SHIFT)
            continue
        dash = max(4.0, 3.0 * line_width_px)
        for start, end in zip(quad, np.roll(quad, -1, axis=0)):
            length = float(np.hypot(*(end - start)))
            pieces = max(1, int(length / (2 * dash)))
            for index in range(pieces):
                a = start + (end - start) * (index + 0.0) / pieces
                b = start + (end - start) * (index + 0.55) / pieces
                cv2.polylines(
                    image,
                    [_fixed(np.stack([a, b]))],
                    False,
                    color,
                    line_width_px,
                    cv2.LINE_AA,
                    _SHIFT,
                )


def draw_headings(
    image: np.ndarray, quads: np.ndarray, colors: Sequence[Color], *, line_width_px: int
) -> None:
    """Draw a line from each quad's centre through the middle of its +w side."""
    for quad, color in zip(quads, colors):
        if np.isfinite(quad).all():
            front = (quad[0] + quad[1]) / 2
            line = _fixed(np.stack([quad.mean(0), front]))
            cv2.polylines(image, [line], False, color, line_width_px, cv2.LINE_AA, _SHIFT)


def busy_mask(image_hw: tuple[int, int], quads: np.ndarray) -> np.ndarray:
    """Return a mask uint8 (H, W), 1 where a quad lies."""
    mask = np.zeros(image_hw, np.uint8)
    for quad in quads:
        if np.isfinite(quad).all():
            cv2.fillPoly(mask, [_fixed(quad)], 1, cv2.LINE_8, _SHIFT)
    return mask


def place_labels(
    image: np.ndarray,
    quads: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    *,
    busy: np.ndarray,
    order: np.ndarray,
    force: bool = False,
) -> int:
    """Write labels beside boxes where they hide nothing; returns how many were written.

    Args:
        image: picture, changed in place.
        quads: (M, 4, 2).
        texts: one per box; "" for none.
        colors: one per box.
        busy: mask (H, W) of what must not be hidden; written labels are added to it.
        order: (M,) indices, most important box first.
        force: write labels without room too, over whatever is there.
    """
    scale, cap_px = _font(image.shape[:2])
    written = 0
    for index in order:
        if not texts[index] or not np.isfinite(quads[index]).all():
            continue
        (text_w, _), _ = cv2.getTextSize(texts[index], _FONT, scale, 1)
        size_wh = (text_w + 2 * _PAD_PX, int(cap_px) + 2 * _PAD_PX + 1)
        spot = _find_spot(quads[index], size_wh, busy, force=force)
        if spot is None:
            continue
        x, y = spot
        busy[y : y + size_wh[1], x : x + size_wh[0]] = 1
        _write_tag(image, texts[index], (x, y), size_wh, colors[index], scale=scale)
        written += 1
    return written


def draw_legend(image: np.ndarray, entries: Sequence[LegendEntry], *, busy: np.ndarray) -> bool:
    """Draw a legend in the least busy corner; returns False where the picture is too small."""
    if not entries:
        return False
    height, width = image.shape[:2]
    scale, cap_px = _font((height, width))
    row_px = int(1.75 * cap_px) + 1
    swatch_px = int(2.2 * cap_px)
    text_w = max(cv2.getTextSize(entry.text, _FONT, scale, 1)[0][0] for entry in entries)
    box_w = swatch_px + text_w + 4 * _PAD_PX
    box_h = row_px * len(entries) + 2 * _PAD_PX
    if box_w > _MAX_LEGEND_FRACTION[0] * width or box_h > _MAX_LEGEND_FRACTION[1] * height:
        return False
    corners = [
        (x, y)
        for y in (_PAD_PX, height - box_h - _PAD_PX)
        for x in (_PAD_PX, width - box_w - _PAD_PX)
    ]
    x, y = min(corners, key=lambda c: int(busy[c[1] : c[1] + box_h, c[0] : c[0] + box_w].sum()))
    panel = image[y : y + box_h, x : x + box_w]
    panel[:] = (0.25 * panel + 0.75 * np.array([24, 24, 28])).astype(np.uint8)
    for row, entry in enumerate(entries):
        middle = y + _PAD_PX + row * row_px + row_px // 2
        left = x + _PAD_PX
        steps = (0.0, 0.6) if entry.dashed else (0.0,)
        for step in steps:
            end = left + swatch_px if not entry.dashed else left + int((step + 0.4) * swatch_px)
            start = left + int(step * swatch_px)
            cv2.line(image, (start, middle), (end, middle), entry.color, max(2, int(cap_px / 4)))
        base = (left + swatch_px + 2 * _PAD_PX, middle + int(cap_px / 2))
        cv2.putText(image, entry.text, base, _FONT, scale, (245, 245, 245), 1, cv2.LINE_AA)
    busy[y : y + box_h, x : x + box_w] = 1
    return True


def _font(image_hw: tuple[int, int]) -> tuple[float, float]:
    """Return the font scale and the height of capitals for a picture."""
    cap_px = float(np.clip(min(image_hw) / 64, _MIN_CAP_PX, _MAX_CAP_PX))
    return cap_px / _FONT_CAP_PX, cap_px


def _find_spot(
    quad: np.ndarray, size_wh: tuple[int, int], busy: np.ndarray, *, force: bool
) -> tuple[int, int] | None:
    """Return the top left pixel of a free place for a label next to a quad, None if there is none.

    Tried in turn: above, below, right, left, and inside for boxes much larger than the label.
    """
    height, width = busy.shape
    label_w, label_h = size_wh
    if label_w >= width or label_h >= height:
        return None
    (x0, y0), (x1, y1) = quad.min(0), quad.max(0)
    mid_x, mid_y = (x0 + x1) / 2, (y0 + y1) / 2
    spots = [
        (mid_x - label_w / 2, y0 - label_h - 1),
        (mid_x - label_w / 2, y1 + 2),
        (x1 + 2, mid_y - label_h / 2),
        (x0 - label_w - 1, mid_y - label_h / 2),
    ]
    for x, y in spots:
        left, top = round(x), round(y)
        if left < 0 or top < 0 or left + label_w > width or top + label_h > height:
            continue
        if busy[top : top + label_h, left : left + label_w].mean() <= _MAX_BUSY_FRACTION:
            return left, top
    if not force and ((x1 - x0) < 1.6 * label_w or (y1 - y0) < 4 * label_h):
        return None
    left = int(np.clip(mid_x - label_w / 2, 0, width - label_w))
    top = int(np.clip(y0 + 2, 0, height - label_h))
    return left, top


def _write_tag(
    image: np.ndarray,
    text: str,
    top_left: tuple[int, int],
    size_wh: tuple[int, int],
    color: Color,
    *,
    scale: float,
) -> None:
    """Write text on a plate of the box's colour, black or white for contrast."""
    x, y = top_left
    image[y : y + size_wh[1], x : x + size_wh[0]] = color
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    ink = (0, 0, 0) if luma > 120 else (255, 255, 255)
    base = (x + _PAD_PX, y + size_wh[1] - _PAD_PX - 1)
    cv2.putText(image, text, base, _FONT, scale, ink, 1, cv2.LINE_AA)


def _fixed(points: np.ndarray) -> np.ndarray:
    """Return fixed-point coordinates whose integers are pixel centres, as OpenCV wants them."""
    limit = 2.0**26 / (1 << _SHIFT)
    points = np.clip(points - 0.5, -limit, limit)
    fixed: np.ndarray = np.rint(points * (1 << _SHIFT)).astype(np.int32)
    return fixed
