"""Scenes of the country: rivers with bridges, fields, motorways with interchanges, turbines."""

from __future__ import annotations

import itertools

import numpy as np

from tcm_d2.synthetic.canvas import Color
from tcm_d2.synthetic.geometry import Pose
from tcm_d2.synthetic.photo import plants, town
from tcm_d2.synthetic.photo.buildings import put_house, put_trees
from tcm_d2.synthetic.photo.colors import WHITE, shade, vary
from tcm_d2.synthetic.photo.harbours import put_ship
from tcm_d2.synthetic.photo.industry import put_wind_turbine
from tcm_d2.synthetic.photo.traffic import put_traffic
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import split_blocks
from tcm_d2.synthetic.surroundings import strip

_FIELDS = ("grass", "lawn", "dry", "soil", "red soil", "dark field", "scrub", "sand")


def put_bridge(world: World, pose: Pose, *, name: str, color: Color) -> bool:
    """Place a bridge: deck along the pose, rails, piers' shadows; at times arches or cables."""
    rng, canvas = world.rng, world.canvas

    def paint() -> None:
        canvas.shadow(pose.quad(), height_px=min(world.px(7), 0.8 * pose.width))
        canvas.fill(pose.quad(), shade(color, rng.uniform(0.9, 1.35)))
        canvas.fill(pose.points([[-0.5, -0.4], [0.5, -0.4], [0.5, 0.4], [-0.5, 0.4]]), color)
        if name == "railway bridge":
            for v in (-0.15, 0.15):
                canvas.stroke(
                    pose.points([[-0.5, v], [0.5, v]]),
                    (70, 66, 62),
                    width_px=max(0.5, world.px(0.2)),
                )
        else:
            for v in np.linspace(-0.4, 0.4, 2 * max(1, round(pose.width * world.gsd_m / 8)) + 1)[
                1:-1
            ]:
                for u in np.arange(-0.48, 0.46, max(0.02, world.px(8) / pose.length)):
                    dash = pose.points(
                        [[u, v], [u + 0.4 * max(0.02, world.px(8) / pose.length), v]]
                    )
                    canvas.stroke(dash, WHITE, width_px=max(0.4, world.px(0.15)), alpha=0.7)
        if name == "suspension bridge":
            for u in np.linspace(-0.45, 0.45, 24):
                canvas.stroke(
                    pose.points([[u, -0.5], [u, -0.42]]), (60, 60, 60), width_px=0.5, alpha=0.6
                )
            for u in (-0.28, 0.28):
                canvas.stroke(
                    pose.points([[u, -0.55], [u, 0.55]]), (214, 214, 208), width_px=world.px(2.5)
                )
        elif name == "truss bridge":
            for u in np.linspace(-0.48, 0.48, max(4, int(pose.length / max(5.0, world.px(5))))):
                canvas.stroke(
                    pose.points([[u, -0.46], [u, 0.46]]), shade(color, 0.6), width_px=0.6, alpha=0.6
                )

    return world.put(
        name, pose, paint, class_name="bridge", color=color, on_water=None, over=True, margin_px=0.0
    )


def paint_road(world: World, points: list, *, width_m: float, color: Color, lanes: int) -> None:
    """A road with verges and lane lines along a polyline of the frame."""
    canvas, rng = world.canvas, world.rng
    line = world.frame.points(points)
    width = world.px(width_m)
    canvas.stroke(
        line,
        vary(rng, (158, 150, 132), light=20),
        width_px=width * rng.uniform(1.05, 1.4),
        alpha=0.8,
    )
    canvas.stroke(line, color, width_px=width)
    if lanes > 1:
        for start, end in itertools.pairwise(line):
            step = end - start
            length = max(1.0, float(np.hypot(*step)))
            side = np.array([-step[1], step[0]]) / length
            for offset in (np.arange(1, lanes) / lanes - 0.5) * width * 0.9:
                for part in np.arange(0, 1, world.px(12) / length):
                    dash = np.stack(
                        [start + step * part, start + step * (part + 0.4 * world.px(12) / length)]
                    )
                    canvas.stroke(
                        dash + side * offset, WHITE, width_px=max(0.4, world.px(0.16)), alpha=0.7
                    )
    for start, end in itertools.pairwise(line):
        step = end - start
        side = np.array([-step[1], step[0]]) * (width / 2 / max(1e-6, float(np.hypot(*step))))
        canvas.pave(np.stack([start + side, end + side, end - side, start - side]))


def cover_fields(world: World, *, max_m: float) -> None:
    """Fields of many kinds with furrows over the whole image, hedges between them."""
    rng, reach = world.rng, world.reach
    side = world.px(rng.uniform(0.4, 1.0) * max_m)
    for extent in split_blocks(
        rng, (-reach, -reach, reach, reach), min_side=0.4 * side, max_side=1.3 * side
    ):
        rect = world.frame.rect(*extent)
        world.cover(rect, _FIELDS[rng.integers(len(_FIELDS))])
        if world.chance(0.5):
            step = max(2.5, world.px(rng.uniform(0.8, 6)))
            tone: Color = (40, 40, 30) if world.chance(0.5) else (220, 210, 180)
            along_u = world.chance(0.5)
            low, high = (extent[0], extent[2]) if along_u else (extent[1], extent[3])
            alpha = rng.uniform(0.04, 0.2)
            for a in np.arange(low, high, step):
                ends = (
                    [[a, extent[1]], [a, extent[3]]]
                    if along_u
                    else [[extent[0], a], [extent[2], a]]
                )
                world.canvas.stroke(
                    world.frame.points(ends), tone, width_px=0.5 * step, alpha=alpha
                )
        world.canvas.stroke(
            rect,
            vary(rng, (96, 96, 66), light=30),
            width_px=world.px(rng.uniform(0.5, 4)),
            closed=True,
            alpha=0.7,
        )


def draw_river(world: World) -> None:
    """Draw a river or canal with bridges of several kinds, ships on it, roads to them."""
    rng, reach = world.rng, world.reach
    world.start(("grass", "scrub", "forest", "dry", "soil", "lawn")[rng.integers(6)])
    if world.chance(0.5):
        cover_fields(world, max_m=200)
    elif world.chance(0.5):
        side = world.px(rng.uniform(60, 110))
        for extent in split_blocks(
            rng, (-reach, -reach, reach, reach), min_side=0.5 * side, max_side=1.3 * side
        ):
            fillers = (town.fill_houses, town.fill_halls, town.fill_park, plants.fill_works)
            fillers[rng.integers(4)](world, extent)
    width = world.px(
        float(rng.choice([rng.uniform(8, 30), rng.uniform(25, 120), rng.uniform(100, 400)]))
    )
    width = min(width, 1.2 * reach)
    u = np.linspace(-reach - 20, reach + 20, 40)
    middle = rng.uniform(-0.5, 0.5) * reach + rng.uniform(0, 0.15) * reach * np.sin(
        u / reach * rng.uniform(1, 3) + rng.uniform(0, 6)
    )
    wobble = 1 + 0.08 * np.sin(u / reach * 7 + rng.uniform(0, 6))
    banks = np.concatenate(
        [
            np.stack([u, middle - width / 2 * wobble], 1),
            np.stack([u, middle + width / 2 * wobble], 1)[::-1],
        ]
    )
    world.clear_under([world.frame.points(banks)])
    world.flood([world.frame.points(banks)])
    names = (
        "bridge",
        "bridge",
        "bridge",
        "railway bridge",
        "suspension bridge",
        "truss bridge",
        "footbridge",
    )
    pitch = world.px(rng.uniform(60, 250))
    for start in np.arange(-reach + rng.uniform(0, 1) * pitch, reach, pitch):
        name = names[rng.integers(len(names))]
        road_m = 3.0 if name == "footbridge" else float(rng.uniform(6, 26))
        here = float(np.interp(start, u, middle))
        slant = float(rng.choice([0.0, 0.0, rng.normal(0, 14)]))
        color = vary(rng, world.asphalt if world.chance(0.5) else world.concrete, light=16)
        length = width * 1.06 / max(0.5, np.cos(np.radians(slant))) + world.px(rng.uniform(2, 14))
        ahead = np.array([np.sin(np.radians(slant)), 1.0])
        ends = [(np.array([start, here]) + ahead * s * 3 * reach).tolist() for s in (-1, 1)]
        near = [
            (
                np.array([start, here]) + ahead * s * length / 2.02 * np.cos(np.radians(slant))
            ).tolist()
            for s in (-1, 1)
        ]
        world.clear_under([strip(*world.frame.points(ends), width_px=1.2 * world.px(road_m))])
        for far_end, bank in zip(ends, near):
            paint_road(world, [far_end, bank], width_m=0.8 * road_m, color=world.asphalt, lanes=2)
        pose = world.pose(
            start, here, heading_deg=90.0 + slant, length=length, width=world.px(road_m)
        )
        put_bridge(world, pose, name=name, color=color)
        world.surroundings = "on a bridge"
        before, world.canvas.occupied = world.canvas.occupied, np.zeros_like(world.canvas.occupied)
        water, world.water = world.water, np.zeros_like(world.water)
        if name != "footbridge" and name != "railway bridge":
            put_traffic(
                world,
                tuple(ends[0]),
                tuple(ends[1]),
                lanes=2,
                width_px=0.6 * world.px(road_m),
                spacing_m=float(rng.uniform(20, 90)),
                large_part=0.2,
            )
        world.canvas.occupied, world.water = before | world.canvas.occupied, water
    world.surroundings = "on a river"
    kinds = ("barge", "motor boat", "open boat", "ferry")
    for _ in range(int(rng.integers(0, 9))):
        start = float(rng.uniform(-reach, reach))
        put_ship(
            world,
            start,
            float(np.interp(start, u, middle)) + rng.normal(0, 0.15) * width,
            kind=kinds[rng.integers(4)],
            heading_deg=180.0 * rng.integers(2) + rng.normal(0, 6),
            wake=world.chance(0.4),
            margin_px=1.0,
        )
    put_trees(
        world, (-reach, -reach, reach, reach), count=int(rng.integers(0, 120)), radius_m=(1.5, 6)
    )


def draw_country(world: World) -> None:
    """Draw farmland with roads, farms, turbines, solar fields: few objects, many look-alikes."""
    rng, reach = world.rng, world.reach
    world.start(_FIELDS[rng.integers(len(_FIELDS))])
    cover_fields(world, max_m=float(rng.uniform(60, 260)))
    world.surroundings = "in the country"
    for _ in range(int(rng.integers(0, 4))):
        points = [
            [-reach, rng.uniform(-reach, reach)],
            [0, rng.uniform(-reach, reach)],
            [reach, rng.uniform(-reach, reach)],
        ]
        width = float(rng.uniform(3, 10))
        paint_road(
            world,
            points,
            width_m=width,
            color=world.asphalt if world.chance(0.7) else (176, 158, 126),
            lanes=2,
        )
        put_traffic(
            world,
            tuple(points[0]),
            tuple(points[1]),
            lanes=2,
            width_px=world.px(0.6 * width),
            spacing_m=90.0,
            large_part=0.2,
        )
    for _ in range(int(rng.integers(0, 4))):
        u, v, side = *rng.uniform(-0.8, 0.8, 2) * reach, world.px(rng.uniform(20, 70))
        extent = (u - side / 2, v - side / 2, u + side / 2, v + side / 2)
        if world.canvas.is_free(world.frame.rect(*extent)):
            (plants.fill_solar, plants.fill_dirt, town.fill_houses, town.fill_park)[
                rng.integers(4)
            ](world, extent)
    if world.chance(0.25):
        for _ in range(int(rng.integers(1, 5))):
            put_wind_turbine(world, *rng.uniform(-0.9, 0.9, 2) * reach)
    for _ in range(int(rng.integers(0, 14))):
        pose = world.pose(
            *rng.uniform(-1, 1, 2) * reach,
            heading_deg=float(rng.uniform(0, 360)),
            length=world.px(rng.uniform(8, 40)),
            width=world.px(rng.uniform(6, 16)),
        )
        put_house(world, pose)
    put_trees(
        world, (-reach, -reach, reach, reach), count=int(rng.integers(0, 160)), radius_m=(1, 6)
    )


def draw_crossroads(world: World) -> None:
    """Draw a roundabout or a junction with its arms, dense traffic, and what stands around."""
    rng, reach = world.rng, world.reach
    world.start(("grass", "lawn", "dry", "soil", "concrete", "scrub")[rng.integers(6)])
    road_m = float(rng.uniform(6, 18))
    arms = int(rng.integers(3, 6))
    turns = np.sort(np.radians(np.arange(arms) * 360 / arms + rng.normal(0, 14, arms)))
    diameter = road_m * float(rng.uniform(1.9, 4.2))
    for extent in (
        (-reach, -reach, -world.px(road_m), -world.px(road_m)),
        (world.px(road_m), world.px(road_m), reach, reach),
    ):
        if world.chance(0.6) and extent[2] - extent[0] > world.px(25):
            inset = world.px(diameter / 2)
            block = (
                extent[0] + inset * (extent[0] > 0),
                extent[1] + inset * (extent[1] > 0),
                extent[2] - inset * (extent[2] < 0),
                extent[3] - inset * (extent[3] < 0),
            )
            if min(block[2] - block[0], block[3] - block[1]) > world.px(15):
                (town.fill_houses, town.fill_halls, town.fill_parking, town.fill_park)[
                    rng.integers(4)
                ](world, block)
    ends = [(2.2 * reach * np.cos(turn), 2.2 * reach * np.sin(turn)) for turn in turns]
    for end in ends:
        world.clear_under(
            [strip(*world.frame.points([[0, 0], end]), width_px=1.3 * world.px(road_m))]
        )
    ring = world.pose(0, 0, heading_deg=0, length=world.px(diameter), width=world.px(diameter))
    world.clear_under([ring.quad()])
    lanes = 2 if road_m < 11 else 4
    for end in ends:
        paint_road(world, [[0.0, 0.0], list(end)], width_m=road_m, color=world.asphalt, lanes=lanes)
    if world.chance(0.8):
        town.put_roundabout(world, 0.0, 0.0, diameter_m=diameter)
    world.surroundings = "at a crossing"
    for end in ends:
        start = np.array(end) / np.hypot(*end) * world.px(diameter * 0.62)
        put_traffic(
            world,
            tuple(start),
            end,
            lanes=lanes,
            width_px=0.85 * world.px(road_m),
            spacing_m=float(rng.uniform(8, 60)),
            large_part=0.15,
        )
    put_trees(
        world, (-reach, -reach, reach, reach), count=int(rng.integers(5, 90)), radius_m=(1.2, 5)
    )
