"""Blocks of towns, and scenes made of blocks between streets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tcm_d2.synthetic import facilities
from tcm_d2.synthetic.photo import plants, sports
from tcm_d2.synthetic.photo.buildings import put_hall, put_house, put_trees
from tcm_d2.synthetic.photo.colors import vary
from tcm_d2.synthetic.photo.traffic import draw_kind, park_rows, put_traffic, put_vehicle
from tcm_d2.synthetic.photo.vehicles import LARGE_MIX, SMALL_MIX
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import Extent, split_blocks
from tcm_d2.synthetic.textures import to_uint8

Filler = Callable[[World, Extent], None]


def fill_parking(world: World, extent: Extent) -> None:
    """Fill a block with a car park, at times with islands of trees."""
    rng = world.rng
    world.surroundings = "in a parking lot"
    world.pave(world.frame.rect(*extent), world.asphalt if world.chance(0.7) else world.concrete)
    kinds = SMALL_MIX if world.chance(0.85) else (*SMALL_MIX, ("truck", 0.1), ("bus", 0.05))
    u0, v0, u1, v1 = extent
    parts = [extent]
    if world.chance(0.4):
        parts = split_blocks(
            rng, extent, min_side=world.px(12), max_side=world.px(rng.uniform(30, 70))
        )
    for part in parts:
        park_rows(world, part, kinds=kinds)
    for _ in range(int(rng.integers(0, 6))):  # cars that look for a place
        put_vehicle(
            world,
            rng.uniform(u0, u1),
            rng.uniform(v0, v1),
            heading_deg=90.0 * rng.integers(4) + rng.normal(0, 12),
            kind=draw_kind(rng, SMALL_MIX),
        )


def fill_depot(world: World, extent: Extent) -> None:
    """Fill a block with buses, lorries or trailers in rows."""
    rng = world.rng
    world.surroundings = "in a depot"
    world.pave(world.frame.rect(*extent), world.asphalt if world.chance(0.7) else world.concrete)
    fleets = (
        (("school bus", 1.0),),
        (("bus", 1.0),),
        (("trailer", 1.0),),
        LARGE_MIX,
        (("trailer", 0.6), ("semi", 0.4)),
        (("truck", 0.7), ("van", 0.3)),
    )
    for part in split_blocks(
        rng, extent, min_side=world.px(20), max_side=world.px(rng.uniform(40, 110))
    ):
        if world.chance(0.85):
            park_rows(world, part, kinds=fleets[rng.integers(len(fleets))])
    for _ in range(int(rng.integers(0, 6))):
        kind = draw_kind(rng, LARGE_MIX if world.chance(0.6) else SMALL_MIX)
        put_vehicle(
            world,
            rng.uniform(extent[0], extent[2]),
            rng.uniform(extent[1], extent[3]),
            heading_deg=float(rng.uniform(0, 360)),
            kind=kind,
        )


def fill_houses(world: World, extent: Extent) -> None:
    """Fill a block with houses in gardens: lawns, drives with cars, pools, trees."""
    rng = world.rng
    u0, v0, u1, v1 = extent
    world.cover(world.frame.rect(*extent), ("lawn", "grass", "dry", "scrub")[rng.integers(4)])
    plot_u, plot_v = world.px(rng.uniform(13, 30)), world.px(rng.uniform(22, 42))
    pools = rng.choice([0.1, 0.4, 0.8])
    rows = max(1, round((v1 - v0) / plot_v))
    plot_v = (v1 - v0) / rows
    for row in range(rows):
        side = -1 if row % 2 == 0 else 1
        for u in np.arange(u0 + plot_u / 2, u1 - plot_u / 3, plot_u):
            v = v0 + (row + 0.5) * plot_v
            world.surroundings = "in a garden"
            if world.chance(0.3):
                lawn = world.frame.rect(
                    u - plot_u / 2, v - plot_v / 2, u + plot_u / 2, v + plot_v / 2
                )
                world.canvas.fill(lawn, vary(rng, (104, 118, 72), light=30), alpha=0.35)
            house = world.pose(
                u + 0.05 * plot_u,
                v + side * 0.16 * plot_v,
                heading_deg=float(rng.choice([0.0, 90.0])) + rng.normal(0, 2),
                length=rng.uniform(0.5, 0.66) * plot_u,
                width=rng.uniform(0.4, 0.55) * plot_u,
            )
            put_house(world, house)
            if world.chance(0.4):
                wing = world.pose(
                    u + rng.uniform(-0.2, 0.25) * plot_u,
                    v - side * 0.02 * plot_v,
                    heading_deg=0.0,
                    length=0.3 * plot_u,
                    width=0.24 * plot_u,
                )
                put_house(world, wing)
            if world.chance(pools):
                style = str(
                    rng.choice(["rect", "kidney", "oval", "tee"], p=[0.42, 0.33, 0.13, 0.12])
                )
                length = float(rng.uniform(5.5, 12))
                sports.put_pool(
                    world,
                    u + rng.normal(0, 0.14) * plot_u,
                    v - side * 0.28 * plot_v,
                    size_m=(length, length * float(rng.uniform(0.4, 0.75))),
                    style=style,
                    heading_deg=float(rng.choice([0.0, 90.0])) + rng.normal(0, 10),
                )
            elif world.chance(0.12):
                shed = world.pose(
                    u,
                    v - side * 0.36 * plot_v,
                    heading_deg=0.0,
                    length=world.px(4),
                    width=world.px(3),
                )
                put_house(world, shed)
            drive = world.frame.rect(
                u - 0.48 * plot_u,
                v + side * 0.1 * plot_v,
                u - 0.3 * plot_u,
                v + side * 0.5 * plot_v,
            )
            if world.canvas.is_free(drive):
                world.canvas.fill(drive, vary(rng, (164, 160, 152), light=22))
                world.surroundings = "in a drive"
                if world.chance(0.5):
                    put_vehicle(
                        world,
                        u - 0.39 * plot_u,
                        v + side * 0.33 * plot_v,
                        heading_deg=90.0 * side + rng.normal(0, 3),
                        kind=draw_kind(rng, SMALL_MIX),
                    )
    area_m2 = (u1 - u0) * (v1 - v0) * world.gsd_m**2
    put_trees(world, extent, count=int(min(60, area_m2 / rng.uniform(60, 400))), radius_m=(1.2, 5))


def fill_halls(world: World, extent: Extent) -> None:
    """Fill a block with flat-roofed buildings, courtyards with cars between them."""
    rng = world.rng
    world.surroundings = "between buildings"
    if world.chance(0.5):
        world.pave(world.frame.rect(*extent), world.concrete)
    else:
        world.cover(world.frame.rect(*extent), ("lawn", "gravel", "grass")[rng.integers(3)])
    for u0, v0, u1, v1 in split_blocks(
        rng, extent, min_side=world.px(12), max_side=world.px(rng.uniform(25, 70))
    ):
        if world.chance(0.75):
            pose = world.pose(
                (u0 + u1) / 2,
                (v0 + v1) / 2,
                heading_deg=0.0,
                length=rng.uniform(0.6, 0.95) * (u1 - u0),
                width=rng.uniform(0.5, 0.92) * (v1 - v0),
            )
            put_hall(world, pose)
        else:
            park_rows(world, (u0, v0, u1, v1), kinds=SMALL_MIX)
    put_trees(world, extent, count=int(rng.integers(0, 24)), radius_m=(1.2, 5))


def fill_park(world: World, extent: Extent) -> None:
    """Fill a block with grass, trees, paths, at times a pond."""
    rng = world.rng
    kind = ("lawn", "grass", "scrub", "forest", "dry")[rng.integers(5)]
    world.cover(world.frame.rect(*extent), kind)
    world.surroundings = "in a park"
    u0, v0, u1, v1 = extent
    if world.chance(0.4):
        path = np.array(
            [
                [u0, rng.uniform(v0, v1)],
                [(u0 + u1) / 2, rng.uniform(v0, v1)],
                [u1, rng.uniform(v0, v1)],
            ]
        )
        world.canvas.stroke(
            world.frame.points(path), vary(rng, (186, 174, 150), light=16), width_px=world.px(2.2)
        )
    area_m2 = (u1 - u0) * (v1 - v0) * world.gsd_m**2
    put_trees(world, extent, count=int(min(90, area_m2 / rng.uniform(30, 300))), radius_m=(1.5, 6))


def put_roundabout(world: World, u: float, v: float, *, diameter_m: float) -> bool:
    """Place a roundabout whose arms are there already."""
    side = world.px(diameter_m)
    pose = world.pose(u, v, heading_deg=-world.frame.angle_deg, length=side, width=side)
    world.clear_under([pose.quad()])
    return world.put(
        "roundabout",
        pose,
        lambda: facilities.paint_roundabout(world.canvas, pose, world.rng, road=world.asphalt),
        class_name="roundabout",
        over=True,
    )


# What stands in the blocks of a kind of scene, with weights.
MIXES: dict[str, tuple[tuple[Filler, float], ...]] = {
    "town": (
        (fill_parking, 3),
        (fill_houses, 3),
        (fill_halls, 3),
        (fill_park, 1),
        (fill_depot, 0.6),
        (sports.fill_tennis, 0.6),
        (sports.fill_basketball, 0.6),
        (sports.fill_soccer, 0.5),
        (plants.fill_works, 1),
        (plants.fill_dirt, 0.5),
        (sports.fill_bath, 0.4),
    ),
    "suburb": (
        (fill_houses, 7),
        (fill_park, 1),
        (fill_parking, 0.6),
        (sports.fill_tennis, 0.5),
        (sports.fill_diamonds, 0.3),
        (sports.fill_bath, 0.4),
        (fill_halls, 0.5),
    ),
    "lots": (
        (fill_parking, 5),
        (fill_depot, 4),
        (fill_halls, 1),
        (plants.fill_works, 1.5),
        (plants.fill_containers, 0.8),
        (plants.fill_dirt, 0.5),
        (fill_park, 0.5),
    ),
    "sports": (
        (sports.fill_tennis, 3),
        (sports.fill_basketball, 3),
        (sports.fill_soccer, 4),
        (sports.fill_track, 4),
        (sports.fill_diamonds, 5),
        (sports.fill_bath, 1.2),
        (fill_parking, 1.2),
        (fill_park, 1),
        (fill_halls, 0.8),
    ),
    "industry": (
        (plants.fill_tanks, 6),
        (plants.fill_works, 2),
        (plants.fill_containers, 1.5),
        (plants.fill_rails, 1),
        (fill_depot, 1),
        (plants.fill_solar, 0.6),
        (plants.fill_dirt, 0.7),
        (fill_halls, 0.7),
    ),
    "sports park": (
        (sports.fill_tennis, 1),
        (sports.fill_basketball, 3),
        (sports.fill_pitches, 3),
        (sports.fill_stadium, 4),
        (sports.fill_diamonds, 5),
        (sports.fill_bath, 0.4),
        (fill_parking, 1),
        (fill_park, 1),
        (fill_halls, 0.7),
    ),
    "tank farm": (
        (plants.fill_tanks, 8),
        (plants.fill_works, 1.5),
        (plants.fill_dirt, 0.5),
        (fill_halls, 0.6),
        (fill_park, 0.5),
    ),
}


def draw_blocks(world: World, mix: str) -> None:
    """Draw a scene of blocks between streets with traffic; some crossings are roundabouts."""
    rng, reach = world.rng, world.reach
    world.start("asphalt")
    world.canvas.pixels[:] = to_uint8(0.35 * world.canvas.pixels + 0.65 * np.array(world.asphalt))
    low_m, high_m = {
        "town": (35, 95),
        "suburb": (45, 120),
        "lots": (50, 150),
        "sports": (50, 230),
        "industry": (50, 150),
        "sports park": (90, 300),
        "tank farm": (60, 170),
    }[mix]
    side = world.px(rng.uniform(low_m, high_m))
    street = world.px(rng.choice([6.5, 8.0, 12.0, 15.0]))
    blocks = split_blocks(
        rng, (-reach, -reach, reach, reach), min_side=0.5 * side, max_side=1.3 * side
    )
    fillers, weights = zip(*MIXES[mix])
    chances = np.array(weights) / sum(weights)
    pavement = vary(rng, (176, 172, 162), light=18)
    for u0, v0, u1, v1 in blocks:
        block = (u0 + street / 2, v0 + street / 2, u1 - street / 2, v1 - street / 2)
        if min(block[2] - block[0], block[3] - block[1]) < world.px(6):
            continue
        rect = world.frame.rect(*block)
        world.canvas.stroke(rect, pavement, width_px=max(0.8, world.px(3)), closed=True)
        if world.chance(0.8 if mix in ("sports", "sports park") else 0.3):
            world.cover(
                rect, ("lawn", "grass", "dry", "concrete", "soil", "scrub")[rng.integers(6)]
            )
        fillers[rng.choice(len(fillers), p=chances)](world, block)
    _street_traffic(world, blocks, street=street)
    if mix in ("town", "suburb") and world.chance(0.4):
        u0, v0, _, _ = blocks[rng.integers(len(blocks))]
        put_roundabout(
            world, u0, v0, diameter_m=float(rng.uniform(1.6, 3.2)) * street * world.gsd_m
        )


def _street_traffic(world: World, blocks: list[Extent], *, street: float) -> None:
    """Lane lines and cars on the streets that run along the blocks' lower and left sides."""
    rng = world.rng
    world.surroundings = "on a street"
    spacing = float(rng.choice([12.0, 35.0, 90.0]))
    for u0, v0, u1, v1 in blocks:
        for start, stop in (((u0, v0), (u1, v0)), ((u0, v0), (u0, v1))):
            if world.chance(0.6):
                ends = world.frame.points([start, stop])
                for part in np.arange(
                    0.02, 0.98, world.px(6) / max(1.0, np.hypot(*(ends[1] - ends[0])))
                ):
                    dash = ends[0] + (ends[1] - ends[0]) * np.array(
                        [
                            [part],
                            [part + 0.4 * world.px(6) / max(1.0, np.hypot(*(ends[1] - ends[0])))],
                        ]
                    )
                    world.canvas.stroke(
                        dash, (226, 224, 214), width_px=max(0.4, world.px(0.15)), alpha=0.7
                    )
            put_traffic(
                world,
                start,
                stop,
                lanes=2,
                width_px=0.62 * street,
                spacing_m=spacing,
                large_part=0.12,
            )
            if world.chance(0.3):  # cars parked along the kerb
                kerb = 0.5 * street - world.px(1.2)
                shift = np.array([0.0, kerb]) if start[1] == stop[1] else np.array([kerb, 0.0])
                world.surroundings = "along a street"
                put_traffic(
                    world,
                    tuple(np.add(start, shift)),
                    tuple(np.add(stop, shift)),
                    lanes=1,
                    width_px=0.0,
                    spacing_m=4.0,
                    large_part=0.02,
                )
                world.surroundings = "on a street"


def draw_ground(world: World) -> None:
    """Draw one sports ground in the middle, whole or cut, and blocks of a town around it."""
    rng, reach = world.rng, world.reach
    world.start(("lawn", "grass", "dry", "asphalt", "concrete", "soil")[rng.integers(6)])
    fills: tuple[tuple[Filler, tuple[float, float]], ...] = (
        (sports.fill_track, (200, 110)),
        (sports.fill_soccer, (125, 85)),
        (sports.fill_diamonds, (110, 100)),
        (sports.fill_tennis, (75, 60)),
        (sports.fill_basketball, (60, 50)),
        (sports.fill_bath, (60, 40)),
    )
    fill, size_m = fills[rng.choice(len(fills), p=(0.24, 0.22, 0.24, 0.12, 0.12, 0.06))]
    half_u, half_v = (world.px(0.5 * side * float(rng.uniform(0.9, 1.2))) for side in size_m)
    world.surroundings = "on a sports ground"
    fill(world, (-half_u, -half_v, half_u, half_v))
    gap = world.px(float(rng.uniform(2, 14)))
    around: tuple[Extent, ...] = (
        (-reach, -reach, reach, -half_v - gap),
        (-reach, half_v + gap, reach, reach),
        (-reach, -half_v, -half_u - gap, half_v),
        (half_u + gap, -half_v, reach, half_v),
    )
    fillers = (fill_parking, fill_houses, fill_halls, fill_park, fill_park, sports.fill_tennis)
    for extent in around:
        if min(extent[2] - extent[0], extent[3] - extent[1]) < world.px(18):
            continue
        side = world.px(float(rng.uniform(45, 90)))
        for u0, v0, u1, v1 in split_blocks(rng, extent, min_side=0.5 * side, max_side=1.4 * side):
            inset = world.px(2.5)
            if world.chance(0.75) and min(u1 - u0, v1 - v0) > 4 * inset:
                block = (u0 + inset, v0 + inset, u1 - inset, v1 - inset)
                fillers[rng.integers(len(fillers))](world, block)
    put_trees(
        world, (-reach, -reach, reach, reach), count=int(rng.integers(0, 60)), radius_m=(1.5, 5)
    )
