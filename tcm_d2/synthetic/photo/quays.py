"""Scenes of landmarks at the water: piers of many makes, and ships longer than a pier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import Pose
from tcm_d2.synthetic.photo.buildings import put_hall, put_trees
from tcm_d2.synthetic.photo.colors import shade, vary
from tcm_d2.synthetic.photo.harbours import (
    PIERS,
    fill_land,
    put_afloat,
    put_berths,
    put_pier,
    put_ship,
)
from tcm_d2.synthetic.photo.ships import SHIPS, ShipKind
from tcm_d2.synthetic.photo.world import World

_SHORES = ("asphalt", "concrete", "grass", "gravel", "sand", "scrub", "forest", "soil")


def _flood_below(world: World, *, shore: float) -> None:
    """Flood all with v below ``shore``; the bank is a straight quay or a wavy beach."""
    rng, reach = world.rng, world.reach
    u = np.linspace(-reach - 10, reach + 10, 40)
    wave = rng.choice([0.0, 0.0, rng.uniform(0.01, 0.06)]) * reach
    line = shore + wave * np.sin(u / reach * rng.uniform(2, 9) + rng.uniform(0, 6))
    banks = np.concatenate(
        [np.stack([u, line], 1), [[reach + 10, -reach - 10], [-reach - 10, -reach - 10]]]
    )
    world.flood([world.frame.points(banks)], shore=world.chance(0.5))


def draw_jetties(world: World) -> None:
    """Draw fingers, T-heads, L-heads and platforms on walkways, with some boats or with none."""
    rng, reach = world.rng, world.reach
    world.start(_SHORES[rng.integers(len(_SHORES))])
    shore = rng.uniform(-0.3, 0.7) * reach
    _flood_below(world, shore=shore)
    world.surroundings = "in a harbour"
    length_m = float(rng.choice([rng.uniform(10, 30), rng.uniform(25, 80), rng.uniform(60, 220)]))
    length_m = min(length_m, 0.85 * (shore + reach) * world.gsd_m)
    width_m = float(np.clip(length_m / rng.uniform(2.5, 16), 1.5, 30))
    width_m = max(width_m, 1.1 * world.config.min_short_side_px * world.gsd_m)
    length_m = max(length_m, 3 * width_m)
    color = PIERS[rng.integers(len(PIERS))]
    boats = float(rng.choice([0.0, 0.0, rng.uniform(0.1, 0.5), rng.uniform(0.5, 0.95)]))
    boat_m = float(rng.uniform(5, 14))
    kinds = (("sailing boat",), ("motor boat",), ("open boat", "motor boat"))[rng.integers(3)]
    make = rng.choice(["finger", "tee", "ell", "platform"], p=[0.55, 0.15, 0.15, 0.15])
    room_m = 2.6 * boat_m if boats else 4.0
    if make != "finger":
        room_m += 0.7 * length_m
    pitch = world.px(width_m + room_m + float(rng.exponential(0.5 * length_m)))
    start = -reach + rng.uniform(0, 1) * pitch
    lean = float(rng.choice([0.0, 0.0, rng.normal(0, 12)]))
    for u in np.arange(start, reach, pitch):
        own = world.px(length_m) * rng.uniform(0.9, 1.1)
        tone = vary(rng, color, light=8)
        if make == "platform":
            _put_platform(world, float(u), shore, length=own, width=world.px(width_m), color=tone)
            continue
        local = Pose(u, shore - 0.48 * own, 90.0 + lean, own, world.px(width_m))
        if _put_local(world, local, tone) and boats:
            sizes = (0.8 * boat_m, 1.2 * boat_m)
            put_berths(world, local, sides=(-1, 1), kinds=kinds, length_m=sizes, taken=boats)
        if make != "finger":
            head = 0.6 * own
            shift = 0.0 if make == "tee" else 0.5 * head * rng.choice([-1, 1])
            end = local.points([[0.5, 0.0]])[0]
            across = Pose(float(end[0] + shift), float(end[1]), lean, head, world.px(width_m) * 0.9)
            _put_local(world, across, tone)
    put_afloat(world, -reach, shore, count=int(rng.integers(0, 8)), kinds=kinds)
    if world.chance(0.7):
        fill_land(world, (-reach, shore + world.px(6), reach, reach), port=world.chance(0.3))
    count = int(rng.integers(0, 80))
    put_trees(world, (-reach, shore, reach, reach), count=count, radius_m=(1, 5))


def _put_local(world: World, local: Pose, color: Color) -> bool:
    """Place a pier whose pose is in the frame."""
    pose = world.pose(
        local.x, local.y, heading_deg=local.heading_deg, length=local.length, width=local.width
    )
    return put_pier(world, pose, color)


def _put_platform(
    world: World, u: float, shore: float, *, length: float, width: float, color: Color
) -> None:
    """A pier along the shore, out on the water, with walkways that carry no label."""
    rng = world.rng
    out = max(width, world.px(rng.uniform(6, 60)))
    for part in np.linspace(-0.3, 0.3, int(rng.integers(1, 4))) * length:
        walk = world.frame.points([[u + part, shore], [u + part, shore - out]])
        world.canvas.stroke(walk, shade(color, 0.9), width_px=max(0.8, 0.18 * width))
    _put_local(world, Pose(u, shore - out, 0.0, length, width), color)


def _detailed(kind: ShipKind) -> ShipKind:
    """Return the kind with the small things that show on the decks of large ships."""

    def paint(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
        kind.paint(canvas, pose, rng, color)
        for _ in range(int(rng.integers(0, 50))):
            u, v = rng.uniform(-0.43, 0.36), rng.normal(0, 0.16)
            half = pose.width * np.array([rng.uniform(0.02, 0.16), rng.uniform(0.02, 0.1)])
            tone = shade(color, rng.choice([0.35, 0.6, 1.25, 1.6]))
            half_u, half_v = half / [pose.length, pose.width]
            box = [
                [u - half_u, v - half_v],
                [u + half_u, v - half_v],
                [u + half_u, v + half_v],
                [u - half_u, v + half_v],
            ]
            outline = pose.points(np.clip(box, -0.48, 0.4))
            canvas.shadow(outline, height_px=0.1 * pose.width * rng.uniform(0, 1), connected=True)
            canvas.fill(outline, tone)

    return kind._replace(paint=paint)


class _Fleet(NamedTuple):
    """Ships that lie in one port: their kinds, and the most that lie abreast."""

    kinds: tuple[ShipKind, ...]
    abreast: int


def _fleet(*names: str, abreast: int) -> _Fleet:
    return _Fleet(tuple(_detailed(SHIPS[name]) for name in names), abreast)


_FLEETS = (
    _fleet("warship", abreast=4),
    _fleet("warship", "warship", "warship", "carrier", abreast=3),
    _fleet("carrier", "warship", "freighter", abreast=1),
    _fleet("freighter", abreast=2),
    _fleet("freighter", "barge", "tug", abreast=2),
    _fleet("ferry", "ferry", "yacht", abreast=1),
    _fleet("barge", abreast=4),
    _fleet("warship", "ferry", "freighter", "tug", "yacht", abreast=2),
)


def draw_fleet(world: World) -> None:
    """Draw long ships at piers, alongside quays and at anchor, several abreast."""
    rng, reach = world.rng, world.reach
    world.start(_SHORES[rng.integers(5)])
    shore = rng.uniform(-0.1, 0.85) * reach
    _flood_below(world, shore=shore)
    world.surroundings = "in a port"
    fleet = _FLEETS[rng.integers(len(_FLEETS))]
    if world.chance(0.6):
        length_m = float(rng.uniform(120, 360))
        width_m = float(rng.uniform(8, 45))
        beams = sum(1.1 * _beam_m(kind, 0.7 * length_m) for kind in fleet.kinds)
        free_m = 2 * fleet.abreast * beams / len(fleet.kinds) * rng.uniform(0.6, 1.6)
        pitch = world.px(width_m + max(20.0, free_m))
        for u in np.arange(-reach + rng.uniform(0, 1) * pitch, reach, pitch):
            _put_long_pier(world, float(u), shore, fleet, length_m=length_m, width_m=width_m)
    else:
        position = -reach + rng.uniform(-0.5, 0.5) * reach
        while position < reach:
            length = _row(world, fleet, position, shore)
            position += length + world.px(rng.uniform(4, 50))
    for _ in range(int(rng.integers(0, 6))):
        kind = fleet.kinds[rng.integers(len(fleet.kinds))]
        put_ship(
            world,
            rng.uniform(-reach, reach),
            rng.uniform(-reach, shore),
            kind=kind,
            heading_deg=float(rng.uniform(0, 360)),
            margin_px=2.0,
            wake=world.chance(0.3),
        )
    if world.chance(0.8):
        fill_land(world, (-reach, shore + world.px(8), reach, reach), port=world.chance(0.8))


def _beam_m(kind: ShipKind, length_m: float) -> float:
    return min(length_m, kind.length_m[1]) / kind.aspect[0]


def _length_m(world: World, kind: ShipKind, *, most_m: float) -> float:
    low, high = kind.length_m
    return float(np.clip(world.rng.uniform(low, high), 0.5 * low, max(0.5 * low, most_m)))


def _abreast(
    world: World, fleet: _Fleet, most_m: float, *, out_px: float
) -> Iterator[tuple[ShipKind, float, float, float]]:
    """Yield ships side by side: kind, length in metres, beam and distance out in pixels."""
    rng = world.rng
    for _ in range(int(rng.integers(0, fleet.abreast + 1))):
        kind = fleet.kinds[rng.integers(len(fleet.kinds))]
        length_m = _length_m(world, kind, most_m=most_m)
        beam = world.px(length_m / float(rng.uniform(*kind.aspect)))
        yield kind, length_m, beam, out_px
        out_px += beam + world.px(rng.uniform(0.3, 2.0))


def _put_long_pier(
    world: World, u: float, shore: float, fleet: _Fleet, *, length_m: float, width_m: float
) -> None:
    """A pier at right angles to the shore, at times with a shed on it, ships on both sides."""
    rng = world.rng
    length, width = world.px(length_m), world.px(width_m)
    color = vary(rng, PIERS[rng.integers(len(PIERS))], light=10)
    local = Pose(u, shore - length / 2, 90.0, length, width)
    if not _put_local(world, local, color):
        return
    if width_m > 18 and world.chance(0.4):
        shed = world.pose(
            u, shore - length / 2, heading_deg=90.0, length=0.7 * length, width=0.5 * width
        )
        world.clear_under([shed.quad()])
        before, world.water = world.water, np.zeros_like(world.water)
        put_hall(world, shed)
        world.water = before
    for side in (-1, 1):
        along = shore - world.px(rng.uniform(2, 30))
        while along > shore - length:
            most = 0.0
            first = width / 2 + world.px(1.0)
            for kind, ship_m, beam, out in _abreast(world, fleet, 1.05 * length_m, out_px=first):
                put_ship(
                    world,
                    u + side * (out + beam / 2),
                    along - world.px(ship_m) / 2 + rng.normal(0, 0.02) * length,
                    kind=kind,
                    heading_deg=90.0 + 180.0 * rng.integers(2) + rng.normal(0, 0.4),
                    length_m=ship_m,
                    max_beam_px=beam,
                )
                most = max(most, world.px(ship_m))
            along -= most + world.px(rng.uniform(5, 40))


def _row(world: World, fleet: _Fleet, position: float, shore: float) -> float:
    """Ships abreast alongside the quay; returns the length of the longest in pixels."""
    rng = world.rng
    longest, most_m = 0.0, 2 * world.reach * world.gsd_m
    for kind, length_m, beam, out in _abreast(world, fleet, most_m, out_px=world.px(1.5)):
        put_ship(
            world,
            position + world.px(length_m / 2),
            shore - out - beam / 2,
            kind=kind,
            heading_deg=180.0 * rng.integers(2) + rng.normal(0, 0.4),
            length_m=length_m,
            max_beam_px=beam,
        )
        longest = max(longest, world.px(length_m))
    return longest or world.px(20)
