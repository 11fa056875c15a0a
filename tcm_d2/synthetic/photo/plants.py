"""Blocks of industry: tank farms, container yards, halls with yards, solar fields, rail yards."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic.geometry import Pose
from tcm_d2.synthetic.photo.buildings import put_hall, put_trees
from tcm_d2.synthetic.photo.colors import CONCRETE, pick, vary
from tcm_d2.synthetic.photo.industry import (
    paint_digger,
    put_chimney,
    put_containers,
    put_crane,
    put_rails,
    put_solar_field,
    put_tank,
    put_train,
    tank_color,
)
from tcm_d2.synthetic.photo.traffic import draw_kind, park_rows, put_vehicle
from tcm_d2.synthetic.photo.vehicles import LARGE_MIX
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import Extent


def fill_tanks(world: World, extent: Extent) -> None:
    """Fill a block with tanks: equal ones in rows inside bund walls, or a few of many sizes."""
    rng = world.rng
    world.surroundings = "in a tank farm"
    u0, v0, u1, v1 = extent
    ground = ("soil", "gravel", "grass", "concrete", "dry")[rng.integers(5)]
    world.cover(world.frame.rect(*extent), ground)
    world.canvas.pave(world.frame.rect(*extent))
    diameter = float(rng.choice([rng.uniform(4, 12), rng.uniform(10, 30), rng.uniform(25, 70)]))
    diameter = min(diameter, 0.8 * min(u1 - u0, v1 - v0) * world.gsd_m)
    color, style = (
        tank_color(rng),
        str(rng.choice(["dome", "flat", "floating"], p=[0.35, 0.4, 0.25])),
    )
    pitch = world.px(diameter * rng.uniform(1.15, 2.0))
    mixed = world.chance(0.3)
    bund = vary(rng, (150, 142, 128), light=16)
    if world.chance(0.7):
        world.canvas.stroke(
            world.frame.rect(*extent), bund, width_px=max(0.7, world.px(1.0)), closed=True
        )
    for u in np.arange(u0 + 0.6 * pitch, u1 - 0.4 * pitch, pitch):
        for v in np.arange(v0 + 0.6 * pitch, v1 - 0.4 * pitch, pitch):
            if not world.chance(0.9):
                continue
            own = (
                diameter * rng.choice([1.0, 0.7, 0.5])
                if mixed
                else diameter * rng.uniform(0.97, 1.0)
            )
            tone = tank_color(rng) if world.chance(0.15) else color
            put_tank(world, float(u), float(v), diameter_m=float(own), color=tone, style=style)
        if world.chance(0.5):
            pipe = [[u + pitch / 2, v0], [u + pitch / 2, v1]]
            world.canvas.stroke(
                world.frame.points(pipe),
                vary(rng, (150, 150, 148), light=30),
                width_px=max(0.5, world.px(rng.uniform(0.3, 1.5))),
                alpha=0.8,
            )


def fill_containers(world: World, extent: Extent) -> None:
    """Fill a block with containers on a paved yard, lorries between them, at times cranes."""
    rng = world.rng
    world.surroundings = "in a container yard"
    world.pave(world.frame.rect(*extent), world.asphalt if world.chance(0.5) else world.concrete)
    put_containers(world, extent)
    for _ in range(int(rng.integers(0, 9))):
        put_vehicle(
            world,
            rng.uniform(extent[0], extent[2]),
            rng.uniform(extent[1], extent[3]),
            heading_deg=90.0 * rng.integers(4) + rng.normal(0, 3),
            kind=draw_kind(rng, LARGE_MIX),
        )
    if world.chance(0.4):
        put_crane(
            world,
            (extent[0] + extent[2]) / 2,
            (extent[1] + extent[3]) / 2,
            heading_deg=90.0 * rng.integers(2),
            size_m=float(rng.uniform(25, 60)),
        )


def fill_works(world: World, extent: Extent) -> None:
    """Fill a block with halls and a yard: lorries at the docks, trailers, stacks, silos."""
    rng = world.rng
    world.surroundings = "on an industrial site"
    u0, v0, u1, v1 = extent
    world.pave(
        world.frame.rect(*extent),
        world.asphalt if world.chance(0.6) else pick(rng, CONCRETE),
        concrete=world.chance(0.3),
    )
    depth = rng.uniform(0.35, 0.65) * (v1 - v0)
    hall = world.pose(
        (u0 + u1) / 2, v0 + 0.55 * depth, heading_deg=0.0, length=0.9 * (u1 - u0), width=0.9 * depth
    )
    put_hall(world, hall)
    dock_v = v0 + depth + world.px(8)
    for u in np.arange(u0 + world.px(4), u1 - world.px(4), world.px(rng.uniform(3.6, 6))):
        if world.chance(0.45):
            kind = draw_kind(rng, LARGE_MIX)
            put_vehicle(
                world,
                u,
                dock_v + rng.normal(0, 1),
                heading_deg=-90.0 + 180 * world.chance(0.15),
                kind=kind,
            )
    yard = (u0, dock_v + world.px(11), u1, v1)
    if yard[3] - yard[1] > world.px(6):
        park_rows(
            world,
            yard,
            kinds=LARGE_MIX if world.chance(0.5) else (("car", 0.7), ("van", 0.2), ("truck", 0.1)),
        )
    for _ in range(int(rng.integers(0, 4))):
        spot = rng.uniform(u0, u1), rng.uniform(v0 + depth, v1)
        if world.chance(0.5):
            put_tank(
                world,
                *spot,
                diameter_m=float(rng.uniform(3, 9)),
                color=tank_color(rng),
                style="flat",
            )
        else:
            put_chimney(world, *spot)


def fill_solar(world: World, extent: Extent) -> None:
    """Fill a block with solar panels on grass or gravel."""
    world.surroundings = "in a solar park"
    world.cover(world.frame.rect(*extent), ("grass", "dry", "gravel")[world.rng.integers(3)])
    put_solar_field(world, extent)


def fill_rails(world: World, extent: Extent) -> None:
    """Fill a block with tracks and standing trains."""
    rng = world.rng
    world.surroundings = "in a rail yard"
    u0, v0, u1, v1 = extent
    world.cover(world.frame.rect(*extent), "gravel")
    tracks = max(1, min(9, int((v1 - v0) / world.px(5.5))))
    for v in put_rails(world, (v0 + v1) / 2, (u0, u1), num=tracks):
        if world.chance(0.6):
            start = rng.uniform(u0, (u0 + u1) / 2)
            put_train(world, v, (start, rng.uniform(start, u1)))


def fill_dirt(world: World, extent: Extent) -> None:
    """Fill a block with a building site or waste ground: heaps, diggers, lorries, cranes."""
    rng = world.rng
    world.surroundings = "on a building site"
    u0, v0, u1, v1 = extent
    world.cover(world.frame.rect(*extent), ("soil", "red soil", "sand", "gravel")[rng.integers(4)])
    for _ in range(int(rng.integers(0, 7))):
        length = world.px(rng.uniform(7, 10))
        pose = world.pose(
            rng.uniform(u0, u1),
            rng.uniform(v0, v1),
            heading_deg=float(rng.uniform(0, 360)),
            length=length,
            width=0.36 * length,
        )
        color = vary(rng, (214, 164, 40), light=14)

        def paint(pose: Pose = pose, color: tuple = color) -> None:
            paint_digger(world.canvas, pose, rng, color)

        if world.chance(0.6):
            world.put("excavator", pose, paint, color=color)
        else:
            put_vehicle(
                world,
                rng.uniform(u0, u1),
                rng.uniform(v0, v1),
                heading_deg=float(rng.uniform(0, 360)),
                kind=draw_kind(rng, LARGE_MIX),
            )
    if world.chance(0.25):
        put_crane(
            world,
            (u0 + u1) / 2,
            (v0 + v1) / 2,
            heading_deg=float(rng.uniform(0, 360)),
            size_m=float(rng.uniform(30, 60)),
        )
    put_trees(world, extent, count=int(rng.integers(0, 20)), radius_m=(0.5, 3))
