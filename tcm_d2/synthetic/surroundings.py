"""Painters of what carries no label: roads, houses, trees, lots, fields."""

from __future__ import annotations

import itertools

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.facilities import WHITE
from tcm_d2.synthetic.geometry import Frame, Pose, blob

ROAD_COLORS: tuple[Color, ...] = ((112, 112, 112), (96, 97, 100), (132, 128, 122), (150, 147, 141))
ROOF_COLORS: tuple[Color, ...] = (
    (150, 86, 68),
    (122, 78, 66),
    (138, 132, 124),
    (108, 106, 106),
    (168, 152, 130),
    (84, 82, 84),
    (172, 110, 84),
)
HALL_COLORS: tuple[Color, ...] = (
    (176, 178, 178),
    (206, 206, 202),
    (136, 142, 148),
    (96, 118, 146),
    (158, 120, 104),
)


def paint_road(
    canvas: Canvas, points: np.ndarray, *, width_px: float, color: Color, lanes: int
) -> None:
    """Paint a road along a polyline (P, 2) with kerbs and lane lines, and reserve its area."""
    canvas.stroke(points, (172, 168, 158), width_px=width_px * 1.12)
    canvas.stroke(points, color, width_px=width_px)
    if lanes >= 2:
        for start, end in itertools.pairwise(points):
            _dashes(canvas, start, end, width_px=max(0.6, 0.025 * width_px))
    for start, end in itertools.pairwise(points):
        canvas.reserve(strip(start, end, width_px=width_px))


def strip(start: np.ndarray, end: np.ndarray, *, width_px: float) -> np.ndarray:
    """Return the corners (4, 2) of the straight strip from start to end."""
    step = end - start
    side = np.array([-step[1], step[0]]) * (width_px / 2 / max(1e-6, float(np.hypot(*step))))
    return np.stack([start + side, end + side, end - side, start - side])


def _dashes(canvas: Canvas, start: np.ndarray, end: np.ndarray, *, width_px: float) -> None:
    length = float(np.hypot(*(end - start)))
    count = max(1, int(length / 16))
    for index in range(count):
        a = start + (end - start) * (index / count)
        b = start + (end - start) * ((index + 0.45) / count)
        canvas.stroke(np.stack([a, b]), WHITE, width_px=width_px, alpha=0.75)


def paint_house(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint a house with a ridge roof and its shadow, and reserve its ground."""
    color = np.array(ROOF_COLORS[rng.integers(len(ROOF_COLORS))]) + rng.uniform(-12, 12)
    canvas.shadow(pose.quad(), height_px=0.32 * pose.width, connected=True)
    sun_side = float(np.sign(np.dot(canvas.sun_xy, pose.points([[0, 1]])[0] - [pose.x, pose.y])))
    canvas.fill(pose.quad(), tuple(color))
    near = [[-0.5, 0], [0.5, 0], [0.5, 0.5 * sun_side], [-0.5, 0.5 * sun_side]]
    canvas.fill(pose.points(near), tuple(color * 0.74))
    if rng.random() < 0.6:  # hipped ends
        for end in (-0.5, 0.5):
            hip = [[end, -0.5], [end, 0.5], [end * 0.5, 0]]
            canvas.fill(pose.points(hip), tuple(color * (0.84 if end < 0 else 0.92)))
    canvas.stroke(pose.points([[-0.3, 0], [0.3, 0]]), tuple(color * 1.15), width_px=0.8, alpha=0.6)
    if rng.random() < 0.5:
        chimney = pose.points(np.array([[0.1, 0.1], [0.17, 0.1], [0.17, 0.2], [0.1, 0.2]]))
        canvas.fill(chimney, (92, 72, 64))
    canvas.reserve(pose.quad())


def paint_hall(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint a flat-roofed hall with ribs and roof boxes, and reserve its ground."""
    color = np.array(HALL_COLORS[rng.integers(len(HALL_COLORS))]) + rng.uniform(-14, 10)
    canvas.shadow(pose.quad(), height_px=rng.uniform(0.1, 0.2) * pose.short_side, connected=True)
    canvas.fill(pose.quad(), tuple(color * 0.8))
    canvas.fill(
        pose.points([[-0.49, -0.48], [0.49, -0.48], [0.49, 0.48], [-0.49, 0.48]]), tuple(color)
    )
    if rng.random() < 0.5:
        canvas.fill(
            pose.points([[-0.49, 0], [0.49, 0], [0.49, 0.48], [-0.49, 0.48]]), tuple(color * 0.88)
        )
    for u in np.arange(-0.46, 0.47, 0.06):
        canvas.stroke(
            pose.points([[u, -0.48], [u, 0.48]]), tuple(color * 0.86), width_px=0.5, alpha=0.5
        )
    for _ in range(int(rng.integers(2, 7))):
        u, v = rng.uniform(-0.42, 0.42, 2)
        unit = np.array([[u, v], [u + 0.05, v], [u + 0.05, v + 0.05], [u, v + 0.05]])
        canvas.shadow(pose.points(unit), height_px=1.5)
        canvas.fill(pose.points(unit), tuple(color * rng.choice([0.7, 1.12])))
    canvas.reserve(pose.quad())


def paint_tree(
    canvas: Canvas, x: float, y: float, radius_px: float, rng: np.random.Generator
) -> None:
    """Paint a tree crown lit from the sun's side; it hides what is below."""
    pose = Pose(x, y, rng.uniform(0, 360), 2 * radius_px, 2 * radius_px)
    base = np.array(((54, 78, 42), (46, 70, 44), (70, 88, 48), (62, 72, 40))[rng.integers(4)])
    crown = pose.points(blob(rng, roughness=0.18))
    canvas.shadow(crown, height_px=0.9 * radius_px)
    canvas.fill(crown, tuple(base * 0.8))
    light = -canvas.sun_xy / max(1e-6, float(np.hypot(*canvas.sun_xy)))
    for step in range(5 if radius_px > 4 else 2):
        spread = rng.uniform(-0.5, 0.5, 2) + 0.3 * light
        spot = blob(rng, roughness=0.25, num=9, radii=(0.24, 0.24))
        centre = np.array([x, y]) + spread * radius_px
        tone = 0.95 + 0.09 * step + 0.1 * float(spread @ light)
        canvas.fill(spot * 2 * radius_px * 0.8 + centre, tuple(base * tone), alpha=0.8)
    canvas.hide(crown)


def paint_trees(
    canvas: Canvas,
    rng: np.random.Generator,
    *,
    count: int,
    radius_px: tuple[float, float],
    clusters: int,
    land: np.ndarray | None = None,
) -> None:
    """Scatter trees in clusters over free ground; ``land`` bool (H, W) says where they may grow."""
    centres = rng.uniform(0, 1, (max(1, clusters), 2)) * [canvas.width, canvas.height]
    for _ in range(count):
        spread = rng.normal(0, 0.07, 2) * canvas.width
        x, y = centres[rng.integers(len(centres))] + spread
        radius = rng.uniform(*radius_px)
        column, row = int(x), int(y)
        if not (0 <= column < canvas.width and 0 <= row < canvas.height):
            continue
        if land is not None and not land[row, column]:
            continue
        reach = 0.8 * radius
        box = np.array([[x - reach, y - reach], [x + reach, y - reach], [x + reach, y + reach],
                        [x - reach, y + reach]])  # fmt: skip
        if canvas.is_free(box, for_tree=True):
            paint_tree(canvas, float(x), float(y), float(radius), rng)


def paint_lot(
    canvas: Canvas, frame: Frame, extent: tuple[float, float, float, float], *, color: Color
) -> None:
    """Paint a paved rectangle (u0, v0, u1, v1) of a frame with a kerb."""
    quad = frame.rect(*extent)
    canvas.stroke(quad, (176, 172, 162), width_px=1.5, closed=True)
    canvas.fill(quad, color)
    canvas.pave(quad)


def paint_slab_joints(
    canvas: Canvas,
    frame: Frame,
    extent: tuple[float, float, float, float],
    *,
    step_px: float,
    rng: np.random.Generator,
) -> None:
    """Paint the joints and stains of concrete slabs on a rectangle of a frame."""
    u0, v0, u1, v1 = extent
    for u in np.arange(u0 + step_px, u1, step_px):
        canvas.stroke(frame.points([[u, v0], [u, v1]]), (110, 108, 104), width_px=0.5, alpha=0.3)
    for v in np.arange(v0 + step_px, v1, step_px):
        canvas.stroke(frame.points([[u0, v], [u1, v]]), (110, 108, 104), width_px=0.5, alpha=0.3)
        if rng.random() < 0.3:
            band = frame.rect(u0, v, u1, v + step_px)
            canvas.fill(band, (90, 88, 84), alpha=rng.uniform(0.03, 0.12))
    for _ in range(10):
        spot = blob(rng, roughness=0.4, radii=(rng.uniform(3, 14), rng.uniform(3, 8)))
        centre = [rng.uniform(u0, u1), rng.uniform(v0, v1)]
        canvas.fill(frame.points(spot + centre), (60, 58, 56), alpha=rng.uniform(0.05, 0.2))


def paint_crop_fields(
    canvas: Canvas,
    frame: Frame,
    extent: tuple[float, float, float, float],
    rng: np.random.Generator,
) -> None:
    """Paint strips of farmland with furrows over a rectangle of a frame."""
    u0, v0, u1, v1 = extent
    tones = ((128, 134, 78), (164, 148, 104), (96, 116, 66), (146, 124, 92), (178, 168, 122))
    u = u0
    while u < u1:
        width = rng.uniform(60, 170)
        color = np.array(tones[rng.integers(len(tones))]) + rng.uniform(-10, 10)
        end = min(u1, u + width - rng.uniform(2, 5))
        canvas.fill(frame.rect(u, v0, end, v1), tuple(color))
        for furrow in np.arange(u + 3, end, rng.uniform(4, 9)):
            canvas.stroke(
                frame.points([[furrow, v0], [furrow, v1]]),
                tuple(color * 0.94),
                width_px=0.5,
            )
        u += width
