"""Scenes of airports and heliports."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic import facilities, vehicles
from tcm_d2.synthetic.facilities import WHITE
from tcm_d2.synthetic.scene import Scene
from tcm_d2.synthetic.surroundings import (
    paint_hall,
    paint_lot,
    paint_slab_joints,
    paint_trees,
)

_TAXI_YELLOW = (198, 168, 70)
_CONCRETE = ((178, 176, 168), (164, 162, 152), (150, 148, 142), (192, 188, 178))


def draw_airport(scene: Scene) -> None:
    """Draw a runway and an apron with rows of planes before a terminal."""
    rng, canvas_kind = scene.rng, ("grass", "dry", "soil")[scene.rng.integers(3)]
    scene.prepare(canvas_kind)
    canvas, reach = scene.canvas, scene.reach
    long_px, short_px = scene.class_size("plane")
    scene.gsd_m = 34.0 / long_px
    runway_v = -reach + 0.5 * long_px + rng.uniform(0, 30)
    _paint_runway(scene, runway_v, width_px=max(26.0, 0.55 * long_px))
    top = runway_v + 0.9 * long_px
    concrete = _CONCRETE[rng.integers(len(_CONCRETE))]
    apron = (-reach, top, reach, reach)
    paint_lot(canvas, scene.frame, apron, color=concrete)
    paint_slab_joints(canvas, scene.frame, apron, step_px=max(14.0, 0.3 * long_px), rng=rng)
    terminal_depth = rng.uniform(40, 70)
    terminal = scene.pose(0, reach - terminal_depth / 2, heading_deg=0, length=1.6 * reach,
                          width=terminal_depth)  # fmt: skip
    if scene.chance(0.7):
        paint_hall(canvas, terminal, rng)
    bottom = reach - terminal_depth - 8
    row_step = 1.25 * long_px + 0.3 * long_px
    v = bottom - 0.55 * long_px
    while v > top + 0.4 * long_px:
        _plane_row(
            scene, v, (-reach, reach), pitch_px=max(long_px, short_px) * rng.uniform(1.12, 1.3)
        )
        lane_v = v - 0.5 * row_step
        line = scene.frame.points([[-reach, lane_v], [reach, lane_v]])
        canvas.stroke(line, _TAXI_YELLOW, width_px=0.9, alpha=0.8)
        v -= row_step


def _paint_runway(scene: Scene, v: float, *, width_px: float) -> None:
    canvas, reach = scene.canvas, scene.reach
    quad = scene.frame.rect(-reach, v - width_px / 2, reach, v + width_px / 2)
    canvas.fill(quad, (98, 99, 102))
    canvas.fill(scene.frame.rect(-reach, v - 4, reach, v + 4), (60, 60, 62), alpha=0.35)
    for edge in (-0.47, 0.47):
        line = scene.frame.points([[-reach, v + edge * width_px], [reach, v + edge * width_px]])
        canvas.stroke(line, WHITE, width_px=1.0, alpha=0.8)
    for u in np.arange(-reach, reach, 36.0):
        line = scene.frame.points([[u, v], [u + 20, v]])
        canvas.stroke(line, WHITE, width_px=1.4, alpha=0.85)
    threshold = scene.rng.uniform(-0.6, 0.6) * reach
    for offset in np.linspace(-0.38, 0.38, 8):
        line = [[threshold, v + offset * width_px], [threshold + 24, v + offset * width_px]]
        canvas.stroke(scene.frame.points(line), WHITE, width_px=1.6, alpha=0.85)
    canvas.reserve(quad)


def _plane_row(scene: Scene, v: float, u_range: tuple[float, float], *, pitch_px: float) -> None:
    """A row of stands from u_range[0] to u_range[1]: one type of plane, one heading."""
    rng, canvas = scene.rng, scene.canvas
    style = ("airliner", "prop", "fighter")[rng.choice(3, p=[0.62, 0.24, 0.14])]
    heading = (90.0 if scene.chance(0.5) else 270.0) + rng.choice([0.0, 0.0, 30.0, -30.0])
    long_px, short_px = scene.class_size("plane")
    across = style == "prop" and scene.chance(0.6)
    start = u_range[0] + rng.uniform(0.5, 1.0) * pitch_px
    for u in np.arange(start, u_range[1] - 0.5 * pitch_px, pitch_px):
        lead = scene.frame.points([[u, v - 0.75 * pitch_px], [u, v + 0.3 * pitch_px]])
        canvas.stroke(lead, _TAXI_YELLOW, width_px=0.8, alpha=0.7)
        if not scene.chance(min(1.0, 0.8 * scene.config.density)):
            continue
        factor = rng.uniform(0.88, 1.04)
        length, width = long_px * factor, short_px * factor
        if across:
            length, width = width, length
        pose = scene.pose(
            u + rng.normal(0, 1),
            v + rng.normal(0, 2),
            heading_deg=heading + rng.normal(0, 3),
            length=length,
            width=width,
        )
        placed = scene.place(
            "plane",
            pose,
            lambda pose=pose: vehicles.paint_plane(canvas, pose, rng, style=style),
        )
        small = scene.class_size("small-vehicle")[0] < 0.36 * long_px
        if placed and small and scene.chance(0.5):  # tugs and buses at the stand
            side = rng.choice([-1, 1]) * 0.52 * pitch_px
            place = scene.car if scene.chance(0.7) else scene.truck
            place(u + side, v + rng.uniform(-0.3, 0.3) * pitch_px, heading_deg=heading)


def draw_heliport(scene: Scene) -> None:
    """Draw landing pads with helicopters, hangars and a row of light planes."""
    rng = scene.rng
    scene.prepare(("grass", "dry", "lush", "soil")[rng.integers(4)])
    canvas, reach = scene.canvas, scene.reach
    long_px, short_px = scene.class_size("helicopter")
    scene.gsd_m = 17.0 / long_px
    field = (-0.86 * reach, -0.72 * reach, 0.9 * reach, 0.92 * reach)
    tone = _CONCRETE[rng.integers(len(_CONCRETE))] if scene.chance(0.6) else (124, 124, 124)
    paint_lot(canvas, scene.frame, field, color=tone)
    paint_slab_joints(canvas, scene.frame, field, step_px=22.0, rng=rng)
    for u in np.arange(-0.8 * reach, 0.8 * reach, 130.0):
        if scene.chance(0.75):
            hangar = scene.pose(u + 50, -0.84 * reach, heading_deg=0, length=96,
                                width=min(60.0, 0.22 * reach))  # fmt: skip
            paint_hall(canvas, hangar, rng)
    pitch = 1.36 * long_px
    heading = rng.choice([0.0, 90.0, 180.0, 270.0, 45.0])
    marked = scene.chance(0.6)
    plane_pitch = 1.25 * scene.class_size("plane")[0]
    v = field[1] + 0.62 * plane_pitch
    if v + plane_pitch / 2 < 0.1 * reach:
        _plane_row(scene, v, (field[0], field[2]), pitch_px=plane_pitch)
        v += plane_pitch / 2
    v += 0.75 * pitch
    while v < field[3] - 0.4 * pitch:
        for u in np.arange(field[0] + 0.6 * pitch, field[2] - 0.4 * pitch, pitch):
            if marked:
                pad = scene.pose(u, v, heading_deg=0, length=1.2 * long_px, width=1.2 * long_px)
                facilities.paint_helipad(canvas, pad, rng)
            if not scene.chance(min(1.0, 0.88 * scene.config.density)):
                continue
            pose = scene.pose(
                u, v, heading_deg=heading + rng.normal(0, 6), length=long_px, width=short_px
            )
            scene.place(
                "helicopter", pose, lambda pose=pose: vehicles.paint_helicopter(canvas, pose, rng)
            )
        v += pitch
    paint_trees(canvas, rng, count=int(40 * (reach / 256) ** 2), radius_px=(5, 11), clusters=5)
