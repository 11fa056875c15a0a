"""Storage tanks, and things without a class: containers, cranes, trains, turbines, solar panels."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import Pose, ellipse, mirrored, rounded_rect
from tcm_d2.synthetic.photo.colors import CONTAINER_PAINTS, TRUCK_PAINTS, clip, pick, shade, vary
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import Extent


def _rect(u0: float, v0: float, u1: float, v1: float) -> np.ndarray:
    return np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])


def tank_color(rng: np.random.Generator) -> Color:
    """Draw a tank's paint: white mostly, greys, rust, tan, green."""
    tones = (
        (236, 236, 232),
        (206, 206, 202),
        (166, 166, 162),
        (150, 108, 84),
        (188, 170, 138),
        (112, 132, 118),
        (96, 98, 100),
    )
    return vary(rng, tones[rng.choice(7, p=[0.42, 0.2, 0.12, 0.08, 0.08, 0.05, 0.05])], light=10)


def paint_tank(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color, *, style: str, height: float
) -> None:
    """Paint a tank; ``style`` is "dome", "flat" or "floating"; ``height`` in diameters."""
    outline = pose.points(ellipse(num=44))
    canvas.shadow(outline, height_px=height * pose.length, connected=True)
    canvas.fill(outline, shade(color, 0.72))
    canvas.fill(pose.points(ellipse(radii=(0.475, 0.475), num=40)), color)
    away = canvas.sun_xy / max(1e-6, float(np.hypot(*canvas.sun_xy)))
    if style == "floating":
        floor = shade(color, rng.uniform(0.6, 0.95))
        canvas.fill(pose.points(ellipse(radii=(0.45, 0.45), num=40)), shade(floor, 0.45))
        drop = rng.uniform(0.01, 0.12)
        lit = pose.points(ellipse(radii=(0.45 - 0.4 * drop, 0.45 - 0.4 * drop), num=40))
        canvas.fill(lit + away * drop * 0.5 * pose.length, floor)
        ring = ellipse(radii=(0.3, 0.3), num=30)
        canvas.stroke(pose.points(ring), shade(floor, 0.8), width_px=0.6, closed=True, alpha=0.5)
    else:
        strength = 0.07 if style == "dome" else 0.02
        for step, radius in enumerate((0.4, 0.31, 0.22, 0.12)):
            offset = -away * 0.05 * (step + 1) * pose.length * (1.0 if style == "dome" else 0.2)
            spot = pose.points(ellipse(radii=(radius, radius), num=28)) + offset
            canvas.fill(spot, shade(color, 1 + strength * (step + 1)), alpha=0.7)
        if rng.random() < 0.4:
            for turn in np.radians(np.arange(0, 360, rng.choice([30, 45, 60]))):
                rib = [
                    [0.46 * np.cos(turn), 0.46 * np.sin(turn)],
                    [0.05 * np.cos(turn), 0.05 * np.sin(turn)],
                ]
                canvas.stroke(pose.points(rib), shade(color, 0.85), width_px=0.5, alpha=0.4)
        if rng.random() < 0.4:
            x, y = pose.points([[0, 0]])[0]
            canvas.disc(x, y, max(0.6, 0.04 * pose.length), shade(color, 0.6))
    turn = rng.uniform(0, 2 * np.pi)
    stair = np.array(
        [[0.47 * np.cos(turn), 0.47 * np.sin(turn)], [0.1 * np.cos(turn), 0.1 * np.sin(turn)]]
    )
    canvas.stroke(pose.points(stair), shade(color, 0.55), width_px=0.6, alpha=0.6)


def put_tank(
    world: World, u: float, v: float, *, diameter_m: float, color: Color, style: str
) -> bool:
    """Place a storage tank; its box is parallel to the image's sides, as DOTA labels them."""
    side = world.px(diameter_m)
    pose = world.pose(u, v, heading_deg=-world.frame.angle_deg, length=side, width=side)
    height = float(np.clip(world.rng.normal(9, 3) / diameter_m, 0.1, 0.7)) * 0.5
    return world.put(
        "storage tank",
        pose,
        lambda: paint_tank(world.canvas, pose, world.rng, color, style=style, height=height),
        class_name="storage-tank",
        color=color,
    )


def put_containers(world: World, block: Extent) -> None:
    """Fill a block with stacks of shipping containers in rows, some places empty."""
    rng, canvas = world.rng, world.canvas
    u0, v0, u1, v1 = block
    length = world.px(float(rng.choice([6.1, 12.2])))
    width = world.px(2.44)
    if width < 2.5:
        return
    lanes, taken = int(rng.integers(2, 7)), rng.uniform(0.4, 0.98)
    along_u = world.chance(0.5)
    a0, a1, b0, b1 = (u0, u1, v0, v1) if along_u else (v0, v1, u0, u1)
    lead = pick(rng, CONTAINER_PAINTS)
    b, row = b0 + width / 2, 0
    while b + width / 2 < b1:
        for a in np.arange(a0 + length / 2, a1 - length / 2, 1.04 * length):
            if not world.chance(taken):
                continue
            u, v = (a, b) if along_u else (b, a)
            pose = world.pose(
                u, v, heading_deg=0.0 if along_u else 90.0, length=length, width=0.97 * width
            )
            color = lead if world.chance(0.3) else pick(rng, CONTAINER_PAINTS)
            tall = world.px(2.6 * float(rng.integers(1, 4)))

            def paint(pose: Pose = pose, color: Color = color, tall: float = tall) -> None:
                canvas.shadow(pose.quad(), height_px=0.6 * tall, connected=True)
                canvas.fill(pose.quad(), shade(color, 0.75))
                canvas.fill(pose.points(_rect(-0.49, -0.46, 0.49, 0.46)), color)
                if pose.length > 26:
                    for x in np.linspace(-0.44, 0.44, 10):
                        line = pose.points([[x, -0.45], [x, 0.45]])
                        canvas.stroke(line, shade(color, 0.86), width_px=0.5, alpha=0.4)

            world.put("shipping container", pose, paint, color=color, margin_px=0.0)
        row += 1
        b += width if row % lanes else width + world.px(rng.uniform(5, 14))


def put_train(world: World, v: float, u_range: tuple[float, float]) -> None:
    """Place a train on a track along u: wagons of one or many kinds behind an engine."""
    rng, canvas = world.rng, world.canvas
    width = world.px(3.0)
    length = world.px(float(rng.choice([14.0, 18.0, 26.0])))
    fleet = pick(rng, TRUCK_PAINTS if world.chance(0.5) else CONTAINER_PAINTS)
    same = world.chance(0.6)
    kind = "passenger train" if length > world.px(20) else "freight train"
    for u in np.arange(u_range[0] + length / 2, u_range[1] - length / 2, 1.04 * length):
        pose = world.pose(u, v, heading_deg=0.0, length=length, width=width)
        color = fleet if same else pick(rng, CONTAINER_PAINTS)

        def paint(pose: Pose = pose, color: Color = color) -> None:
            canvas.shadow(pose.quad(), height_px=world.px(2.2), connected=True)
            canvas.fill(pose.quad(), shade(color, 0.7))
            canvas.fill(pose.points(_rect(-0.49, -0.4, 0.49, 0.4)), color)
            canvas.fill(pose.points(_rect(-0.47, -0.12, 0.47, 0.12)), shade(color, 1.12), alpha=0.7)

        world.put(kind, pose, paint, color=color, margin_px=0.0, over=True)


def put_rails(world: World, v: float, u_range: tuple[float, float], *, num: int) -> list[float]:
    """Paint parallel tracks on ballast around v; returns the v of each."""
    canvas, rng = world.canvas, world.rng
    pitch = world.px(4.6)
    offsets = [v + (index - (num - 1) / 2) * pitch for index in range(num)]
    bed = world.frame.rect(
        u_range[0], offsets[0] - pitch * 0.7, u_range[1], offsets[-1] + pitch * 0.7
    )
    canvas.fill(bed, vary(rng, (126, 116, 104), light=12))
    canvas.pave(bed)
    sleeper = max(3.0, world.px(0.65))
    for offset in offsets:
        if sleeper > 3.5:
            for u in np.arange(u_range[0], u_range[1], sleeper):
                ends = [[u, offset - world.px(1.25)], [u, offset + world.px(1.25)]]
                canvas.stroke(
                    world.frame.points(ends), (96, 84, 74), width_px=world.px(0.24), alpha=0.5
                )
        for side in (-0.72, 0.72):
            rail = [[u_range[0], offset + world.px(side)], [u_range[1], offset + world.px(side)]]
            canvas.stroke(
                world.frame.points(rail), (84, 80, 78), width_px=max(0.4, world.px(0.15)), alpha=0.8
            )
    return offsets


def put_crane(world: World, u: float, v: float, *, heading_deg: float, size_m: float) -> bool:
    """Place a quay or tower crane: a long lattice jib and its shadow, over what is below."""
    rng, canvas = world.rng, world.canvas
    color = vary(
        rng,
        ((206, 160, 52), (184, 60, 44), (226, 226, 222), (60, 96, 150))[rng.integers(4)],
        light=10,
    )
    pose = world.pose(
        u, v, heading_deg=heading_deg, length=world.px(size_m), width=world.px(0.24 * size_m)
    )

    def paint() -> None:
        jib = max(0.8, world.px(1.6))
        for offset, tone, alpha in (
            (world.px(18) * canvas.sun_xy, (14, 16, 22), 0.4),
            (0.0, color, 1.0),
        ):
            for line in (
                [[-0.5, 0], [0.5, 0]],
                [[-0.3, -0.5], [-0.3, 0.5]],
                [[0.0, -0.5], [0.0, 0.5]],
            ):
                canvas.stroke(pose.points(line) + offset, tone, width_px=jib, alpha=alpha)
        house = rounded_rect(length=0.14, width=0.4) + [-0.3, 0]
        canvas.fill(pose.points(house), shade(color, 0.8))

    return world.put("crane", pose, paint, color=color, on_water=None, over=True)


def put_wind_turbine(world: World, u: float, v: float) -> bool:
    """Place a wind turbine: three blades seen from above at a slant, and a long shadow."""
    rng, canvas = world.rng, world.canvas
    radius = world.px(rng.uniform(18, 45))
    pose = world.pose(
        u, v, heading_deg=float(rng.uniform(0, 360)), length=2 * radius, width=2 * radius
    )
    squeeze = rng.uniform(0.25, 1.0)

    def paint() -> None:
        foot = np.array([pose.x, pose.y])
        top = foot + rng.normal(0, 0.12, 2) * radius
        far = foot + canvas.sun_xy * radius * 1.2
        canvas.stroke(
            np.stack([foot, far]), (14, 16, 22), width_px=max(0.8, world.px(3)), alpha=0.4
        )
        canvas.stroke(np.stack([foot, top]), (226, 226, 224), width_px=max(0.8, world.px(3.5)))
        first = rng.uniform(0, 120)
        for turn in np.radians(first + np.arange(3) * 120.0):
            tip = pose.points([[0.5 * np.cos(turn), 0.5 * squeeze * np.sin(turn)]])[0] - foot
            for start, tone, alpha in ((far, (14, 16, 22), 0.35), (top, (240, 240, 240), 1.0)):
                line = np.stack([start, start + tip])
                canvas.stroke(line, tone, width_px=max(0.7, world.px(2.2)), alpha=alpha)

    return world.put("wind turbine", pose, paint, color=(240, 240, 240), on_water=None)


def put_solar_field(world: World, block: Extent) -> None:
    """Fill a block with rows of solar panels."""
    rng, canvas = world.rng, world.canvas
    u0, v0, u1, v1 = block
    depth, gap = world.px(rng.uniform(2, 4.5)), world.px(rng.uniform(1.5, 5))
    color = vary(rng, ((40, 52, 84), (34, 40, 54), (62, 74, 104))[rng.integers(3)], light=8)
    if depth < 2.5:
        return
    table = world.px(rng.uniform(8, 40))
    for v in np.arange(v0 + depth / 2, v1 - depth / 2, depth + gap):
        for u in np.arange(u0 + table / 2, u1 - table / 2, table + world.px(0.8)):
            pose = world.pose(u, v, heading_deg=0.0, length=table, width=depth)

            def paint(pose: Pose = pose) -> None:
                canvas.shadow(pose.quad(), height_px=world.px(0.8))
                canvas.fill(pose.quad(), color)
                canvas.stroke(pose.quad(), (180, 184, 190), width_px=0.5, closed=True, alpha=0.5)
                for x in np.linspace(-0.5, 0.5, max(2, int(pose.length / max(4.0, world.px(1.1))))):
                    line = pose.points([[x, -0.5], [x, 0.5]])
                    canvas.stroke(line, (130, 138, 150), width_px=0.5, alpha=0.35)

            world.put("solar panel", pose, paint, color=color, margin_px=0.0)


def put_chimney(world: World, u: float, v: float) -> bool:
    """Place a chimney or cooling tower: a ring with a dark hole and a long shadow."""
    rng, canvas = world.rng, world.canvas
    side = world.px(rng.uniform(3, 12))
    pose = world.pose(u, v, heading_deg=0.0, length=side, width=side)
    tone = clip(np.array([1.0, 0.98, 0.94]) * rng.uniform(130, 220))

    def paint() -> None:
        outline = pose.points(ellipse(num=30))
        canvas.shadow(outline, height_px=rng.uniform(2, 5) * side, connected=True)
        canvas.fill(outline, tone)
        canvas.fill(pose.points(ellipse(radii=(0.32, 0.32), num=24)), (30, 30, 32))

    return world.put("chimney", pose, paint, color=tone)


def paint_digger(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint an excavator: tracks, cabin, a bent arm."""
    for side in (-1, 1):
        track = rounded_rect(length=0.5, width=0.22) + [-0.2, side * 0.38]
        canvas.fill(pose.points(track), (52, 50, 48))
    house = rounded_rect(length=0.42, width=0.66) + [-0.24, 0]
    canvas.shadow(pose.points(house), height_px=0.4 * pose.width)
    canvas.fill(pose.points(house), color)
    arm = mirrored([[0.5, 0.0], [0.48, 0.16], [0.4, 0.08], [-0.05, 0.08], [-0.06, 0.0]])
    canvas.fill(pose.points(arm), shade(color, 0.85))
