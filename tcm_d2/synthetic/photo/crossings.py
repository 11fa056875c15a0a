"""Scenes of landmarks on the road: bridges over water and over roads, roundabouts."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import Pose, blob, ellipse
from tcm_d2.synthetic.photo import plants, town
from tcm_d2.synthetic.photo.buildings import put_trees
from tcm_d2.synthetic.photo.colors import WHITE, shade, vary
from tcm_d2.synthetic.photo.country import cover_fields, paint_road, put_bridge
from tcm_d2.synthetic.photo.harbours import put_ship
from tcm_d2.synthetic.photo.traffic import put_traffic
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import split_blocks
from tcm_d2.synthetic.surroundings import strip

_BRIDGES = ("bridge",) * 8 + ("railway bridge", "suspension bridge", "truss bridge", "footbridge")
_GRASSES = ("grass", "scrub", "forest", "dry", "soil", "lawn")
# Roads that would cross a channel at a flatter angle are left out, degrees.
_MIN_CROSSING_DEG = 40.0


class _Channel(NamedTuple):
    """What bridges lead over: its middle in the frame (P, 2), its width, whether it is water."""

    middle: np.ndarray
    width_px: float
    is_water: bool

    def banks(self) -> np.ndarray:
        """Return its outline in the frame."""
        step = np.gradient(self.middle, axis=0)
        side = np.stack([-step[:, 1], step[:, 0]], 1) / np.hypot(*step.T)[:, None]
        half = side * self.width_px / 2
        return np.concatenate([self.middle + half, (self.middle - half)[::-1]])

    def crossings(self, start: np.ndarray, ahead: np.ndarray) -> list[tuple[float, float]]:
        """Return where a line meets the middle, in pixels from its start, and the sines there."""
        right = np.array([-ahead[1], ahead[0]])
        beside = (self.middle - start) @ right
        met = []
        for at in np.nonzero(beside[1:] * beside[:-1] < 0)[0]:
            part = beside[at] / (beside[at] - beside[at + 1])
            step = self.middle[at + 1] - self.middle[at]
            where = self.middle[at] + part * step - start
            met.append((float(where @ ahead), float(abs(step @ right) / np.hypot(*step))))
        return met


def _draw_channel(world: World, *, turn: float, is_water: bool) -> _Channel:
    rng, reach = world.rng, world.reach
    if is_water:
        width_m = float(rng.choice([rng.uniform(4, 14), rng.uniform(10, 50), rng.uniform(40, 260)]))
    else:
        width_m = float(rng.uniform(8, 40))
    width = min(world.px(width_m), 1.1 * reach)
    along = np.linspace(-2.2 * reach, 2.2 * reach, 70)
    bend = rng.uniform(0, 0.16) * reach * is_water
    across = rng.uniform(-0.55, 0.55) * reach + bend * np.sin(
        along / reach * rng.uniform(0.8, 2.5) + rng.uniform(0, 6)
    )
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return _Channel(np.stack([along, across], 1) @ spin, width, is_water)


def _fill_land(world: World) -> None:
    """Fields, or blocks of a town, over the whole image."""
    rng, reach = world.rng, world.reach
    whole = (-reach, -reach, reach, reach)
    if world.chance(0.45):
        cover_fields(world, max_m=float(rng.uniform(60, 300)))
    elif world.chance(0.7):
        side = world.px(rng.uniform(60, 140))
        fillers = (
            town.fill_houses, town.fill_halls, town.fill_park, town.fill_park, plants.fill_works
        )  # fmt: skip
        for extent in split_blocks(rng, whole, min_side=0.5 * side, max_side=1.3 * side):
            fillers[rng.integers(len(fillers))](world, extent)


def draw_bridges(world: World) -> None:
    """Draw roads on bridges over canals, rivers and motorways."""
    rng, reach = world.rng, world.reach
    world.start(_GRASSES[rng.integers(len(_GRASSES))])
    _fill_land(world)
    turn = float(rng.uniform(-0.2, 0.2))
    channels = []
    for index in range(int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))):
        own = turn + (np.pi / 2 + rng.normal(0, 0.3) if index and world.chance(0.3) else 0.0)
        channels.append(_draw_channel(world, turn=own, is_water=world.chance(0.8)))
    for channel in channels:
        outline = world.frame.points(channel.banks())
        world.clear_under([outline])
        if channel.is_water:
            world.flood([outline], shore=world.chance(0.6))
    for channel in channels:
        if channel.is_water:
            continue
        ends = channel.middle[[0, -1]].tolist()
        lanes = max(2, round(channel.width_px * world.gsd_m / 5))
        width_m = channel.width_px * world.gsd_m
        paint_road(world, ends, width_m=width_m, color=world.asphalt, lanes=lanes)
        _drive(world, ends, lanes=lanes, width_px=0.9 * channel.width_px)
    pitch = min(world.px(rng.uniform(50, 220)), 0.9 * reach)
    lean = turn + np.pi / 2 + float(rng.choice([0.0, rng.normal(0, 0.25)]))
    for along in np.arange(-reach + rng.uniform(0, 1) * pitch, reach, pitch):
        slant = lean + float(rng.choice([0.0, 0.0, rng.normal(0, 0.12)]))
        _draw_crossing_road(world, channels, np.array([along, 0.0]), slant)
    _draw_ships(world, channels)
    count = int(rng.integers(0, 120))
    put_trees(world, (-reach, -reach, reach, reach), count=count, radius_m=(1.5, 6))


def _draw_crossing_road(
    world: World, channels: list[_Channel], start: np.ndarray, turn: float
) -> None:
    """Draw a straight road through a point of the frame, on a bridge over each channel."""
    rng = world.rng
    name = _BRIDGES[rng.integers(len(_BRIDGES))]
    deck_m = 3.0 if name == "footbridge" else float(rng.choice([5, 7, 9, 12, 16, 24]))
    ahead = np.array([np.cos(turn), np.sin(turn)])
    color = world.asphalt if world.chance(0.6) else world.concrete
    color = vary(rng, color, light=14)
    twin = world.px(deck_m + rng.uniform(1, 12)) if world.chance(0.15) else 0.0
    for offset in (0.0, twin) if twin else (0.0,):
        origin = start + offset * np.array([-ahead[1], ahead[0]])
        far = 3.0 * world.reach
        ends = [(origin - far * ahead).tolist(), (origin + far * ahead).tolist()]
        spans, flat = [], False
        for channel in channels:
            for middle, sine in channel.crossings(origin, ahead):
                half = (channel.width_px / sine + world.px(rng.uniform(1, 12))) / 2
                spans.append((middle - half, middle + half))
                flat |= sine < np.sin(np.radians(_MIN_CROSSING_DEG))
        spans.sort()
        if not spans or flat or any(a[1] > b[0] for a, b in itertools.pairwise(spans)):
            continue
        world.clear_under([strip(*world.frame.points(ends), width_px=1.1 * world.px(deck_m))])
        knots = [-far, *(edge for span in spans for edge in span), far]
        for low, high in zip(knots[::2], knots[1::2]):
            line = [(origin + low * ahead).tolist(), (origin + high * ahead).tolist()]
            paint_road(world, line, width_m=0.82 * deck_m, color=world.asphalt, lanes=2)
        for low, high in spans:
            u, v = origin + 0.5 * (low + high) * ahead
            pose = world.pose(
                u, v, heading_deg=-np.degrees(turn), length=high - low, width=world.px(deck_m)
            )
            put_bridge(world, pose, name=name, color=color)
        if name not in ("footbridge", "railway bridge"):
            _drive(world, ends, lanes=2, width_px=0.6 * world.px(deck_m))


def _drive(world: World, ends: list, *, lanes: int, width_px: float) -> None:
    """Traffic along a road, whatever it leads over."""
    world.surroundings = "on a road"
    before, world.canvas.occupied = world.canvas.occupied, np.zeros_like(world.canvas.occupied)
    water, world.water = world.water, np.zeros_like(world.water)
    put_traffic(
        world,
        tuple(ends[0]),
        tuple(ends[1]),
        lanes=lanes,
        width_px=width_px,
        spacing_m=float(world.rng.choice([15.0, 40.0, 120.0])),
        large_part=0.2,
    )
    world.canvas.occupied, world.water = before | world.canvas.occupied, water


def _draw_ships(world: World, channels: list[_Channel]) -> None:
    rng = world.rng
    world.surroundings = "on a river"
    for channel in channels:
        if not channel.is_water or channel.width_px < world.px(12):
            continue
        for _ in range(int(rng.integers(0, 6))):
            at = int(rng.integers(1, len(channel.middle) - 1))
            step = channel.middle[at + 1] - channel.middle[at]
            heading = -np.degrees(np.arctan2(step[1], step[0])) + 180.0 * rng.integers(2)
            put_ship(
                world,
                *(channel.middle[at] + rng.normal(0, 0.15, 2) * channel.width_px),
                kind=("barge", "motor boat", "open boat", "ferry")[rng.integers(4)],
                heading_deg=float(heading + rng.normal(0, 5)),
                wake=world.chance(0.4),
                margin_px=1.0,
            )


def draw_roundabouts(world: World) -> None:
    """Draw one to four roundabouts of many makes along a road, with what stands around them."""
    rng, reach = world.rng, world.reach
    world.start((*_GRASSES, "concrete")[rng.integers(7)])
    _fill_land(world)
    road_m = float(rng.uniform(6, 18))
    lanes = 2 if road_m < 11 else 4
    pitch = world.px(rng.uniform(70, 260))
    nodes = np.arange(rng.uniform(-0.5, 0.5) * pitch - pitch, 1.1 * reach, pitch)[:4]
    arms = [(np.array([-3.0 * reach, 0.0]), np.array([3.0 * reach, 0.0]))]
    for u in nodes:
        for turn in rng.choice([60.0, 90.0, 120.0, 240.0, 270.0, 300.0], rng.integers(1, 4)):
            angle = np.radians(turn + rng.normal(0, 12))
            far = np.array([u, 0.0]) + 3.0 * reach * np.array([np.cos(angle), np.sin(angle)])
            arms.append((np.array([u, 0.0]), far))
    for arm in arms:
        ends = world.frame.points(np.stack(arm))
        world.clear_under([strip(*ends, width_px=1.3 * world.px(road_m))])
    for start, end in arms:
        paint_road(
            world,
            [start.tolist(), end.tolist()],
            width_m=road_m,
            color=world.asphalt,
            lanes=lanes,
        )
    for u in nodes:
        diameter = min(road_m * float(rng.uniform(1.9, 4.5)), 0.65 * pitch * world.gsd_m)
        side = world.px(diameter)
        pose = world.pose(u, 0, heading_deg=-world.frame.angle_deg, length=side, width=side)
        world.clear_under([pose.quad()])
        world.put(
            "roundabout",
            pose,
            lambda pose=pose: paint_roundabout(world.canvas, pose, rng, road=world.asphalt),
            class_name="roundabout",
            over=True,
        )
    world.surroundings = "at a crossing"
    spacing = float(rng.choice([12.0, 40.0, 110.0]))
    for start, end in arms:
        put_traffic(
            world,
            tuple(start),
            tuple(end),
            lanes=lanes,
            width_px=0.85 * world.px(road_m),
            spacing_m=spacing,
            large_part=0.15,
        )
    count = int(rng.integers(0, 120))
    put_trees(world, (-reach, -reach, reach, reach), count=count, radius_m=(1.2, 5))


def _disc(center: tuple[float, float], radius: float) -> np.ndarray:
    return ellipse(center=center, radii=(radius, radius), num=40)


def paint_roundabout(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, road: Color) -> None:
    """Paint a ring road and its island: grass, beds, trees, paving, a pond, or next to nothing."""
    kerb = vary(rng, (186, 182, 172), light=24)
    rim = rng.random() < 0.6
    canvas.fill(pose.points(_disc((0, 0), 0.5)), kerb if rim else road)
    canvas.fill(pose.points(_disc((0, 0), 0.5 - rng.uniform(0.008, 0.025))), road)
    for radius in rng.uniform(0.3, 0.48, rng.integers(0, 3)):
        ring = pose.points(_disc((0, 0), radius))
        canvas.stroke(ring, WHITE, width_px=0.5, closed=True, alpha=rng.uniform(0.1, 0.6))
    inner = rng.uniform(0.12, 0.4)
    apron = inner + rng.uniform(0.0, 0.05)
    tones: tuple[Color, ...] = (
        (86, 118, 60),
        (104, 116, 70),
        (134, 132, 92),
        (162, 134, 100),
        (176, 172, 160),
        shade(road, 1.15),
    )
    island = vary(rng, tones[rng.choice(6, p=[0.32, 0.2, 0.16, 0.14, 0.1, 0.08])], light=18)
    canvas.fill(pose.points(_disc((0, 0), apron)), kerb)
    canvas.fill(pose.points(_disc((0, 0), inner)), island)
    for radius in np.sort(rng.uniform(0.2, 0.85, rng.integers(0, 3)))[::-1] * inner:
        tone = vary(rng, tones[rng.integers(5)], light=18)
        canvas.fill(pose.points(_disc((0, 0), radius)), tone, alpha=rng.uniform(0.5, 1.0))
    if rng.random() < 0.12:
        canvas.fill(pose.points(_disc((0, 0), 0.5 * inner)), (70, 120, 140))
    for _ in range(int(rng.choice([0, 0, rng.integers(1, 5), rng.integers(4, 30)]))):
        size = rng.uniform(0.03, 0.14) * min(1.0, 3 * inner)
        turn, out = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1.05 * inner)
        crown = pose.points(
            blob(rng, roughness=0.2, radii=(size, size)) + [out * np.cos(turn), out * np.sin(turn)]
        )
        canvas.shadow(crown, height_px=0.7 * size * pose.length)
        canvas.fill(crown, vary(rng, (62, 88, 48), light=22))
