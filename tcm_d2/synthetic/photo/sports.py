"""Blocks of sports grounds: courts, fields, tracks, diamonds, pools."""

from __future__ import annotations

import math
from collections.abc import Callable

from tcm_d2.synthetic.canvas import Color
from tcm_d2.synthetic.geometry import Pose
from tcm_d2.synthetic.photo import courts
from tcm_d2.synthetic.photo.buildings import put_hall, put_trees
from tcm_d2.synthetic.photo.colors import CONCRETE, COURT_PAINTS, pick, vary
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import Extent


def _size(extent: Extent) -> tuple[float, float]:
    return extent[2] - extent[0], extent[3] - extent[1]


def _centre(extent: Extent) -> tuple[float, float]:
    return (extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2


def _line_alpha(world: World) -> float:
    """Lines are fresh, worn or gone."""
    return float(
        world.rng.choice(
            [world.rng.uniform(0.5, 1.0), world.rng.uniform(0.1, 0.5), 0.0], p=[0.7, 0.22, 0.08]
        )
    )


def _fill_courts(
    world: World,
    extent: Extent,
    *,
    name: str,
    size_m: tuple[float, float],
    gaps_m: tuple[float, float],
    surround: Color,
    color: Color,
    paint: Callable[[Pose], None],
) -> None:
    """Fill a block with a grid of equal courts on one surface, or on one each."""
    rng = world.rng
    width, height = _size(extent)
    along_u = bool(rng.random() < 0.5)
    length, short = world.px(size_m[0]), world.px(size_m[1])
    pitch_a, pitch_b = length + world.px(gaps_m[0]), short + world.px(gaps_m[1])
    room_a, room_b = (width, height) if along_u else (height, width)
    rows = int(min(room_a // pitch_a, rng.integers(1, 4)))
    columns = int(min(room_b // pitch_b, rng.integers(1, 7)))
    if rows < 1 or columns < 1:
        put_trees(world, extent, count=int(rng.integers(3, 14)), radius_m=(1.5, 4))
        return
    centre_u, centre_v = _centre(extent)
    half = (rows * pitch_a / 2, columns * pitch_b / 2)
    half_u, half_v = half if along_u else half[::-1]
    lot = (centre_u - half_u, centre_v - half_v, centre_u + half_u, centre_v + half_v)
    separate = world.chance(0.3)
    if not separate:
        world.pave(world.frame.rect(*lot), surround)
    fence = world.chance(0.6)
    for row in range(rows):
        for column in range(columns):
            a = (row + 0.5 - rows / 2) * pitch_a
            b = (column + 0.5 - columns / 2) * pitch_b
            u, v = (centre_u + a, centre_v + b) if along_u else (centre_u + b, centre_v + a)
            turn = 0.0 if along_u else 90.0
            pose = world.pose(u, v, heading_deg=turn, length=length, width=short)
            if separate:
                own = world.pose(
                    u, v, heading_deg=turn, length=0.97 * pitch_a, width=0.95 * pitch_b
                )
                world.pave(own.quad(), surround)
            world.put(
                name,
                pose,
                lambda pose=pose: paint(pose),
                class_name=name.replace(" ", "-"),
                color=color,
                margin_px=0.0,
            )
    if fence:
        quad = world.frame.rect(*lot)
        tall = world.px(3) * 0.5
        world.canvas.stroke(
            quad + world.sun_xy * tall, (20, 24, 26), width_px=tall, closed=True, alpha=0.2
        )
        world.canvas.stroke(
            quad, (60, 66, 64), width_px=max(0.5, world.px(0.2)), closed=True, alpha=0.7
        )
    world.canvas.reserve(world.frame.rect(*lot))


def fill_tennis(world: World, extent: Extent) -> None:
    """Fill a block with tennis courts."""
    rng = world.rng
    color = pick(rng, COURT_PAINTS)
    surround = color if world.chance(0.35) else pick(rng, COURT_PAINTS)
    alpha = max(0.25, _line_alpha(world))
    _fill_courts(
        world,
        extent,
        name="tennis court",
        size_m=(23.8, 11.0),
        gaps_m=(rng.uniform(6, 13), rng.uniform(4, 9)),
        surround=surround,
        color=color,
        paint=lambda pose: courts.paint_tennis_court(
            world.canvas, pose, rng, color=color, line_alpha=alpha
        ),
    )


def fill_basketball(world: World, extent: Extent) -> None:
    """Fill a block with basketball courts."""
    rng = world.rng
    color, keys = pick(rng, COURT_PAINTS), pick(rng, COURT_PAINTS)
    keys = color if world.chance(0.3) else keys
    surround = (
        color if world.chance(0.4) else pick(rng, COURT_PAINTS if world.chance(0.5) else CONCRETE)
    )
    alpha = max(0.2, _line_alpha(world))
    length = rng.uniform(24, 28.7)
    _fill_courts(
        world,
        extent,
        name="basketball court",
        size_m=(length, length * rng.uniform(0.52, 0.58)),
        gaps_m=(rng.uniform(1.5, 6), rng.uniform(1, 5)),
        surround=surround,
        color=color,
        paint=lambda pose: courts.paint_basketball_court(
            world.canvas, pose, rng, color=color, keys=keys, line_alpha=alpha
        ),
    )


def _fitted(world: World, extent: Extent, *, size_m: tuple[float, float]) -> Pose | None:
    """Return a pose in the middle of a block along its longer side, None without room."""
    width, height = _size(extent)
    length, short = world.px(size_m[0]), world.px(size_m[1])
    factor = min(1.0, max(width, height) / length, min(width, height) / short)
    if factor < 0.55:
        return None
    heading = (
        (0.0 if width >= height else 90.0)
        + 180.0 * world.rng.integers(2)
        + world.rng.normal(0, 1.5)
    )
    u, v = _centre(extent)
    return world.pose(u, v, heading_deg=heading, length=length * factor, width=short * factor)


def fill_soccer(world: World, extent: Extent) -> None:
    """Fill a block with a soccer field."""
    rng = world.rng
    length = rng.choice([rng.uniform(88, 115), rng.uniform(40, 75)], p=[0.7, 0.3])
    pose = _fitted(world, extent, size_m=(length, length * rng.uniform(0.56, 0.72)))
    if pose is None:
        fill_basketball(world, extent)
        return
    alpha = _line_alpha(world)
    world.put(
        "soccer field",
        pose,
        lambda: courts.paint_soccer_field(world.canvas, pose, rng, line_alpha=alpha),
        class_name="soccer-ball-field",
    )


def fill_track(world: World, extent: Extent) -> None:
    """Fill a block with a running track, mostly around a soccer field."""
    rng = world.rng
    pose = _fitted(world, extent, size_m=(rng.uniform(150, 185), rng.uniform(82, 98)))
    if pose is None:
        fill_soccer(world, extent)
        return
    band = [0.0]

    def paint() -> None:
        band[0] = courts.paint_track(world.canvas, pose, rng)

    placed = world.put("running track", pose, paint, class_name="ground-track-field")
    if not placed or not world.chance(0.75):
        return
    radius = pose.width / 2 - band[0]
    half_width = 0.84 * radius
    half_length = 0.96 * (pose.length / 2 - pose.width / 2 + math.sqrt(radius**2 - half_width**2))
    half_length = min(half_length, rng.uniform(1.5, 1.8) * half_width)
    field = Pose(pose.x, pose.y, pose.heading_deg, 2 * half_length, 2 * half_width)
    alpha = _line_alpha(world)
    world.put(
        "soccer field",
        field,
        lambda: courts.paint_soccer_field(world.canvas, field, rng, line_alpha=alpha),
        class_name="soccer-ball-field",
        over=True,
    )


def fill_pitches(world: World, extent: Extent) -> None:
    """Fill a block with equal soccer fields side by side on one lawn, with faint lines or none."""
    rng = world.rng
    length = rng.choice([rng.uniform(88, 112), rng.uniform(45, 75), rng.uniform(25, 45)])
    short = length * rng.uniform(0.56, 0.7)
    along_u = world.chance(0.5)
    room = _size(extent) if along_u else _size(extent)[::-1]
    gap = world.px(rng.uniform(2, 14))
    pitch = (world.px(length) + gap, world.px(short) + gap)
    rows, columns = (int(min(free // step, 3)) for free, step in zip(room, pitch))
    if rows < 1 or columns < 1:
        fill_soccer(world, extent)
        return
    u, v = _centre(extent)
    alpha = _line_alpha(world)
    for row in range(rows):
        for column in range(columns):
            shift = ((row + 0.5 - rows / 2) * pitch[0], (column + 0.5 - columns / 2) * pitch[1])
            if not along_u:
                shift = shift[::-1]
            pose = world.pose(
                u + shift[0],
                v + shift[1],
                heading_deg=0.0 if along_u else 90.0,
                length=world.px(length),
                width=world.px(short),
            )
            world.put(
                "soccer field",
                pose,
                lambda pose=pose: courts.paint_soccer_field(
                    world.canvas, pose, rng, line_alpha=alpha
                ),
                class_name="soccer-ball-field",
            )
    put_trees(world, extent, count=int(rng.integers(0, 24)), radius_m=(1.5, 5))


def fill_stadium(world: World, extent: Extent) -> None:
    """Fill a block with a running track, at times with stands along a side of it."""
    u0, v0, u1, v1 = extent
    width, height = _size(extent)
    if not world.chance(0.5):
        fill_track(world, extent)
        return
    depth = 0.09 * min(width, height)
    if width >= height:
        inner, middle = (u0, v0 + depth, u1, v1), ((u0 + u1) / 2, v0 + 0.45 * depth)
    else:
        inner, middle = (u0 + depth, v0, u1, v1), (u0 + 0.45 * depth, (v0 + v1) / 2)
    fill_track(world, inner)
    stands = world.pose(
        *middle,
        heading_deg=0.0 if width >= height else 90.0,
        length=world.rng.uniform(0.3, 0.7) * max(width, height),
        width=0.8 * depth,
    )
    put_hall(world, stands)


def fill_diamonds(world: World, extent: Extent) -> None:
    """Fill a block with one baseball field, or with a clover of two or four."""
    rng = world.rng
    u0, v0 = extent[:2]
    side = world.px(rng.uniform(26, 46))
    width, height = _size(extent)
    columns, rows = (2 if width > 4.2 * side else 1), (2 if height > 4.2 * side else 1)
    cell_u, cell_v = width / columns, height / rows
    reach = min(rng.uniform(2.2, 3.0), 0.92 * min(cell_u, cell_v) / side)
    if reach < 1.05:
        fill_tennis(world, extent)
        return
    for column in range(columns):
        for row in range(rows):
            sign_u = 1 if (column == 1 if columns == 2 else world.chance(0.5)) else -1
            sign_v = 1 if (row == 1 if rows == 2 else world.chance(0.5)) else -1
            home_u = u0 + (column + 0.5) * cell_u - sign_u * 0.5 * reach * side
            home_v = v0 + (row + 0.5) * cell_v - sign_v * 0.5 * reach * side
            heading = {(1, 1): 0.0, (1, -1): 90.0, (-1, -1): 180.0, (-1, 1): 270.0}[sign_u, sign_v]
            pose = world.pose(
                home_u + sign_u * side / 2,
                home_v + sign_v * side / 2,
                heading_deg=heading,
                length=side,
                width=side,
            )

            def paint(pose: Pose = pose) -> None:
                if reach > 1.25:
                    courts.paint_outfield(world.canvas, pose, rng, reach=reach)
                courts.paint_baseball_diamond(world.canvas, pose, rng)

            if world.put("baseball diamond", pose, paint, class_name="baseball-diamond"):
                outfield = pose.points(
                    [
                        [-0.5, -0.5],
                        [reach - 0.5, -0.5],
                        [reach - 0.5, reach - 0.5],
                        [-0.5, reach - 0.5],
                    ]
                )
                world.canvas.reserve(outfield)


def put_pool(
    world: World,
    u: float,
    v: float,
    *,
    size_m: tuple[float, float],
    style: str,
    heading_deg: float = 0.0,
) -> bool:
    """Place a swimming pool with a deck around it."""
    rng, canvas = world.rng, world.canvas
    pose = world.pose(
        u, v, heading_deg=heading_deg, length=world.px(size_m[0]), width=world.px(size_m[1])
    )
    deck_color = vary(
        rng,
        ((212, 206, 192), (182, 162, 140), (196, 196, 192), (150, 142, 132))[rng.integers(4)],
        light=12,
    )

    def paint() -> None:
        deck = pose.grown(world.px(rng.uniform(0.6, 3.5)))
        outline = deck.quad()
        if style in ("kidney", "oval") and rng.random() < 0.5:
            outline = deck.points(courts.ellipse(num=26) * 1.05)
        canvas.fill(outline, deck_color)
        courts.paint_pool(canvas, pose, rng, style=style)
        for _ in range(int(rng.integers(0, 6))):  # loungers and parasols
            side = rng.choice([-1, 1])
            x, y = pose.points(
                [[rng.uniform(-0.5, 0.5), side * (0.5 + world.px(1.2) / pose.width)]]
            )[0]
            canvas.disc(
                x, y, max(0.5, world.px(rng.uniform(0.4, 1.2))), WHITE_OR_BLUE[rng.integers(3)]
            )

    return world.put("swimming pool", pose, paint, class_name="swimming-pool")


WHITE_OR_BLUE: tuple[Color, ...] = ((240, 240, 238), (210, 206, 190), (70, 110, 160))


def fill_bath(world: World, extent: Extent) -> None:
    """Fill a block with a public bath: large pools on a deck, lawn, a building."""
    rng = world.rng
    width, height = _size(extent)
    number = int(rng.integers(1, 4))
    pitch = width / number
    for index in range(number):
        length = rng.choice([25.0, 50.0, rng.uniform(10, 30)])
        short = length * rng.uniform(0.35, 0.75)
        if world.px(length) > 0.9 * pitch or world.px(short) > 0.8 * height:
            length, short = rng.uniform(7, 14), rng.uniform(4, 7)
        style = "lanes" if length in (25.0, 50.0) else rng.choice(["kidney", "tee", "rect", "oval"])
        put_pool(
            world,
            extent[0] + (index + 0.5) * pitch,
            _centre(extent)[1] + rng.normal(0, 0.08) * height,
            size_m=(float(length), float(short)),
            style=str(style),
        )
    hall = world.pose(
        _centre(extent)[0],
        extent[3] - 0.1 * height,
        heading_deg=0.0,
        length=0.5 * width,
        width=0.15 * height,
    )
    put_hall(world, hall)
    put_trees(world, extent, count=int(rng.integers(0, 16)), radius_m=(1.5, 5))
