"""Painters of houses, flats, halls and trees: what surrounds objects, and looks like some."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic.canvas import Color
from tcm_d2.synthetic.geometry import Pose, blob, ellipse
from tcm_d2.synthetic.photo.colors import HALL_PAINTS, ROOF_PAINTS, pick, shade
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import Extent
from tcm_d2.synthetic.surroundings import paint_tree


def _rect(u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    return np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])


def put_house(world: World, pose: Pose) -> bool:
    """Place a house with a gabled, hipped or flat roof."""
    rng, canvas = world.rng, world.canvas
    color = pick(rng, ROOF_PAINTS)

    def paint() -> None:
        canvas.shadow(pose.quad(), height_px=world.px(rng.uniform(2, 5)) * 0.6, connected=True)
        sun = float(np.sign(canvas.sun_xy @ (pose.points([[0, 1]])[0] - [pose.x, pose.y])))
        canvas.fill(pose.quad(), color)
        draw = rng.random()
        if draw < 0.75:
            canvas.fill(
                pose.points(_rect(-0.5, 0, 0.5, 0.5 * sun)), shade(color, rng.uniform(0.6, 0.85))
            )
            if draw < 0.4:
                for end in (-0.5, 0.5):
                    hip = [[end, -0.5], [end, 0.5], [end * 0.55, 0]]
                    canvas.fill(pose.points(hip), shade(color, 0.78 if end < 0 else 0.94))
            ridge = pose.points([[-0.3, 0], [0.3, 0]])
            canvas.stroke(ridge, shade(color, 1.2), width_px=0.7, alpha=0.6)
        else:
            canvas.stroke(
                pose.quad(), shade(color, 1.25), width_px=max(0.6, world.px(0.4)), closed=True
            )
        for _ in range(int(rng.integers(0, 4))):
            u, v = rng.uniform(-0.4, 0.4, 2)
            tone = ((60, 66, 78), (206, 206, 202), (90, 70, 60))[rng.integers(3)]
            canvas.fill(pose.points(_rect(u, v, u + 0.09, v + 0.12)), tone)

    return world.put("house", pose, paint, color=color)


def put_hall(world: World, pose: Pose) -> bool:
    """Place a flat-roofed hall, block of flats or shed: ribs, skylights, units, a rim."""
    rng, canvas = world.rng, world.canvas
    color = pick(rng, HALL_PAINTS)

    def paint() -> None:
        canvas.shadow(pose.quad(), height_px=world.px(rng.uniform(4, 16)) * 0.6, connected=True)
        canvas.fill(pose.quad(), shade(color, rng.uniform(0.7, 1.15)))
        rim = 1 - min(0.3, world.px(0.8) / pose.short_side)
        canvas.fill(pose.points(_rect(-0.5, -0.5, 0.5, 0.5) * rim), color)
        if rng.random() < 0.35:
            canvas.fill(
                pose.points(_rect(-0.5, 0, 0.5, 0.5) * rim), shade(color, rng.uniform(0.75, 0.95))
            )
        if rng.random() < 0.5:
            step = max(4.0, world.px(rng.uniform(0.8, 6)))
            for u in np.arange(-0.48, 0.48, step / pose.length):
                line = pose.points([[u, -0.48], [u, 0.48]])
                canvas.stroke(line, shade(color, rng.choice([0.86, 1.1])), width_px=0.5, alpha=0.5)
        _roof_clutter(world, pose, color)

    return world.put("building", pose, paint, color=color)


def _roof_clutter(world: World, pose: Pose, color: Color) -> None:
    """Units, skylights and stains on a flat roof, some of a car's or a tank's size and shape."""
    rng, canvas = world.rng, world.canvas
    for _ in range(int(rng.integers(0, 12))):
        u, v = rng.uniform(-0.42, 0.42, 2)
        half = np.array([rng.uniform(0.5, 2.6) / 2, rng.uniform(0.5, 2.0) / 2])
        half_u, half_v = world.px(half[0]) / pose.length, world.px(half[1]) / pose.width
        unit = _rect(u - half_u, v - half_v, u + half_u, v + half_v)
        if rng.random() < 0.2:
            unit = ellipse(center=(u, v), radii=(half_u, half_u * pose.length / pose.width), num=16)
        if np.abs(unit).max() > 0.47:
            continue
        canvas.shadow(pose.points(unit), height_px=world.px(0.8), connected=True)
        tone = shade(color, rng.choice([0.55, 0.75, 1.15, 1.3]))
        canvas.fill(pose.points(unit), tone)
    for _ in range(int(rng.integers(0, 4))):
        stain = blob(rng, roughness=0.4, radii=tuple(rng.uniform(0.03, 0.15, 2))) + rng.uniform(
            -0.3, 0.3, 2
        )
        canvas.fill(pose.points(stain), shade(color, 0.6), alpha=rng.uniform(0.05, 0.3))


def put_trees(world: World, extent: Extent, *, count: int, radius_m: tuple[float, float]) -> None:
    """Scatter trees and bushes over free land of a block of the frame."""
    rng, canvas = world.rng, world.canvas
    u0, v0, u1, v1 = extent
    for _ in range(count):
        x, y = world.frame.points([[rng.uniform(u0, u1), rng.uniform(v0, v1)]])[0]
        radius = world.px(rng.uniform(*radius_m))
        if radius < 0.8 or not (0 <= x < canvas.width and 0 <= y < canvas.height):
            continue
        if world.water[int(y), int(x)]:
            continue
        reach = 0.75 * radius
        box = np.array(
            [
                [x - reach, y - reach],
                [x + reach, y - reach],
                [x + reach, y + reach],
                [x - reach, y + reach],
            ]
        )
        if canvas.is_free(box, for_tree=True):
            paint_tree(canvas, float(x), float(y), float(radius), rng)
