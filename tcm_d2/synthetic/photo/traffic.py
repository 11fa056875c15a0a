"""Placing of vehicles: single ones, traffic on a road, rows of stalls."""

from __future__ import annotations

import math

import numpy as np

from tcm_d2.synthetic.canvas import Color
from tcm_d2.synthetic.photo.colors import WHITE, pick, shade
from tcm_d2.synthetic.photo.vehicles import LARGE_MIX, SMALL_MIX, VEHICLES
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import Extent


def draw_kind(rng: np.random.Generator, mix: tuple[tuple[str, float], ...]) -> str:
    """Draw a kind of vehicle from a weighted list."""
    weights = np.array([weight for _, weight in mix])
    return mix[rng.choice(len(mix), p=weights / weights.sum())][0]


def put_vehicle(
    world: World,
    u: float,
    v: float,
    *,
    heading_deg: float,
    kind: str,
    size_m: tuple[float, float] | None = None,
    color: Color | None = None,
    margin_px: float = 0.4,
) -> bool:
    """Place a vehicle in the frame; without a size and a colour it draws them."""
    rng, what = world.rng, VEHICLES[kind]
    if size_m is None:
        size_m = float(rng.uniform(*what.length_m)), float(rng.uniform(*what.width_m))
    paint = pick(rng, what.paints) if color is None else color
    pose = world.pose(
        u, v, heading_deg=heading_deg, length=world.px(size_m[0]), width=world.px(size_m[1])
    )
    return world.put(
        what.name,
        pose,
        lambda: what.paint(world.canvas, pose, rng, paint),
        class_name=what.class_name,
        color=paint,
        margin_px=margin_px,
    )


def put_traffic(
    world: World,
    start_uv: tuple[float, float],
    stop_uv: tuple[float, float],
    *,
    lanes: int,
    width_px: float,
    spacing_m: float,
    large_part: float,
) -> None:
    """Place vehicles on the lanes of a straight road, half of them in each direction."""
    rng = world.rng
    start, stop = np.array(start_uv), np.array(stop_uv)
    length = float(np.hypot(*(stop - start)))
    if length < 1:
        return
    step = (stop - start) / length
    right = np.array([-step[1], step[0]])
    heading = math.degrees(math.atan2(-step[1], step[0]))
    for lane in range(lanes):
        offset = (lane + 0.5) / lanes - 0.5
        turn = 0.0 if offset > 0 else 180.0
        along = rng.uniform(0, world.px(spacing_m))
        while along < length:
            kind = draw_kind(rng, LARGE_MIX if world.chance(large_part) else SMALL_MIX)
            u, v = start + step * along + right * offset * width_px
            put_vehicle(world, u, v, heading_deg=heading + turn + rng.normal(0, 1.5), kind=kind)
            along += world.px(8 + spacing_m * rng.uniform(0.2, 2.0))


def park_rows(world: World, block: Extent, *, kinds: tuple[tuple[str, float], ...]) -> None:
    """Fill a block with rows of stalls: dense or half empty, lines or none, one or many kinds."""
    rng = world.rng
    u0, v0, u1, v1 = block
    lead = draw_kind(rng, kinds)
    uniform = VEHICLES[lead].class_name == "large-vehicle" and world.chance(0.6)
    fleet = uniform or world.chance(0.1)
    size_m = (
        float(rng.uniform(*VEHICLES[lead].length_m)),
        float(rng.uniform(*VEHICLES[lead].width_m)),
    )
    paints = [pick(rng, VEHICLES[lead].paints) for _ in range(2)]
    depth = world.px(size_m[0] * rng.uniform(1.04, 1.3))
    pitch = world.px(size_m[1] * rng.uniform(1.12, 1.6))
    aisle = world.px(rng.uniform(0.6, 1.6) * min(size_m[0], 9.0))
    along_u = bool(rng.random() < 0.5)
    a0, a1, b0, b1 = (u0, u1, v0, v1) if along_u else (v0, v1, u0, u1)
    if a1 - a0 < 1.5 * pitch or b1 - b0 < depth:
        return
    taken = float(rng.choice([rng.uniform(0.1, 0.5), rng.uniform(0.5, 0.9), 0.97]))
    slant = float(rng.choice([0.0, 0.0, 0.0, 0.0, rng.uniform(-35, 35)]))
    lines, line_alpha = world.chance(0.75), rng.uniform(0.3, 0.95)
    line_color = WHITE if world.chance(0.8) else (206, 178, 70)
    double = world.chance(0.7)
    same_way = world.chance(0.35)
    jitter = rng.choice([0.02, 0.04, 0.12])
    b, row = b0 + 0.5 * depth, 0
    while b + 0.5 * depth <= b1 + 1:
        side = 1.0 if row % 2 else -1.0
        for a in np.arange(a0 + 0.6 * pitch, a1 - 0.5 * pitch, pitch):
            if lines:
                shift = math.tan(math.radians(slant)) * 0.5 * depth
                ends = [
                    [a - pitch / 2 - shift, b - depth / 2],
                    [a - pitch / 2 + shift, b + depth / 2],
                ]
                ends = ends if along_u else [end[::-1] for end in ends]
                world.canvas.stroke(
                    world.frame.points(ends),
                    line_color,
                    width_px=max(0.5, world.px(0.12)),
                    alpha=line_alpha,
                )
            if not world.chance(taken):
                continue
            nose = 90.0 * side * (1 if same_way or world.chance(0.75) else -1) + slant
            heading = (nose if along_u else nose + 90.0) + rng.normal(0, 40 * jitter**1.5 + 0.6)
            shifted = b + rng.normal(0, jitter) * depth * 0.5
            u, v = (a, shifted) if along_u else (shifted, a)
            put_vehicle(
                world,
                u,
                v,
                heading_deg=heading,
                kind=lead if uniform else draw_kind(rng, kinds),
                size_m=size_m if uniform else None,
                color=shade(paints[0 if world.chance(0.8) else 1], rng.uniform(0.93, 1.06))
                if fleet
                else None,
                margin_px=-0.3,
            )
        row += 1
        b += depth if double and row % 2 else depth + aisle
