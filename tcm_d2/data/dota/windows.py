"""Where the patches of an image lie, and which objects belong to which patch.

Windows, their order and the keep rules are those of mmrotate's ``img_split.py`` (read for its
behaviour; written afresh), so that patches are comparable with the published ones.
"""

from __future__ import annotations

import math

import numpy as np

from tcm_d2.structures.quads import signed_areas

# Windows whose covered share ties with the best one up to this are kept with it when no window
# passes the limit (mmrotate's value).
_BEST_WINDOW_TOLERANCE = 0.01


def window_starts(length_px: int, window_px: int, gap_px: int) -> list[int]:
    """Return the window starts along one side; the last window ends at the border.

    A side shorter than the window gives one start, 0 (the patch is padded).
    """
    if length_px <= window_px:
        return [0]
    step_px = window_px - gap_px
    num = math.ceil((length_px - window_px) / step_px + 1)
    return [min(step_px * index, length_px - window_px) for index in range(num)]


def sliding_windows(
    height_px: int,
    width_px: int,
    *,
    window_px: int,
    gap_px: int,
) -> np.ndarray:
    """Return all windows (N, 4) int64: x1, y1, x2, y2 in image pixels, column by column.

    Windows may reach beyond the image on the right and at the bottom.

    Raises:
        ValueError: unless window_px > gap_px >= 0.
    """
    if not window_px > gap_px >= 0:
        raise ValueError(
            f"gap_px: expected 0 <= gap < window size {window_px}, got {gap_px}; lower the gap"
        )
    starts = [
        (x, y)
        for x in window_starts(width_px, window_px, gap_px)
        for y in window_starts(height_px, window_px, gap_px)
    ]
    top_left = np.array(starts, dtype=np.int64).reshape(-1, 2)
    return np.concatenate([top_left, top_left + window_px], axis=1)


def keep_covered_windows(
    windows: np.ndarray, height_px: int, width_px: int, *, min_image_rate: float
) -> np.ndarray:
    """Return the windows (K, 4) of which more than ``min_image_rate`` lies inside the image.

    When none does, the best covered ones are kept. All windows of an image compete together, so
    in a multi-scale split a small image loses the windows that are much larger than it.
    """
    limits = np.array([width_px, height_px, width_px, height_px])
    inside = np.clip(windows, 0, limits)
    covered = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    area = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
    rate = covered / area
    keep = rate > min_image_rate
    if not keep.any():
        keep = rate > rate.max() - _BEST_WINDOW_TOLERANCE
    return windows[keep]


def quads_window_iof(quads: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return intersection over the quad's own area, (M, N) float64, exact for any simple quad.

    The area under each edge, clamped to the window, is summed around the quad (Green's theorem);
    every edge is cut where it leaves the window's height, so each piece is a trapezoid.

    Args:
        quads: (M, 4, 2) image pixels, either direction of rotation, area > 0.
        windows: (N, 4) x1, y1, x2, y2 image pixels.
    """
    quads = np.asarray(quads, dtype=np.float64).reshape(-1, 4, 2)
    windows = np.asarray(windows, dtype=np.float64).reshape(-1, 4)
    overlap = np.zeros((len(quads), len(windows)))
    if not overlap.size:
        return overlap
    hbox_min, hbox_max = quads.min(axis=1), quads.max(axis=1)
    for column, window in enumerate(windows):
        low, high = window[:2], window[2:]
        near = ((hbox_max > low) & (hbox_min < high)).all(axis=1)
        whole = near & ((hbox_min >= low) & (hbox_max <= high)).all(axis=1)
        cut = np.flatnonzero(near & ~whole)
        overlap[whole, column] = 1.0
        if len(cut):
            inside = _area_in_rectangle(quads[cut] - low, high - low)
            overlap[cut, column] = inside / np.abs(signed_areas(quads[cut]))
    return np.clip(overlap, 0.0, 1.0)


def quads_cut_by_window(quads: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Return (M,) bool: some corner of quads (M, 4, 2) lies outside the window (4,)."""
    beyond = (quads < window[:2]) | (quads > window[2:])  # (M, 4, 2)
    return np.asarray(beyond.any(axis=(1, 2)))


def _area_in_rectangle(quads: np.ndarray, size_xy: np.ndarray) -> np.ndarray:
    """Return the areas (M,) of quads (M, 4, 2) inside the rectangle from (0, 0) to size_xy."""
    start = quads  # (M, 4, 2): one row per edge
    delta = np.roll(quads, -1, axis=1) - start
    with np.errstate(divide="ignore", invalid="ignore"):
        # Edge parameters at the four border lines: (M, 4, xy, low/high).
        at_border = (np.stack([np.zeros(2), size_xy], axis=-1) - start[..., None]) / delta[
            ..., None
        ]
    # An edge along y adds nothing (no extent in x); one along x is never cut by a y border.
    at_border = np.clip(np.nan_to_num(at_border, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    at_x = np.sort(at_border[..., 0, :], axis=-1)
    at_y = np.clip(at_border[..., 1, :], at_x[..., :1], at_x[..., 1:])
    cuts = np.sort(np.concatenate([at_x, at_y], axis=-1), axis=-1)  # (M, 4, 4)
    x = start[..., :1] + cuts * delta[..., :1]
    y = np.clip(start[..., 1:] + cuts * delta[..., 1:], 0.0, size_xy[1])
    pieces = np.diff(x, axis=-1) * (y[..., 1:] + y[..., :-1]) / 2
    return np.abs(pieces.sum(axis=(1, 2)))
