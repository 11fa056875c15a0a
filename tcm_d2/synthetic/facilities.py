"""Painters of things that are built: courts, fields, tanks, pools, roundabouts, bridges, piers.

Each painter fills a ``Pose`` exactly: the outline touches all four sides of its rectangle.
"""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import Pose, blob, ellipse, rounded_rect

WHITE: Color = (232, 234, 230)
COURT_COLORS: tuple[tuple[Color, Color], ...] = (
    ((62, 104, 134), (78, 112, 88)),
    ((86, 112, 92), (74, 92, 80)),
    ((74, 116, 84), (142, 84, 66)),
    ((150, 88, 68), (76, 108, 82)),
    ((92, 100, 104), (70, 84, 74)),
    ((70, 108, 150), (58, 86, 122)),
)
BASKETBALL_COLORS: tuple[tuple[Color, Color], ...] = (
    ((168, 92, 70), (72, 118, 92)),
    ((70, 116, 146), (164, 92, 72)),
    ((142, 142, 140), (128, 128, 126)),
    ((96, 140, 108), (178, 112, 92)),
    ((196, 138, 92), (150, 84, 62)),
)


def _box(u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    return np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])


def _line_width(pose: Pose) -> float:
    """Width of painted lines: about 1% of the short side, visible from one picture pixel on."""
    return max(0.6, 0.014 * pose.short_side)


def paint_tennis_court(
    canvas: Canvas, pose: Pose, *, colors: tuple[Color, Color], line_alpha: float
) -> None:
    """Paint a tennis court; ``colors`` are of the court and its surround."""
    width = _line_width(pose)
    canvas.fill(pose.quad(), colors[0])

    def line(points: list, closed: bool = False) -> None:
        canvas.stroke(pose.points(points), WHITE, width_px=width, closed=closed, alpha=line_alpha)

    line(_box(-0.49, -0.47, 0.49, 0.47), True)
    line([[-0.49, -0.355], [0.49, -0.355]])
    line([[-0.49, 0.355], [0.49, 0.355]])
    line([[-0.26, -0.355], [-0.26, 0.355]])
    line([[0.26, -0.355], [0.26, 0.355]])
    line([[-0.26, 0.0], [0.26, 0.0]])
    net = pose.points([[0.0, -0.5], [0.0, 0.5]])
    canvas.stroke(net + canvas.sun_xy * 0.02 * pose.length, (30, 34, 38), width_px=width, alpha=0.7)
    canvas.stroke(net, (206, 208, 204), width_px=0.6 * width, alpha=0.8)


def paint_basketball_court(
    canvas: Canvas, pose: Pose, *, colors: tuple[Color, Color], line_alpha: float
) -> None:
    """Paint a basketball court; ``colors`` are of the floor and the keys."""
    width = _line_width(pose)
    canvas.fill(pose.quad(), colors[0])
    aspect = pose.length / pose.width
    for side in (-1, 1):
        key = _box(side * 0.485, -0.16, side * 0.29, 0.16)
        canvas.fill(pose.points(key), colors[1])
        canvas.stroke(pose.points(key), WHITE, width_px=width, closed=True, alpha=line_alpha)
        arc = ellipse(center=(side * 0.43, 0.0), radii=(0.44 / aspect, 0.44), start_deg=-90,
                      stop_deg=90, num=16)  # fmt: skip
        arc[:, 0] = side * (0.43 - 0.44 / aspect * np.cos(np.radians(np.linspace(-90, 90, 16))))
        canvas.stroke(pose.points(arc), WHITE, width_px=width, alpha=line_alpha)
        hoop = pose.points([[side * 0.445, 0.0]])[0]
        canvas.disc(
            *(hoop + canvas.sun_xy * 0.05 * pose.length),
            max(0.8, 0.02 * pose.length),
            (24, 26, 30),
            alpha=0.6,
        )
        canvas.disc(*hoop, max(0.7, 0.014 * pose.length), (222, 222, 220))
    circle = ellipse(radii=(0.12 / aspect, 0.12), num=24)
    canvas.fill(pose.points(circle), colors[1])
    canvas.stroke(pose.points(circle), WHITE, width_px=width, closed=True, alpha=line_alpha)
    canvas.stroke(pose.points([[0, -0.48], [0, 0.48]]), WHITE, width_px=width, alpha=line_alpha)
    border = pose.points(_box(-0.485, -0.475, 0.485, 0.475))
    canvas.stroke(border, WHITE, width_px=width, closed=True, alpha=line_alpha)


def paint_soccer_field(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint a soccer field with mowing stripes and lines."""
    green = np.array(((74, 112, 58), (64, 104, 66), (100, 122, 70))[rng.integers(3)])
    stripes = int(rng.integers(8, 15))
    contrast = rng.uniform(0.0, 0.13)
    canvas.fill(pose.quad(), tuple(green))
    for index in range(0, stripes, 2):
        u0 = -0.5 + index / stripes
        canvas.fill(
            pose.points(_box(u0, -0.5, u0 + 1 / stripes, 0.5)), tuple(green * (1 + contrast))
        )
    worn = (150, 136, 100)
    for side in (-1, 1):
        patch = blob(rng, roughness=0.3, radii=(0.035, 0.09)) + [side * 0.45, 0]
        canvas.fill(pose.points(patch), worn, alpha=rng.uniform(0.1, 0.6))
    width = _line_width(pose)
    alpha = rng.uniform(0.6, 0.95)
    aspect = pose.length / pose.width

    def line(points: list | np.ndarray, closed: bool = False) -> None:
        canvas.stroke(pose.points(points), WHITE, width_px=width, closed=closed, alpha=alpha)

    line(_box(-0.49, -0.485, 0.49, 0.485), True)
    line([[0, -0.485], [0, 0.485]])
    line(ellipse(radii=(0.135 / aspect, 0.135), num=24), True)
    for side in (-1, 1):
        line(_box(side * 0.49, -0.3, side * 0.335, 0.3), True)
        line(_box(side * 0.49, -0.135, side * 0.438, 0.135), True)
        line([[side * 0.5, -0.06], [side * 0.5, 0.06]])


def stadium_outline(pose: Pose, *, inset_px: float) -> np.ndarray:
    """Return image points of the oval (straights and half circles) inside the pose's rectangle."""
    length, width = pose.length - 2 * inset_px, pose.width - 2 * inset_px
    radius = width / 2
    straight = max(0.0, length / 2 - radius)
    right = ellipse(
        center=(straight, 0), radii=(radius, radius), start_deg=-90, stop_deg=90, num=24
    )
    left = ellipse(
        center=(-straight, 0), radii=(radius, radius), start_deg=90, stop_deg=270, num=24
    )
    unit = Pose(pose.x, pose.y, pose.heading_deg, 1.0, 1.0)
    return unit.points(np.concatenate([right, left]))


def paint_track(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> float:
    """Paint a running track with its infield; returns the width of the track in pixels."""
    tone = ((166, 84, 66), (150, 76, 64), (132, 92, 78), (70, 104, 146), (178, 104, 84))
    color = tone[rng.choice(5, p=[0.36, 0.26, 0.18, 0.06, 0.14])]
    band = pose.width * rng.uniform(0.12, 0.16)
    canvas.fill(stadium_outline(pose, inset_px=0.0), color)
    lanes = int(np.clip(band / 2.2, 2, 8))
    for lane in range(lanes + 1):
        inset = 0.04 * band + lane * 0.94 * band / lanes
        canvas.stroke(
            stadium_outline(pose, inset_px=inset), WHITE, width_px=0.5, closed=True, alpha=0.45
        )
    green = (84, 114, 62) if rng.random() < 0.8 else (140, 128, 96)
    canvas.fill(stadium_outline(pose, inset_px=band), green)
    for side in (-1, 1):  # the D areas behind the goals
        if rng.random() < 0.5:
            arc = Pose(pose.x, pose.y, pose.heading_deg + (0 if side > 0 else 180), 1, 1)
            radius = pose.width / 2 - band
            d_area = ellipse(center=(pose.length / 2 - pose.width / 2 + 0.12 * radius, 0),
                             radii=(0.84 * radius, 0.84 * radius), start_deg=-78, stop_deg=78,
                             num=20)  # fmt: skip
            canvas.fill(arc.points(d_area), color, alpha=0.85)
    return float(band)


def paint_baseball_diamond(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint an infield: home plate at the corner (-0.5, -0.5), foul lines along two sides."""
    dirt = np.array(((176, 140, 106), (186, 128, 92), (198, 170, 134))[rng.integers(3)])
    home = (-0.5, -0.5)
    corner = ellipse(center=home, radii=(1.0, 1.0), start_deg=0, stop_deg=90, num=28)
    canvas.fill(pose.points(np.concatenate([[home], corner])), tuple(dirt))
    if rng.random() < 0.75:  # grass infield; softball fields are all dirt
        grass = np.array(((92, 122, 66), (80, 112, 60))[rng.integers(2)])
        square = _box(-0.4, -0.4, 0.1, 0.1)
        canvas.fill(pose.points(square), tuple(grass))
        base_path = ellipse(center=home, radii=(0.2, 0.2), start_deg=0, stop_deg=90, num=12)
        canvas.fill(pose.points(np.concatenate([[home], base_path])), tuple(dirt))
        for base in ((0.1, -0.4), (0.1, 0.1), (-0.4, 0.1)):
            spot = ellipse(center=base, radii=(0.07, 0.07), num=14)
            canvas.fill(pose.points(spot), tuple(dirt * 1.02))
    mound = ellipse(center=(-0.17, -0.17), radii=(0.06, 0.06), num=14)
    canvas.fill(pose.points(mound), tuple(dirt * 1.05))
    width = _line_width(pose)
    canvas.stroke(
        pose.points([[0.5, -0.47], [-0.46, -0.46], [-0.47, 0.5]]), WHITE, width_px=width, alpha=0.8
    )
    for base in ((-0.46, -0.46), (0.1, -0.43), (0.1, 0.1), (-0.43, 0.1)):
        x, y = pose.points([base])[0]
        canvas.disc(x, y, max(0.6, 0.013 * pose.length), (246, 246, 242))


def paint_outfield(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, reach: float) -> None:
    """Paint the grass quarter and warning track behind an infield, ``reach`` sides deep."""
    home = (-0.5, -0.5)
    track = ellipse(center=home, radii=(reach, reach), start_deg=-4, stop_deg=94, num=30)
    canvas.fill(pose.points(np.concatenate([[(-0.6, -0.6)], track])), (172, 146, 112), alpha=0.8)
    inner = 0.93 * reach
    grass = ellipse(center=home, radii=(inner, inner), start_deg=-4, stop_deg=94, num=30)
    green = (88, 118, 64) if rng.random() < 0.7 else (106, 124, 74)
    canvas.fill(pose.points(np.concatenate([[(-0.58, -0.58)], grass])), green)


def paint_storage_tank(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, *, base: float, style: str
) -> None:
    """Paint a tank; ``style`` is "dome", "cone" or "floating" (open, with an inner shadow)."""
    outline = pose.points(ellipse(num=44))
    canvas.shadow(outline, height_px=0.32 * pose.length, connected=True)
    rim = (base, base, base - 3)
    canvas.fill(outline, (base - 40, base - 40, base - 38))
    canvas.fill(pose.points(ellipse(radii=(0.47, 0.47), num=40)), rim)
    if style == "floating":
        floor = base - rng.uniform(20, 70)
        canvas.fill(pose.points(ellipse(radii=(0.44, 0.44), num=40)), (floor, floor, floor - 4))
        lit = pose.points(ellipse(radii=(0.4, 0.4), num=40)) + canvas.sun_xy * 0.06 * pose.length
        inside = pose.points(ellipse(radii=(0.44, 0.44), num=40))
        canvas.fill(inside, (24, 26, 30), alpha=0.35)
        canvas.fill(lit, (floor + 6, floor + 6, floor + 2))
    else:
        away = canvas.sun_xy / max(1e-6, float(np.hypot(*canvas.sun_xy)))
        for step, radius in enumerate((0.4, 0.32, 0.22, 0.12)):
            lift = 6.0 * (step + 1) if style == "dome" else 3.0 * (step + 1)
            tone = min(255.0, base + lift)
            offset = -away * (0.05 * (step + 1)) * pose.length * (0.9 if style == "dome" else 0.3)
            canvas.fill(
                pose.points(ellipse(radii=(radius, radius), num=30)) + offset,
                (tone, tone, tone - 2),
                alpha=0.75,
            )
        shade = ellipse(radii=(0.47, 0.47), num=30)
        if style == "dome":
            dark = pose.points(shade * 0.98)
            keep = (dark - [pose.x, pose.y]) @ away > 0.12 * pose.length
            if keep.sum() > 2:
                canvas.fill(dark[keep], (58, 62, 68), alpha=0.14)
    stair = np.radians(rng.uniform(0, 360))
    start = np.array([[0.47 * np.cos(stair), 0.47 * np.sin(stair)]])
    canvas.stroke(
        pose.points(np.concatenate([start, start * 0.1])), (120, 122, 124), width_px=0.6, alpha=0.6
    )


def paint_pool(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, style: str) -> None:
    """Paint a swimming pool; ``style`` is "rect", "round" or "lanes"."""
    water = np.array(
        ((64, 168, 196), (86, 188, 208), (52, 140, 184), (98, 190, 196))[rng.integers(4)]
    )
    if style == "round":
        upper = ellipse(center=(0.2, 0.0), radii=(0.3, 0.5), start_deg=-95, stop_deg=95, num=18)
        lower = ellipse(center=(-0.24, 0.04), radii=(0.26, 0.4), start_deg=92, stop_deg=262, num=16)
        outline = np.concatenate([upper, lower])
        low, high = outline.min(0), outline.max(0)
        outline = (outline - (low + high) / 2) / (high - low)
    else:
        outline = rounded_rect(radius=(0.05, 0.08) if style == "lanes" else (0.1, 0.14))
    canvas.fill(pose.points(outline), (222, 222, 214))
    canvas.fill(pose.points(outline * 0.93), tuple(water))
    shallow = np.minimum(255, water * 1.16)
    canvas.fill(pose.points(outline * [0.4, 0.85] + [0.23, 0]), tuple(shallow), alpha=0.5)
    edge = pose.points(outline * 0.93)
    rim_shadow = edge + canvas.sun_xy * 0.02 * pose.length
    canvas.stroke(
        rim_shadow, tuple(water * 0.6), width_px=0.03 * pose.width, closed=True, alpha=0.35
    )
    if style == "lanes":
        for v in np.linspace(-0.36, 0.36, 6):
            canvas.stroke(
                pose.points([[-0.45, v], [0.45, v]]),
                tuple(water * 0.72),
                width_px=max(0.5, 0.02 * pose.width),
                alpha=0.8,
            )


def paint_roundabout(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, road: Color) -> None:
    """Paint a ring road with a planted island; its arms are painted by the scene."""
    kerb = (186, 182, 172)
    canvas.fill(pose.points(ellipse(num=48)), kerb)
    canvas.fill(pose.points(ellipse(radii=(0.485, 0.485), num=48)), road)
    canvas.stroke(
        pose.points(ellipse(radii=(0.38, 0.38), num=40)),
        WHITE,
        width_px=0.5,
        closed=True,
        alpha=0.3,
    )
    radius = rng.uniform(0.22, 0.29)
    canvas.fill(pose.points(ellipse(radii=(radius + 0.03, radius + 0.03), num=36)), kerb)
    island = ((86, 124, 60), (98, 112, 66), (160, 134, 100))[rng.choice(3, p=[0.6, 0.25, 0.15])]
    canvas.fill(pose.points(ellipse(radii=(radius, radius), num=36)), island)
    if rng.random() < 0.6:
        canvas.fill(
            pose.points(ellipse(radii=(0.55 * radius, 0.55 * radius), num=24)), (170, 152, 122)
        )
        inner = pose.points(ellipse(radii=(0.4 * radius, 0.4 * radius), num=20))
        canvas.shadow(inner, height_px=0.04 * pose.length)
        canvas.fill(inner, (62, 98, 48))


def paint_bridge(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, road: Color) -> None:
    """Paint a bridge deck; traffic runs along the pose's length axis."""
    canvas.shadow(pose.quad(), height_px=min(0.35 * pose.width, 0.2 * pose.length))
    rail = float(rng.uniform(178, 214))
    canvas.fill(pose.quad(), (rail, rail, rail - 6))
    deck = tuple(min(255.0, c + 16) for c in road)
    canvas.fill(pose.points(_box(-0.5, -0.4, 0.5, 0.4)), deck)
    for v in (-0.4, 0.4):
        canvas.stroke(pose.points([[-0.5, v], [0.5, v]]), (96, 96, 94), width_px=0.6, alpha=0.7)
    dashes = max(2, int(pose.length / 9))
    for index in range(dashes):
        u0 = -0.48 + index * 0.96 / dashes
        canvas.stroke(
            pose.points([[u0, 0], [u0 + 0.5 / dashes, 0]]), WHITE, width_px=0.7, alpha=0.8
        )
    for u in (-0.5, 0.5):
        canvas.stroke(pose.points([[u, -0.5], [u, 0.5]]), (70, 70, 70), width_px=0.7, alpha=0.6)


def paint_pier(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, color: Color) -> None:
    """Paint a pier or quay of concrete or planks."""
    canvas.shadow(pose.quad(), height_px=min(6.0, 0.25 * pose.width), connected=True)
    canvas.fill(pose.quad(), color)
    edge = tuple(0.72 * c for c in color)
    canvas.stroke(
        pose.points(_box(-0.49, -0.46, 0.49, 0.46)), edge, width_px=0.7, closed=True, alpha=0.6
    )
    planks = max(2, int(pose.length / max(6.0, 0.6 * pose.width)))
    for u in np.linspace(-0.5, 0.5, planks + 1)[1:-1]:
        canvas.stroke(pose.points([[u, -0.46], [u, 0.46]]), edge, width_px=0.5, alpha=0.4)
    for u in np.arange(-0.45, 0.46, max(0.06, 14.0 / pose.length)):
        x, y = pose.points([[u, rng.choice([-0.3, 0.3])]])[0]
        if rng.random() < 0.5:
            canvas.disc(x, y, max(0.5, min(1.4, 0.07 * pose.width)), (232, 232, 226))


def paint_helipad(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint a landing circle with an H (DOTA-v1.0 has no class for it)."""
    canvas.fill(pose.points(ellipse(num=40)), (112, 114, 116))
    ring = pose.points(ellipse(radii=(0.45, 0.45), num=40))
    color = WHITE if rng.random() < 0.7 else (214, 178, 64)
    width = max(0.8, 0.03 * pose.length)
    canvas.stroke(ring, color, width_px=width, closed=True, alpha=0.9)
    for points in (
        [[-0.2, -0.12], [0.2, -0.12]],
        [[-0.2, 0.12], [0.2, 0.12]],
        [[0, -0.12], [0, 0.12]],
    ):
        canvas.stroke(pose.points(points), WHITE, width_px=1.4 * width, alpha=0.9)
