"""Painters of courts and fields, fresh and worn, with lines and without, in many colours."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.facilities import stadium_outline
from tcm_d2.synthetic.geometry import Pose, blob, ellipse
from tcm_d2.synthetic.photo.colors import WHITE, shade, vary

_GREENS: tuple[Color, ...] = (
    (72, 106, 56),
    (92, 118, 66),
    (112, 122, 76),
    (62, 92, 62),
    (134, 132, 92),
    (44, 84, 58),
)
_DIRTS: tuple[Color, ...] = (
    (176, 140, 106),
    (188, 128, 92),
    (202, 176, 142),
    (150, 116, 88),
    (168, 152, 128),
    (192, 108, 72),
)


def _box(u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    return np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])


class _Lines:
    """Painted lines of one court: one width, one strength."""

    def __init__(self, canvas: Canvas, pose: Pose, *, width_px: float, alpha: float) -> None:
        self._canvas, self._pose, self._width_px, self._alpha = canvas, pose, width_px, alpha

    def __call__(self, points: np.ndarray | list, *, closed: bool = False) -> None:
        if self._alpha > 0.02:
            self._canvas.stroke(
                self._pose.points(points),
                WHITE,
                width_px=self._width_px,
                closed=closed,
                alpha=self._alpha,
            )


def _wear(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color, *, num: int) -> None:
    """Paint worn and wet patches on a surface."""
    for _ in range(num):
        radii = rng.uniform(0.02, 0.2), rng.uniform(0.03, 0.25)
        patch = blob(rng, roughness=0.4, num=10, radii=radii) + rng.uniform(-0.36, 0.36, 2)
        canvas.fill(pose.points(np.clip(patch, -0.5, 0.5)), color, alpha=rng.uniform(0.05, 0.35))


def paint_tennis_court(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, *, color: Color, line_alpha: float
) -> None:
    """Paint a tennis court whose outer lines are the pose."""
    canvas.fill(pose.quad(), color)
    _wear(canvas, pose, rng, shade(color, rng.choice([0.8, 1.2])), num=int(rng.integers(0, 4)))
    line = _Lines(canvas, pose, width_px=max(0.55, 0.009 * pose.width), alpha=line_alpha)
    line(_box(-0.497, -0.494, 0.497, 0.494), closed=True)
    for v in (-0.375, 0.375):
        line([[-0.497, v], [0.497, v]])
    for u in (-0.27, 0.27):
        line([[u, -0.375], [u, 0.375]])
    line([[-0.27, 0.0], [0.27, 0.0]])
    net = pose.points([[0.0, -0.54], [0.0, 0.54]])
    shadow = net + canvas.sun_xy * 0.03 * pose.length
    canvas.stroke(shadow, (24, 28, 32), width_px=max(0.5, 0.02 * pose.width), alpha=0.5)
    canvas.stroke(net, (40, 44, 48) if rng.random() < 0.6 else WHITE, width_px=0.6, alpha=0.8)


def paint_basketball_court(
    canvas: Canvas,
    pose: Pose,
    rng: np.random.Generator,
    *,
    color: Color,
    keys: Color,
    line_alpha: float,
) -> None:
    """Paint a basketball court; ``keys`` is the colour of the areas below the hoops."""
    canvas.fill(pose.quad(), color)
    _wear(canvas, pose, rng, shade(color, rng.choice([0.8, 1.2])), num=int(rng.integers(0, 5)))
    line = _Lines(canvas, pose, width_px=max(0.55, 0.009 * pose.width), alpha=line_alpha)
    aspect = pose.length / pose.width
    arcs_filled, radius = rng.random() < 0.3, rng.uniform(0.4, 0.46)
    for side in (-1, 1):
        turn = np.radians(np.linspace(-90, 90, 18))
        arc = np.stack([side * (0.44 - radius / aspect * np.cos(turn)), radius * np.sin(turn)], 1)
        if arcs_filled:
            canvas.fill(pose.points(arc), keys, alpha=0.8)
        key = _box(side * 0.497, -0.17, side * 0.3, 0.17)
        canvas.fill(pose.points(key), keys, alpha=0.9)
        line(key, closed=True)
        line(arc)
        ring = ellipse(center=(side * 0.3, 0.0), radii=(0.12 / aspect, 0.12), num=20)
        line(ring, closed=True)
        hoop = pose.points([[side * 0.45, 0.0]])[0]
        radius_px = max(0.6, 0.01 * pose.length)
        canvas.disc(
            *(hoop + canvas.sun_xy * 0.09 * pose.length), radius_px, (24, 26, 30), alpha=0.5
        )
        canvas.disc(*hoop, radius_px, (226, 226, 222))
    circle = ellipse(radii=(0.12 / aspect, 0.12), num=24)
    if rng.random() < 0.5:
        canvas.fill(pose.points(circle), keys, alpha=0.9)
    line(circle, closed=True)
    line([[0, -0.497], [0, 0.497]])
    line(_box(-0.497, -0.494, 0.497, 0.494), closed=True)


def paint_soccer_field(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, *, line_alpha: float
) -> None:
    """Paint a soccer field: mowing stripes, bald patches, lines of any strength; at times soil."""
    draw = rng.random()
    base = _GREENS[rng.integers(6)] if draw < 0.85 else _DIRTS[rng.integers(6)]
    green = vary(rng, base, light=16)
    canvas.fill(pose.quad(), green)
    stripes, contrast = int(rng.integers(6, 18)), rng.choice([0.0, rng.uniform(0.03, 0.16)])
    if contrast > 0:
        along = rng.random() < 0.8
        for index in range(0, stripes, 2):
            low = -0.5 + index / stripes
            band = _box(low, -0.5, low + 1 / stripes, 0.5)
            canvas.fill(pose.points(band if along else band[:, ::-1]), shade(green, 1 + contrast))
    worn = _DIRTS[rng.integers(6)]
    for u in (-0.45, 0.0, 0.45):
        patch = blob(rng, roughness=0.3, radii=(0.05, rng.uniform(0.05, 0.14))) + [u, 0]
        canvas.fill(pose.points(patch), worn, alpha=rng.choice([0.0, rng.uniform(0.1, 0.7)]))
    _wear(canvas, pose, rng, worn, num=int(rng.integers(0, 6)))
    line = _Lines(canvas, pose, width_px=max(0.5, 0.0022 * pose.width), alpha=line_alpha)
    aspect = pose.length / pose.width
    line(_box(-0.495, -0.493, 0.495, 0.493), closed=True)
    line([[0, -0.493], [0, 0.493]])
    line(ellipse(radii=(0.135 / aspect, 0.135), num=28), closed=True)
    for side in (-1, 1):
        line(_box(side * 0.495, -0.3, side * 0.34, 0.3), closed=True)
        line(_box(side * 0.495, -0.135, side * 0.443, 0.135), closed=True)
        goal = _box(side * 0.497, -0.054, side * 0.515, 0.054)
        canvas.stroke(pose.points(goal), WHITE, width_px=0.6, closed=True, alpha=0.6)


def paint_track(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> float:
    """Paint a running track with its infield; returns the width of the track in pixels."""
    tones = (
        (166, 84, 66),
        (150, 76, 64),
        (132, 92, 78),
        (70, 104, 146),
        (178, 104, 84),
        (120, 112, 104),
        (64, 110, 92),
        (98, 96, 96),
    )
    color = vary(
        rng, tones[rng.choice(8, p=[0.3, 0.22, 0.14, 0.07, 0.1, 0.08, 0.04, 0.05])], light=12
    )
    band = pose.width * rng.uniform(0.1, 0.15)
    canvas.fill(stadium_outline(pose, inset_px=0.0), color)
    lanes, alpha = int(np.clip(band / 2.5, 1, 8)), rng.uniform(0.0, 0.6)
    for lane in range(lanes + 1):
        inset = 0.04 * band + lane * 0.94 * band / lanes
        outline = stadium_outline(pose, inset_px=inset)
        canvas.stroke(outline, WHITE, width_px=0.5, closed=True, alpha=alpha)
    base = _GREENS[rng.integers(6)] if rng.random() < 0.82 else _DIRTS[rng.integers(6)]
    canvas.fill(stadium_outline(pose, inset_px=band), vary(rng, base, light=14))
    for side in (-1, 1):
        if rng.random() < 0.5:
            arc = Pose(pose.x, pose.y, pose.heading_deg + (0 if side > 0 else 180), 1, 1)
            radius = pose.width / 2 - band
            d_area = ellipse(
                center=(pose.length / 2 - pose.width / 2 + 0.12 * radius, 0),
                radii=(0.84 * radius, 0.84 * radius),
                start_deg=-78,
                stop_deg=78,
                num=20,
            )
            canvas.fill(arc.points(d_area), color, alpha=0.85)
    return float(band)


def paint_baseball_diamond(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint an infield: home plate at the corner (-0.5, -0.5), foul lines along two sides."""
    dirt = vary(rng, _DIRTS[rng.integers(6)], light=16)
    home = (-0.5, -0.5)
    arc = ellipse(center=home, radii=(1.0, 1.0), start_deg=0, stop_deg=90, num=28)
    if rng.random() < 0.4:  # a rounder infield around the mound
        arc = ellipse(
            center=(-0.18, -0.18), radii=(0.68, 0.68), start_deg=-32, stop_deg=122, num=28
        )
        arc = np.clip(arc, -0.5, 0.5)
    canvas.fill(pose.points(np.concatenate([[home], arc])), dirt)
    if rng.random() < 0.6:
        grass = vary(rng, _GREENS[rng.integers(6)], light=14)
        canvas.fill(pose.points(_box(-0.4, -0.4, 0.12, 0.12)), grass)
        for base, radius in (
            ((-0.5, -0.5), 0.2),
            ((0.12, -0.42), 0.07),
            ((0.12, 0.12), 0.07),
            ((-0.42, 0.12), 0.07),
        ):
            spot = np.clip(ellipse(center=base, radii=(radius, radius), num=18), -0.5, 0.5)
            canvas.fill(pose.points(spot), dirt)
    mound = ellipse(center=(-0.17, -0.17), radii=(0.055, 0.055), num=14)
    canvas.fill(pose.points(mound), shade(dirt, 1.08))
    alpha = rng.choice([0.0, rng.uniform(0.3, 0.9)])
    line = _Lines(canvas, pose, width_px=max(0.5, 0.01 * pose.width), alpha=alpha)
    line([[0.5, -0.47], [-0.46, -0.46], [-0.47, 0.5]])
    if alpha > 0:
        for base in ((0.1, -0.43), (0.1, 0.1), (-0.43, 0.1)):
            x, y = pose.points([base])[0]
            canvas.disc(x, y, max(0.5, 0.012 * pose.length), WHITE)


def paint_outfield(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, reach: float) -> None:
    """Paint the grass and warning track behind an infield, ``reach`` sides deep."""
    corner = (-0.56, -0.56)
    if rng.random() < 0.5:
        track = ellipse(
            center=(-0.5, -0.5), radii=(reach, reach), start_deg=-4, stop_deg=94, num=30
        )
        canvas.fill(
            pose.points(np.concatenate([[corner], track])), _DIRTS[rng.integers(6)], alpha=0.8
        )
    inner = 0.94 * reach
    grass = ellipse(center=(-0.5, -0.5), radii=(inner, inner), start_deg=-4, stop_deg=94, num=30)
    green = vary(rng, _GREENS[rng.integers(6)], light=14)
    canvas.fill(pose.points(np.concatenate([[corner], grass])), green, alpha=rng.uniform(0.5, 1.0))


def paint_pool(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, style: str) -> None:
    """Paint a swimming pool; ``style`` is "rect", "kidney", "oval", "tee" or "lanes"."""
    tones: tuple[Color, ...] = (
        (64, 168, 196),
        (92, 192, 212),
        (48, 128, 178),
        (104, 196, 198),
        (38, 96, 142),
        (86, 150, 168),
        (58, 150, 170),
    )
    water = vary(rng, tones[rng.integers(7)], light=16)
    outline = _pool_outline(rng, style)
    rim = vary(rng, (222, 220, 212), light=14)
    canvas.fill(pose.points(outline), rim)
    edge = 0.93 if pose.width < 20 else 0.96
    canvas.fill(pose.points(outline * edge), water)
    deep = outline * [0.42, 0.84] + [0.24 * rng.choice([-1, 1]), 0]
    canvas.fill(pose.points(deep), shade(water, rng.choice([0.8, 1.18])), alpha=0.5)
    shadow = pose.points(outline * 0.93) + canvas.sun_xy * 0.03 * pose.width
    canvas.stroke(shadow, shade(water, 0.6), width_px=0.04 * pose.width, closed=True, alpha=0.35)
    if style == "lanes":
        for v in np.linspace(-0.38, 0.38, int(rng.integers(4, 9))):
            canvas.stroke(
                pose.points([[-0.46, v], [0.46, v]]),
                shade(water, 0.7),
                width_px=max(0.5, 0.016 * pose.width),
                alpha=rng.uniform(0.3, 0.9),
            )


def _pool_outline(rng: np.random.Generator, style: str) -> np.ndarray:
    """Return a closed outline that touches all four sides of the local rectangle."""
    if style == "kidney":
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        radius = (
            1 + rng.uniform(0.1, 0.3) * np.cos(2 * turn) - rng.uniform(0.05, 0.22) * np.sin(turn)
        )
        outline = np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1)
    elif style == "oval":
        outline = ellipse(num=36)
    elif style == "tee":
        half = rng.uniform(0.2, 0.36)
        u = rng.uniform(-0.2, 0.2)
        outline = np.array(
            [
                [-0.5, -0.5],
                [0.5, -0.5],
                [0.5, half],
                [u + 0.18, half],
                [u + 0.18, 0.5],
                [u - 0.18, 0.5],
                [u - 0.18, half],
                [-0.5, half],
            ]
        )
    else:
        return _box(-0.5, -0.5, 0.5, 0.5)
    low, high = outline.min(0), outline.max(0)
    return (outline - (low + high) / 2) / (high - low)
