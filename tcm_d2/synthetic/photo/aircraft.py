"""Painters of planes and helicopters: each plane is drawn from numbers that vary.

Local frame: +x ahead in lengths (nose to tail), +y right in wing spans.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import Pose, ellipse, mirrored, rounded_rect
from tcm_d2.synthetic.photo.colors import CAR_PAINTS, clip, pick, shade, vary


class PlaneKind(NamedTuple):
    """A kind of plane: its name, length in metres, span over length, and how it is built.

    Attributes:
        body: half width of the fuselage in spans.
        wing_x: where the wing's root begins, from the middle, in lengths.
        sweep: how far the tip lies behind the root.
        chords: of root and tip, in lengths.
        tail: half span of the tailplane, in spans.
        engines: "none", "wing", "wing4", "rear", "props", "props4", "nose".
    """

    name: str
    length_m: tuple[float, float]
    span: tuple[float, float]
    body: tuple[float, float]
    wing_x: tuple[float, float]
    sweep: tuple[float, float]
    chords: tuple[tuple[float, float], tuple[float, float]]
    tail: tuple[float, float]
    engines: tuple[str, ...]


PLANES: dict[str, PlaneKind] = {
    "airliner": PlaneKind(
        "airliner",
        (31.0, 72.0),
        (0.86, 1.02),
        (0.048, 0.066),
        (0.12, 0.2),
        (0.22, 0.32),
        ((0.19, 0.26), (0.03, 0.06)),
        (0.16, 0.22),
        ("wing", "wing", "wing", "wing4", "rear"),
    ),
    "business jet": PlaneKind(
        "business jet",
        (12.0, 26.0),
        (0.84, 1.08),
        (0.055, 0.075),
        (0.04, 0.14),
        (0.08, 0.24),
        ((0.15, 0.22), (0.04, 0.08)),
        (0.15, 0.22),
        ("rear",),
    ),
    "regional propeller plane": PlaneKind(
        "propeller airliner",
        (15.0, 33.0),
        (0.95, 1.2),
        (0.045, 0.06),
        (0.1, 0.2),
        (-0.01, 0.05),
        ((0.11, 0.16), (0.05, 0.09)),
        (0.15, 0.21),
        ("props",),
    ),
    "light plane": PlaneKind(
        "light aircraft",
        (6.5, 10.5),
        (1.1, 1.5),
        (0.035, 0.055),
        (0.14, 0.27),
        (-0.02, 0.05),
        ((0.16, 0.24), (0.1, 0.19)),
        (0.13, 0.19),
        ("nose", "nose", "props"),
    ),
    "military transport": PlaneKind(
        "military transport plane",
        (29.0, 53.0),
        (0.95, 1.32),
        (0.05, 0.07),
        (0.1, 0.18),
        (0.0, 0.18),
        ((0.12, 0.18), (0.05, 0.09)),
        (0.17, 0.22),
        ("props4", "wing4"),
    ),
    "trainer jet": PlaneKind(
        "trainer plane",
        (9.0, 14.0),
        (0.75, 1.0),
        (0.05, 0.075),
        (0.04, 0.16),
        (0.03, 0.16),
        ((0.18, 0.25), (0.09, 0.13)),
        (0.19, 0.26),
        ("none",),
    ),
}


def paint_plane(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color, *, kind: PlaneKind
) -> None:
    """Paint a plane of a kind; length is from nose to tail, width the span."""
    body = rng.uniform(*kind.body)
    wing_x, sweep = rng.uniform(*kind.wing_x), rng.uniform(*kind.sweep)
    root, tip = rng.uniform(*kind.chords[0]), rng.uniform(*kind.chords[1])
    tail, tail_chord = rng.uniform(*kind.tail), rng.uniform(0.07, 0.12)
    tail_sweep = rng.uniform(0.3, 0.6) * max(0.0, sweep) + rng.uniform(0.0, 0.03)
    wing = mirrored(
        [
            [wing_x, 0.0],
            [wing_x - 0.02, body],
            [wing_x - sweep, 0.5],
            [wing_x - sweep - tip, 0.5],
            [wing_x - root, body],
            [wing_x - root, 0.0],
        ]
    )
    edge = -0.5 + tail_chord + tail_sweep
    tailplane = mirrored(
        [
            [edge, 0.0],
            [edge - tail_sweep, tail],
            [edge - tail_sweep - 0.6 * tail_chord, tail],
            [-0.47, 0.0],
        ]
    )
    blunt = rng.uniform(0.3, 0.9)
    fuselage = mirrored(
        [
            [0.5, 0.0],
            [0.49, 0.35 * body],
            [0.46, (0.5 + 0.4 * blunt) * body],
            [0.38, body],
            [-0.12, body],
            [-0.34, 0.66 * body],
            [-0.48, 0.16 * body],
            [-0.5, 0.0],
        ]
    )
    lift = rng.uniform(0.06, 0.13)
    for part in (wing, tailplane, fuselage):
        canvas.shadow(pose.points(part), height_px=lift * pose.length)
    wing_color = shade(color, rng.uniform(0.78, 1.0))
    _wings(canvas, pose, rng, (wing, tailplane), wing_color)
    accent = pick(rng, CAR_PAINTS)
    engines = kind.engines[rng.integers(len(kind.engines))]
    if engines in ("wing", "wing4", "props", "props4"):
        spans = (rng.uniform(0.15, 0.2),) if not engines.endswith("4") else (0.15, 0.29)
        for span in spans:
            front = wing_x - sweep * (span - body) / (0.5 - body) + rng.uniform(0.02, 0.06)
            _nacelles(canvas, pose, rng, front, span, wing_color, props=engines.startswith("props"))
    _fuselage(canvas, pose, rng, fuselage, color, accent, body=body)
    if engines == "rear":
        for side in (-1, 1):
            pod = rounded_rect(length=0.13, width=0.55 * body, radius=(0.03, 0.02))
            pod = pod + [rng.uniform(-0.3, -0.26), side * 1.5 * body]
            canvas.fill(pose.points(pod), shade(color, 0.8))
    if engines == "nose":
        canvas.fill(
            pose.points(rounded_rect(length=0.17, width=1.5 * body) + [wing_x - 0.06, 0]),
            (44, 54, 68),
        )
        disc = rounded_rect(length=0.012, width=0.16, radius=(0.005, 0.03)) + [0.485, 0]
        canvas.fill(pose.points(disc), (60, 60, 60), alpha=0.5)
    fin = np.array([[-0.33, -0.006], [-0.33, 0.006], [-0.5, 0.013], [-0.5, -0.013]])
    canvas.fill(pose.points(fin), accent)
    canvas.shadow(pose.points(fin), height_px=0.5 * lift * pose.length)


def _wings(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, parts: tuple, color: Color
) -> None:
    """Wings and tailplane with a lit front edge and darker flaps."""
    for part in parts:
        canvas.fill(pose.points(part), color)
    wing = parts[0]
    if pose.length > 30:
        back = 0.35 * wing + 0.65 * (wing.min(0) * [1, 0] + wing * [0, 1])
        flaps = np.where(wing[:, :1] < np.median(wing[:, 0]), wing, wing * 0.3 + back * 0.7)
        canvas.fill(pose.points(flaps), shade(color, 0.85), alpha=rng.uniform(0.1, 0.5))
        canvas.stroke(pose.points(wing), shade(color, 1.15), width_px=0.6, closed=True, alpha=0.5)


def _nacelles(
    canvas: Canvas,
    pose: Pose,
    rng: np.random.Generator,
    front: float,
    span: float,
    color: Color,
    *,
    props: bool,
) -> None:
    tone = shade(color, rng.uniform(0.55, 0.95))
    for side in (-1, 1):
        pod = rounded_rect(length=0.11, width=0.04, radius=(0.03, 0.015)) + [
            front - 0.04,
            side * span,
        ]
        canvas.fill(pose.points(pod), tone)
        if props:
            disc = rounded_rect(length=0.012, width=0.12, radius=(0.004, 0.03)) + [
                front + 0.02,
                side * span,
            ]
            canvas.fill(pose.points(disc), (70, 70, 70), alpha=0.45)


def _fuselage(
    canvas: Canvas,
    pose: Pose,
    rng: np.random.Generator,
    outline: np.ndarray,
    color: Color,
    accent: Color,
    *,
    body: float,
) -> None:
    canvas.fill(pose.points(outline), shade(color, 0.82))
    sun = np.sign(
        pose.points([[0, 1]])[0] @ canvas.sun_xy - pose.points([[0, 0]])[0] @ canvas.sun_xy
    )
    lit = outline * [0.985, 0.72] + [0, -0.22 * body * float(sun)]
    canvas.fill(pose.points(lit), shade(color, 1.06))
    if pose.length > 24:
        window = mirrored([[0.475, 0.2 * body], [0.455, 0.55 * body], [0.44, 0.3 * body]])
        canvas.fill(pose.points(window), (34, 40, 50))
    draw = rng.random()
    if draw < 0.25:  # a stripe along the back
        stripe = [[0.3, 0.0], [-0.46, 0.0]]
        canvas.stroke(pose.points(stripe), accent, width_px=0.7 * body * pose.width, alpha=0.8)
    elif draw < 0.4:  # a painted tail
        canvas.fill(pose.points(outline[outline[:, 0] < -0.1]), accent, alpha=0.85)


def paint_fighter(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a fighter with delta or swept wings and twin or single fins."""
    tip_x, tip_chord = rng.uniform(-0.3, -0.12), rng.uniform(0.05, 0.13)
    root_x = rng.uniform(0.1, 0.22)
    outline = mirrored(
        [
            [0.5, 0.0],
            [0.4, 0.04],
            [0.28, 0.07],
            [root_x, 0.1],
            [tip_x, 0.5],
            [tip_x - tip_chord, 0.5],
            [-0.32, 0.16],
            [-0.38, rng.uniform(0.2, 0.3)],
            [-0.48, rng.uniform(0.2, 0.3)],
            [-0.44, 0.08],
            [-0.5, 0.06],
        ]
    )
    canvas.shadow(pose.points(outline), height_px=0.07 * pose.length)
    canvas.fill(pose.points(outline), shade(color, 0.92))
    body = mirrored([[0.49, 0.0], [0.3, 0.06], [-0.2, 0.1], [-0.46, 0.07]])
    canvas.fill(pose.points(body), color)
    canopy = ellipse(center=(rng.uniform(0.24, 0.32), 0), radii=(0.08, 0.03), num=14)
    canvas.fill(pose.points(canopy), (36, 42, 52))
    for side in (-1, 1) if rng.random() < 0.6 else (0,):
        fin = np.array(
            [[-0.22, 0.1 * side], [-0.42, 0.1 * side + 0.02], [-0.42, 0.1 * side - 0.02]]
        )
        canvas.fill(pose.points(fin), shade(color, 0.6))
        canvas.shadow(pose.points(fin), height_px=0.06 * pose.length)


def plane_color(rng: np.random.Generator, *, military: bool) -> Color:
    """Draw a plane's paint: white and bright mostly, greys and greens for the military."""
    if military:
        tones = ((140, 146, 150), (118, 124, 128), (104, 108, 92), (160, 150, 126), (84, 92, 82))
        return vary(rng, tones[rng.integers(5)], light=14)
    base = rng.uniform(212, 250)
    if rng.random() < 0.15:
        return pick(rng, CAR_PAINTS)
    return clip(np.array([base, base, base + 2]))


def paint_helicopter(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a helicopter: a drop-shaped cabin, a thin boom, rotor blades; width is the rotor's.

    The rotor's disc is faint, and the boom ends in a small tailplane.
    """
    cabin = rng.uniform(0.1, 0.17)
    body = mirrored(
        [
            [0.4, 0.0],
            [0.385, 0.5 * cabin],
            [0.3, cabin],
            [0.1, cabin],
            [-0.02, 0.55 * cabin],
            [-0.1, 0.22 * cabin],
            [-0.48, 0.12 * cabin],
            [-0.5, 0.0],
        ]
    )
    canvas.shadow(pose.points(body), height_px=0.12 * pose.length)
    canvas.fill(pose.points(body), shade(color, 0.85))
    canvas.fill(pose.points(body * [0.97, 0.7] + [0.004, 0]), color)
    nose = ellipse(center=(0.33, 0), radii=(0.055, 0.72 * cabin), num=16)
    canvas.fill(pose.points(nose), (30, 38, 50))
    engine = rounded_rect(length=0.16, width=1.1 * cabin) + [0.08, 0]
    canvas.fill(pose.points(engine), shade(color, 0.55))
    stabilizer = rounded_rect(length=0.04, width=rng.uniform(0.2, 0.34)) + [
        rng.uniform(-0.42, -0.36),
        0,
    ]
    canvas.fill(pose.points(stabilizer), shade(color, 0.7))
    hub, radius_x = np.array([0.09, 0.0]), 0.41
    blades = int(rng.choice([2, 3, 4, 5]))
    tone: Color = (46, 48, 50) if rng.random() < 0.65 else (206, 206, 200)
    if rng.random() < 0.5:
        disc = ellipse(center=(0.09, 0), radii=(radius_x, 0.5), num=32)
        canvas.fill(pose.points(disc), (30, 32, 34), alpha=rng.uniform(0.05, 0.2))
    first = rng.uniform(0, 360)
    for turn in np.radians(first + np.arange(blades) * 360.0 / blades):
        tip = hub + [radius_x * np.cos(turn), 0.5 * np.sin(turn)]
        blade = pose.points([hub, tip])
        shadow = blade + canvas.sun_xy * 0.16 * pose.length
        canvas.stroke(shadow, (20, 22, 26), width_px=max(0.6, 0.018 * pose.length), alpha=0.4)
        canvas.stroke(blade, tone, width_px=max(0.7, 0.022 * pose.length))
    canvas.fill(pose.points(ellipse(center=(0.09, 0), radii=(0.025, 0.035), num=10)), (70, 70, 72))
    rotor = pose.points([[-0.49, -0.06], [-0.47, 0.06]])
    canvas.stroke(rotor, tone, width_px=max(0.6, 0.014 * pose.length), alpha=0.7)
