"""Painters of things that move: planes, helicopters, ships and vehicles.

Each painter fills a ``Pose`` exactly: the outline touches all four sides of its rectangle.
"""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import Pose, ellipse, mirrored, rounded_rect

# Right halves, nose to tail, in fractions of length and width.
_AIRLINER = mirrored(
    [
        [0.5, 0.0], [0.485, 0.025], [0.44, 0.05], [0.36, 0.062], [0.14, 0.066], [-0.1, 0.5],
        [-0.165, 0.5], [-0.09, 0.2], [-0.1, 0.066], [-0.32, 0.05], [-0.44, 0.19], [-0.5, 0.19],
        [-0.47, 0.025], [-0.5, 0.0],
    ]
)  # fmt: skip
_AIRLINER_BODY = mirrored(
    [[0.495, 0.0], [0.48, 0.02], [0.43, 0.045], [0.3, 0.05], [-0.3, 0.045], [-0.49, 0.01]]
)
_PROP_PLANE = mirrored(
    [
        [0.5, 0.0], [0.48, 0.035], [0.27, 0.06], [0.26, 0.47], [0.22, 0.5], [0.1, 0.5],
        [0.06, 0.06], [-0.36, 0.03], [-0.38, 0.17], [-0.48, 0.17], [-0.5, 0.0],
    ]
)  # fmt: skip
_FIGHTER = mirrored(
    [
        [0.5, 0.0], [0.34, 0.05], [0.14, 0.1], [-0.22, 0.5], [-0.33, 0.5], [-0.33, 0.14],
        [-0.4, 0.27], [-0.5, 0.27], [-0.47, 0.0],
    ]
)  # fmt: skip
_BOAT = mirrored(
    [
        [0.5, 0.0], [0.46, 0.1], [0.36, 0.25], [0.2, 0.41], [0.02, 0.49], [-0.1, 0.5],
        [-0.44, 0.45], [-0.5, 0.36],
    ]
)  # fmt: skip
_FREIGHTER = mirrored(
    [[0.5, 0.0], [0.47, 0.22], [0.42, 0.4], [0.34, 0.5], [-0.44, 0.5], [-0.5, 0.36]]
)

CAR_COLORS: tuple[tuple[Color, float], ...] = (
    ((236, 236, 234), 0.27), ((172, 176, 178), 0.17), ((112, 116, 120), 0.12),
    ((36, 38, 42), 0.18), ((160, 40, 36), 0.11), ((44, 70, 124), 0.09), ((196, 186, 158), 0.03),
    ((52, 84, 66), 0.03),
)  # fmt: skip
TRAILER_COLORS: tuple[Color, ...] = (
    (238, 238, 236),
    (214, 216, 214),
    (176, 180, 182),
    (150, 82, 62),
    (58, 92, 134),
    (86, 118, 104),
)
BUS_YELLOW: Color = (226, 172, 48)


def paint_plane(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, style: str) -> None:
    """Paint a plane; ``style`` is "airliner", "prop" or "fighter"."""
    outline = {"airliner": _AIRLINER, "prop": _PROP_PLANE, "fighter": _FIGHTER}[style]
    base = float(rng.uniform(206, 244)) if style != "fighter" else float(rng.uniform(128, 168))
    tail = pick_color(rng, CAR_COLORS)
    canvas.shadow(pose.points(outline), height_px=0.06 * pose.length)
    wing = (base - 22, base - 18, base - 12)
    canvas.fill(pose.points(outline), wing)
    if style == "airliner":
        spans = (0.17,) if rng.random() < 0.65 else (0.15, 0.29)
        for side in (-1, 1):
            for span in spans:
                front = 0.115 - 0.55 * (span - 0.1)
                engine = ellipse(center=(front, side * span), radii=(0.055, 0.022), num=12)
                canvas.fill(pose.points(engine), (base - 70, base - 68, base - 60))
        canvas.fill(pose.points(_AIRLINER_BODY), (base + 8, base + 8, base + 10))
        shade = [[0.44, 0.02], [0.44, 0.045], [0.3, 0.05], [-0.3, 0.045], [-0.45, 0.012]]
        canvas.fill(pose.points(shade), (base - 34, base - 30, base - 22), alpha=0.6)
        canvas.fill(pose.points([[0.45, -0.03], [0.47, 0], [0.45, 0.03], [0.435, 0]]), (40, 46, 58))
        fin = [[-0.36, -0.008], [-0.36, 0.008], [-0.5, 0.016], [-0.5, -0.016]]
    elif style == "prop":
        canvas.fill(pose.points(rounded_rect(length=0.2, width=0.08) + [0.12, 0]), (48, 60, 76))
        canvas.stroke(pose.points([[0.24, -0.47], [0.24, 0.47]]), tail, width_px=1.0, alpha=0.7)
        fin = [[-0.3, -0.008], [-0.3, 0.008], [-0.5, 0.014], [-0.5, -0.014]]
    else:
        canopy = ellipse(center=(0.28, 0), radii=(0.09, 0.03), num=14)
        canvas.fill(pose.points(canopy), (40, 50, 64))
        body = mirrored([[0.4, 0.02], [0.1, 0.06], [-0.45, 0.06]])
        canvas.fill(pose.points(body), (base + 6, base + 8, base + 10))
        fin = [[-0.25, -0.06], [-0.25, -0.045], [-0.46, -0.045], [-0.46, -0.06]]
    canvas.fill(pose.points(fin), tail)


def paint_helicopter(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint a helicopter: rotor spread when the box is wide, folded along the body when narrow."""
    spread = pose.length / pose.width < 1.9
    body_half = 0.11 if spread else 0.3
    color = pick_color(rng, CAR_COLORS) if rng.random() < 0.5 else (92, 98, 84)
    dark = tuple(0.5 * c for c in color)
    body = mirrored(
        [
            [0.42, 0.0], [0.4, 0.6 * body_half], [0.3, body_half], [0.1, body_half],
            [-0.08, 0.5 * body_half], [-0.14, 0.16 * body_half], [-0.48, 0.12 * body_half],
        ]
    )  # fmt: skip
    canvas.shadow(pose.points(body), height_px=0.07 * pose.length)
    canvas.fill(pose.points(body), color)
    canvas.fill(
        pose.points(ellipse(center=(0.34, 0), radii=(0.06, 0.7 * body_half), num=14)), (34, 44, 58)
    )
    engine = rounded_rect(length=0.16, width=0.9 * body_half) + [0.1, 0]
    canvas.fill(pose.points(engine), dark)
    canvas.fill(pose.points([[-0.38, -0.16], [-0.38, 0.16], [-0.43, 0.14], [-0.43, -0.14]]), dark)
    canvas.fill(pose.points([[-0.42, 0.02], [-0.5, 0.05], [-0.5, 0.01]]), color)
    hub = np.array([0.1, 0.0])
    thick = max(0.9, 0.022 * pose.length)
    blade_color = (50, 52, 54) if rng.random() < 0.7 else (206, 206, 200)
    if spread:
        canvas.fill(
            pose.points(ellipse(center=(0.1, 0), radii=(0.4, 0.5), num=32)),
            (30, 32, 34),
            alpha=0.13,
        )
        first = rng.uniform(0, 90)
        for turn in np.radians(first + np.arange(4) * 90.0):
            tip = hub + [0.4 * np.cos(turn), 0.5 * np.sin(turn)]
            canvas.stroke(pose.points([hub, tip]), blade_color, width_px=thick)
    else:
        for tip in ([0.5, 0.0], [-0.3, 0.46], [-0.3, -0.46], [-0.34, 0.1]):
            canvas.stroke(pose.points([hub, tip]), blade_color, width_px=thick)
    canvas.fill(pose.points(ellipse(center=(0.1, 0), radii=(0.03, 0.07), num=10)), (60, 60, 62))


def paint_boat(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint a sailing or motor boat."""
    light = float(rng.uniform(212, 248))
    hull = (light, light, light - 4) if rng.random() < 0.85 else (52, 66, 98)
    canvas.shadow(pose.points(_BOAT), height_px=0.05 * pose.length)
    canvas.fill(pose.points(_BOAT), hull)
    deck = (196, 176, 140) if rng.random() < 0.3 else (light - 26, light - 24, light - 20)
    canvas.fill(pose.points(_BOAT * [0.82, 0.62] + [0.02, 0]), deck)
    if rng.random() < 0.5:
        cabin = rounded_rect(length=0.34, width=0.52, radius=(0.1, 0.12)) + [0.06, 0]
        canvas.fill(pose.points(cabin), (light, light, light))
        window = rounded_rect(length=0.08, width=0.46) + [0.18, 0]
        canvas.fill(pose.points(window), (40, 52, 66))
    else:
        boom = (62, 84, 130) if rng.random() < 0.6 else (226, 226, 220)
        canvas.fill(pose.points([[0.1, -0.06], [0.1, 0.06], [-0.36, 0.08], [-0.36, -0.08]]), boom)
    well = rounded_rect(length=0.18, width=0.5) + [-0.34, 0]
    canvas.fill(pose.points(well), (96, 92, 86), alpha=0.75)


def paint_freighter(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint a barge, tanker or container ship."""
    hull = ((118, 50, 42), (48, 56, 66), (40, 78, 88), (88, 88, 86))[rng.integers(4)]
    canvas.shadow(pose.points(_FREIGHTER), height_px=0.05 * pose.length)
    canvas.fill(pose.points(_FREIGHTER), hull)
    deck = ((134, 82, 68), (116, 126, 118), (150, 146, 136))[rng.integers(3)]
    canvas.fill(pose.points(_FREIGHTER * [0.94, 0.84]), deck)
    rows = 5 if pose.length < 80 else 8
    style = rng.integers(3)
    for index in range(rows):
        u0 = -0.26 + index * 0.62 / rows
        for v in (-0.2, 0.2) if style == 0 else (0.0,):
            half = 0.17 if style == 0 else 0.32
            hatch = [[u0, v - half], [u0, v + half], [u0 + 0.54 / rows, v + half],
                     [u0 + 0.54 / rows, v - half]]  # fmt: skip
            color = TRAILER_COLORS[rng.integers(6)] if style == 0 else tuple(0.75 * c for c in deck)
            canvas.fill(pose.points(hatch), color)
    castle = rounded_rect(length=0.11, width=0.8) + [-0.37, 0]
    canvas.shadow(pose.points(castle), height_px=0.06 * pose.length)
    canvas.fill(pose.points(castle), (236, 236, 232))
    canvas.fill(pose.points(rounded_rect(length=0.04, width=0.26) + [-0.4, 0]), (176, 62, 48))


def paint_wake(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, length: float) -> None:
    """Paint foam behind a moving ship; ``length`` is in ship lengths."""
    churn = [[-0.45, -0.28], [-0.45, 0.28], [-0.5 - length, 0.5], [-0.5 - length, -0.5]]
    canvas.fill(pose.points(churn), (216, 226, 226), alpha=0.3)
    inner = [[-0.45, -0.2], [-0.45, 0.2], [-0.5 - 0.6 * length, 0.24], [-0.5 - 0.6 * length, -0.24]]
    canvas.fill(pose.points(inner), (232, 238, 238), alpha=0.42)
    spread = rng.uniform(0.8, 1.4)
    for side in (-1, 1):
        for reach in (0.4, 0.75, 1.1):  # overlapping arms fade away from the bow
            end = length * reach
            arm = [[0.4, side * 0.36], [-0.5 - end, side * (0.55 + spread * end)],
                   [-0.46 - end, side * (0.68 + spread * end)], [0.42, side * 0.42]]  # fmt: skip
            canvas.fill(pose.points(arm), (206, 218, 220), alpha=0.12)


def paint_car(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Paint a car, van or pick-up."""
    color = pick_color(rng, CAR_COLORS)
    outline = rounded_rect(radius=(0.12, 0.2))
    canvas.shadow(pose.points(outline), height_px=0.3 * pose.width)
    canvas.fill(pose.points(outline), color)
    glass = (34, 40, 48) if sum(color) > 200 else (70, 80, 92)
    canvas.fill(pose.points([[0.26, -0.36], [0.26, 0.36], [0.13, 0.32], [0.13, -0.32]]), glass)
    rear = -0.36 if rng.random() < 0.7 else -0.1
    canvas.fill(
        pose.points([[rear, -0.34], [rear, 0.34], [rear + 0.1, 0.3], [rear + 0.1, -0.3]]), glass
    )
    roof = tuple(min(255.0, 1.08 * c + 4) for c in color)
    canvas.fill(
        pose.points([[0.13, -0.3], [0.13, 0.3], [rear + 0.1, 0.3], [rear + 0.1, -0.3]]), roof
    )
    if rear > -0.2:  # the bed of a pick-up
        bed = [[-0.14, -0.34], [-0.14, 0.34], [-0.46, 0.34], [-0.46, -0.34]]
        canvas.fill(pose.points(bed), tuple(0.55 * c for c in color))


def paint_truck(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, style: str) -> None:
    """Paint a lorry; ``style`` is "bus", "box" (short lorry) or "trailer" (cab and trailer)."""
    tall = 0.55 * pose.width
    if style == "bus":
        color = BUS_YELLOW if rng.random() < 0.6 else (234, 234, 230)
        body = rounded_rect(radius=(0.03, 0.12))
        canvas.shadow(pose.points(body), height_px=tall, connected=True)
        canvas.fill(pose.points(body), color)
        roof = rounded_rect(length=0.84, width=0.72, radius=(0.02, 0.1)) + [-0.02, 0]
        canvas.fill(pose.points(roof), tuple(min(255.0, c + 16) for c in color))
        canvas.fill(
            pose.points([[0.47, -0.38], [0.47, 0.38], [0.43, 0.36], [0.43, -0.36]]), (40, 44, 50)
        )
        for u in (-0.2, 0.15):
            hatch = rounded_rect(length=0.06, width=0.3) + [u, 0]
            canvas.fill(pose.points(hatch), tuple(0.78 * c for c in color))
        return
    cab_rear = 0.5 - min(0.4, 0.95 * pose.width / pose.length)
    cab = pick_color(rng, CAR_COLORS)
    body = TRAILER_COLORS[rng.integers(len(TRAILER_COLORS))]
    front = cab_rear - (0.03 if style == "trailer" else 0.01)
    trailer = np.array([[front, -0.5], [front, 0.5], [-0.5, 0.5], [-0.5, -0.5]])
    cabin = rounded_rect(length=0.5 - cab_rear, width=0.94, radius=(0.05, 0.14))
    cabin = cabin + [(0.5 + cab_rear) / 2, 0]
    whole = np.array([[0.5, -0.47], [0.5, 0.47], [-0.5, 0.5], [-0.5, -0.5]])
    canvas.shadow(pose.points(whole), height_px=tall, connected=True)
    canvas.fill(pose.points(whole * [1, 0.5]), (44, 44, 46))
    canvas.fill(pose.points(cabin), cab)
    glass_u = 0.5 - 0.3 * (0.5 - cab_rear)
    canvas.fill(
        pose.points(
            [
                [glass_u + 0.02, -0.38],
                [glass_u + 0.02, 0.38],
                [glass_u - 0.02, 0.36],
                [glass_u - 0.02, -0.36],
            ]
        ),
        (36, 42, 50),
    )
    canvas.fill(pose.points(trailer), body)
    canvas.fill(
        pose.points(trailer * [1, 0.5] - [0, 0.25]), tuple(min(255, 1.05 * c) for c in body)
    )
    for u in np.linspace(front - 0.06, -0.44, 6):
        canvas.stroke(
            pose.points([[u, -0.47], [u, 0.47]]),
            tuple(0.8 * c for c in body),
            width_px=0.6,
            alpha=0.5,
        )


def pick_color(rng: np.random.Generator, palette: tuple[tuple[Color, float], ...]) -> Color:
    """Draw a colour from weighted choices and vary it slightly."""
    weights = np.array([weight for _, weight in palette])
    color = palette[rng.choice(len(palette), p=weights / weights.sum())][0]
    shift = rng.uniform(-10, 10)
    return tuple(float(np.clip(c + shift, 0, 255)) for c in color)  # type: ignore[return-value]
