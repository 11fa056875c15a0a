"""Scenes on land: parking lots, suburbs with pools, tank farms."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic import facilities
from tcm_d2.synthetic.facilities import COURT_COLORS, WHITE
from tcm_d2.synthetic.geometry import ellipse
from tcm_d2.synthetic.scene import Extent, Scene, split_blocks
from tcm_d2.synthetic.surroundings import (
    HALL_COLORS,
    paint_hall,
    paint_house,
    paint_lot,
    paint_road,
    paint_slab_joints,
    paint_tree,
    paint_trees,
)


def draw_parking(scene: Scene) -> None:
    """Draw car parks and truck yards between halls and a road with traffic."""
    rng, reach = scene.rng, scene.reach
    scene.prepare(("grass", "urban", "dry")[rng.choice(3, p=[0.4, 0.35, 0.25])])
    canvas, frame = scene.canvas, scene.frame
    car_long = scene.class_size("small-vehicle")[0]
    scene.gsd_m = 4.7 / car_long
    road_v = rng.uniform(-0.75, -0.45) * reach
    road_width = 2.1 * scene.class_size("large-vehicle")[1] + 8
    _traffic_road(scene, (-reach, road_v), (reach, road_v), width_px=road_width)
    below = (-reach, road_v + 0.7 * road_width + 6, reach, reach)
    above = (-reach, -reach, reach, road_v - 0.7 * road_width - 6)
    side = 9.5 * car_long
    kinds = ("cars", "trucks", "cars", "hall", "trucks")
    turn = int(rng.integers(len(kinds)))
    for area in (below, above):
        if area[3] - area[1] < 2 * car_long:
            continue
        for u0, v0, u1, v1 in split_blocks(rng, area, min_side=0.5 * side, max_side=1.3 * side):
            block = (u0 + 5, v0 + 5, u1 - 5, v1 - 5)
            kind = kinds[turn % len(kinds)]
            turn += 1
            if kind == "hall" and scene.chance(0.8):
                pose = scene.pose(
                    (u0 + u1) / 2,
                    (v0 + v1) / 2,
                    heading_deg=0,
                    length=0.8 * (u1 - u0),
                    width=0.8 * (v1 - v0),
                )
                paint_hall(canvas, pose, rng)
                continue
            paint_lot(canvas, frame, block, color=scene.road_color)
            paint_slab_joints(canvas, frame, block, step_px=60.0, rng=rng)
            if kind == "trucks":
                _parking_rows(scene, block, class_name="large-vehicle")
            else:
                _parking_rows(scene, block, class_name="small-vehicle")
    paint_trees(canvas, rng, count=int(45 * (reach / 256) ** 2), radius_px=(6, 15), clusters=8)


def _traffic_road(
    scene: Scene, start: tuple[float, float], stop: tuple[float, float], *, width_px: float
) -> None:
    """Paint a road with traffic on it; it counts as taken afterwards."""
    points = scene.frame.points([start, stop])
    before = scene.canvas.occupied.copy()
    paint_road(scene.canvas, points, width_px=width_px, color=scene.road_color, lanes=2)
    road = scene.canvas.occupied
    scene.canvas.occupied = before
    spacing = 4.5 * scene.class_size("small-vehicle")[0]
    scene.traffic(start, stop, lane_px=width_px / 2, spacing_px=spacing, truck_part=0.2)
    scene.canvas.occupied |= road


def _parking_rows(scene: Scene, block: Extent, *, class_name: str) -> None:
    """Fill a block with double rows of stalls and the aisles between them."""
    rng = scene.rng
    u0, v0, u1, v1 = block
    length, width = scene.class_size(class_name)
    depth, pitch = 1.12 * length, width * rng.uniform(1.28, 1.5)
    aisle = rng.uniform(1.2, 1.5) * min(length, 2.2 * width) + 0.2 * length
    along_u = (u1 - u0) > (v1 - v0)
    a0, a1, b0, b1 = (u0, u1, v0, v1) if along_u else (v0, v1, u0, u1)
    taken = rng.uniform(0.6, 1.0) * scene.config.density
    slant = rng.choice([0.0, 0.0, 0.0, 25.0, -25.0])
    style = (None, "bus", "trailer", "box")[rng.choice(4, p=[0.3, 0.3, 0.25, 0.15])]
    b, row = b0 + 0.6 * depth, 0
    while b + 0.55 * depth < b1:
        line_ends = (b - depth / 2, b + depth / 2)
        side = 1 if row % 2 else -1
        for a in np.arange(a0 + pitch, a1 - 0.7 * pitch, pitch):
            ends = [[a - pitch / 2, line_ends[0]], [a - pitch / 2, line_ends[1]]]
            if not along_u:
                ends = [end[::-1] for end in ends]
            if slant == 0.0:
                scene.canvas.stroke(scene.frame.points(ends), WHITE, width_px=0.7, alpha=0.65)
            if not scene.chance(taken):
                continue
            nose = 90.0 * side * (1 if scene.chance(0.8) else -1) + slant
            heading = (nose if along_u else nose + 90.0) + rng.normal(0, 1.2)
            u, v = (a, b) if along_u else (b, a)
            shift = rng.normal(0, 0.03 * length)
            if class_name == "small-vehicle":
                scene.car(u, v + shift, heading_deg=heading, margin_px=0.5)
            else:
                scene.truck(u, v + shift, heading_deg=heading, margin_px=0.5, style=style)
        row += 1
        b += depth if row % 2 else depth + aisle


def draw_suburb(scene: Scene) -> None:
    """Draw streets of houses with gardens, pools and parked cars, and a roundabout."""
    rng, reach = scene.rng, scene.reach
    scene.prepare(("grass", "lush", "dry")[rng.choice(3, p=[0.4, 0.3, 0.3])])
    car_long = scene.class_size("small-vehicle")[0]
    pool_long = scene.class_size("swimming-pool")[0]
    scene.gsd_m = 4.7 / car_long
    street = 1.05 * car_long + 4
    plot_u, plot_v = max(2.0 * pool_long, 62.0), max(2.1 * pool_long, 62.0)
    row_step = 2 * plot_v + street
    rows = np.arange(-reach + rng.uniform(0, 0.5) * row_step, reach, row_step)
    cross_u = rng.uniform(-0.3, 0.3) * reach
    plots = [
        (u + plot_u / 2, v + side * (street / 2 + plot_v / 2), side)
        for v in rows
        for side in (-1, 1)
        for u in np.arange(-reach, reach, plot_u)
        if abs(u + plot_u / 2 - cross_u) > plot_u / 2 + street / 2 + 3
    ]
    for u, v, _ in plots:
        _paint_lawn(scene, u, v, size=(plot_u, plot_v))
    _suburb_streets(scene, rows, cross_u, street=street)
    for u, v, side in plots:
        _fill_plot(scene, u, v, side=side, size=(plot_u, plot_v))
    for v in rows:
        _street_parking(scene, v, street=street)
    paint_trees(
        scene.canvas, rng, count=int(60 * (reach / 256) ** 2), radius_px=(6, 14), clusters=30
    )


def _suburb_streets(scene: Scene, rows: np.ndarray, cross_u: float, *, street: float) -> None:
    """Streets along u at the given rows, one across them, roundabouts at some crossings."""
    reach = scene.reach
    lines = [[[-reach, v], [reach, v]] for v in rows] + [[[cross_u, -reach], [cross_u, reach]]]
    for line in lines:
        points = scene.frame.points(line)
        paint_road(scene.canvas, points, width_px=street, color=scene.road_color, lanes=2)
    diameter = max(2.5 * street, scene.class_size("roundabout")[0])
    for v in rows:
        ring = scene.pose(
            cross_u, v, heading_deg=-scene.frame.angle_deg, length=diameter, width=diameter
        )
        if scene.chance(0.7):
            scene.place(
                "roundabout",
                ring,
                lambda ring=ring: facilities.paint_roundabout(
                    scene.canvas, ring, scene.rng, road=scene.road_color
                ),
                over=True,
            )


def _paint_lawn(scene: Scene, u: float, v: float, *, size: tuple[float, float]) -> None:
    half_u, half_v = size[0] / 2, size[1] / 2
    plot = scene.frame.rect(u - half_u, v - half_v, u + half_u, v + half_v)
    green = np.array((92, 114, 68)) + scene.rng.uniform(-22, 22)
    scene.canvas.fill(plot, tuple(green), alpha=0.4)
    scene.canvas.stroke(plot, (98, 92, 78), width_px=1.0, closed=True, alpha=0.6)


def _street_parking(scene: Scene, v: float, *, street: float) -> None:
    """Park cars along a street; the street itself counts as taken, so free it for them."""
    occupied = scene.canvas.occupied
    scene.canvas.occupied = np.zeros_like(occupied)
    for side in (-1, 1):
        for u in np.arange(-scene.reach, scene.reach, 2.2 * street):
            if scene.chance(0.28 * scene.config.density):
                heading = 0.0 if side > 0 else 180.0
                where = scene.frame.points([[u, v + side * 0.26 * street]])
                ringed = any(
                    o.class_name == "roundabout"
                    and np.hypot(*(o.quad.mean(0) - where[0])) < 2.2 * street
                    for o in scene.canvas.objects
                )
                if not ringed:
                    scene.car(u, v + side * 0.26 * street, heading_deg=heading)
    scene.canvas.occupied |= occupied


def _fill_plot(scene: Scene, u: float, v: float, *, side: int, size: tuple[float, float]) -> None:
    """A house near the street, a pool or a court behind it, a car on the drive."""
    rng, canvas = scene.rng, scene.canvas
    plot_u, plot_v = size
    if scene.chance(0.06):
        return
    front, back = v - side * plot_v * 0.22, v + side * plot_v * 0.25
    house = scene.pose(
        u + plot_u * 0.06,
        front,
        heading_deg=rng.choice([0.0, 0.0, 90.0]),
        length=rng.uniform(0.5, 0.62) * plot_u,
        width=rng.uniform(0.32, 0.42) * plot_v,
    )
    if canvas.is_free(house.quad()):
        paint_house(canvas, house, rng)
    drive_u = u - plot_u * 0.4
    drive = scene.frame.rect(
        drive_u - 0.085 * plot_u,
        v - side * plot_v * 0.5,
        drive_u + 0.085 * plot_u,
        front + side * 0.08 * plot_v,
    )
    if not canvas.is_free(drive.mean(0) + 0.8 * (drive - drive.mean(0))):
        return  # a roundabout takes the front of this plot
    canvas.fill(drive, (166, 160, 150))
    if scene.chance(0.5 * scene.config.density):
        scene.car(drive_u, front - side * 0.02 * plot_v, heading_deg=90.0 * side)
    if scene.chance(0.72):
        garden_pool(scene, u + rng.uniform(-0.12, 0.12) * plot_u, back)
    elif scene.chance(0.4):
        x, y = scene.frame.points([[u + rng.uniform(-0.2, 0.3) * plot_u, back]])[0]
        paint_tree(canvas, float(x), float(y), float(rng.uniform(8, 15)), rng)


def garden_pool(scene: Scene, u: float, v: float) -> bool:
    """Place a pool with its deck; returns whether there was room."""
    rng, canvas = scene.rng, scene.canvas
    length, width = scene.sample_size("swimming-pool")
    heading = rng.choice([0.0, 0.0, 90.0]) + rng.normal(0, 8)
    pose = scene.pose(u, v, heading_deg=heading, length=length, width=width)
    style = ("rect", "round", "lanes")[rng.choice(3, p=[0.5, 0.42, 0.08])]

    def paint() -> None:
        deck = pose.grown(0.16 * length).points(
            ellipse(num=24)
            if style == "round"
            else [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]
        )
        canvas.fill(deck, ((206, 198, 182), (182, 164, 142), (190, 190, 186))[rng.integers(3)])
        facilities.paint_pool(canvas, pose, rng, style=style)

    return scene.place("swimming-pool", pose, paint)


def draw_tanks(scene: Scene) -> None:
    """Draw a tank farm in bunded blocks with halls, pipes and a road with lorries."""
    rng, reach = scene.rng, scene.reach
    scene.prepare(("urban", "soil", "grass", "dry")[rng.integers(4)])
    tank_px = scene.class_size("storage-tank")[0]
    scene.gsd_m = 18.0 / tank_px
    truck_short = scene.class_size("large-vehicle")[1]
    side = max(5.5 * tank_px, 90.0)
    road = 2.1 * truck_short + 4
    road_u = rng.uniform(-0.4, 0.4) * reach
    _traffic_road(scene, (road_u, -reach), (road_u, reach), width_px=road)
    for area in (
        (-reach, -reach, road_u - 0.7 * road, reach),
        (road_u + 0.7 * road, -reach, reach, reach),
    ):
        for u0, v0, u1, v1 in split_blocks(rng, area, min_side=0.6 * side, max_side=1.5 * side):
            block = (u0 + 5, v0 + 5, u1 - 5, v1 - 5)
            draw = rng.random()
            if draw < 0.2:
                _industry(scene, block)
            elif draw < 0.85:
                fill_tank_block(scene, block)
    court = scene.pose(
        rng.uniform(-0.5, 0.5) * reach,
        rng.uniform(-0.5, 0.5) * reach,
        heading_deg=0,
        length=scene.class_size("tennis-court")[0],
        width=scene.class_size("tennis-court")[1],
    )
    colors = COURT_COLORS[rng.integers(len(COURT_COLORS))]
    scene.place(
        "tennis-court",
        court,
        lambda: facilities.paint_tennis_court(scene.canvas, court, colors=colors, line_alpha=0.9),
    )
    paint_trees(
        scene.canvas, rng, count=int(40 * (reach / 256) ** 2), radius_px=(5, 11), clusters=7
    )


def fill_tank_block(scene: Scene, block: Extent) -> None:
    """Fill a block with a grid of equal tanks inside a bund wall."""
    rng, canvas = scene.rng, scene.canvas
    u0, v0, u1, v1 = block
    long_px = scene.sample_size("storage-tank")[0] * rng.choice([0.8, 1.0, 1.0, 1.35])
    long_px = max(long_px, scene.config.min_short_side_px * 1.02)
    pitch = long_px * rng.uniform(1.3, 1.7)
    if min(u1 - u0, v1 - v0) < 1.3 * pitch or "storage-tank" not in scene.config.classes:
        return
    if not canvas.is_free(scene.frame.rect(*block)):
        return
    tone = ((164, 156, 140), (140, 138, 130), (150, 132, 108), (128, 134, 112))[rng.integers(4)]
    paint_lot(canvas, scene.frame, block, color=tone)
    base = float(rng.uniform(196, 236))
    style = ("dome", "cone", "floating")[rng.choice(3, p=[0.4, 0.35, 0.25])]
    for u in np.arange(u0 + 0.7 * pitch, u1 - 0.6 * pitch, pitch):
        canvas.stroke(
            scene.frame.points([[u + pitch / 2, v0 + 4], [u + pitch / 2, v1 - 4]]),
            (112, 112, 110),
            width_px=1.2,
            alpha=0.8,
        )
        for v in np.arange(v0 + 0.7 * pitch, v1 - 0.6 * pitch, pitch):
            if not scene.chance(0.9 * min(1.0, scene.config.density)):
                continue
            # Round things get boxes parallel to the image's sides, as in DOTA.
            pose = scene.pose(
                u, v, heading_deg=-scene.frame.angle_deg, length=long_px, width=long_px
            )
            scene.place(
                "storage-tank",
                pose,
                lambda pose=pose: facilities.paint_storage_tank(
                    canvas, pose, rng, base=base, style=style
                ),
            )
    canvas.reserve(scene.frame.rect(*block))


def _industry(scene: Scene, block: Extent) -> None:
    rng, canvas = scene.rng, scene.canvas
    u0, v0, u1, v1 = block
    if not canvas.is_free(scene.frame.rect(*block)):
        return
    paint_lot(canvas, scene.frame, block, color=scene.road_color)
    if min(u1 - u0, v1 - v0) < 30:
        return
    hall = scene.pose(
        (u0 + u1) / 2,
        v0 + 0.32 * (v1 - v0),
        heading_deg=0,
        length=0.85 * (u1 - u0),
        width=0.5 * (v1 - v0),
    )
    paint_hall(canvas, hall, rng)
    width = scene.class_size("large-vehicle")[1]
    for u in np.arange(u0 + width, u1 - width, 1.7 * width):
        if scene.chance(0.5 * scene.config.density):
            scene.truck(u, v1 - 0.2 * (v1 - v0), heading_deg=90.0, margin_px=0.5)
        elif scene.chance(0.3):
            stack = scene.pose(
                u, v1 - 0.2 * (v1 - v0), heading_deg=90, length=1.5 * width, width=0.7 * width
            )
            if canvas.is_free(stack.quad()):
                color = HALL_COLORS[rng.integers(len(HALL_COLORS))]
                canvas.shadow(stack.quad(), height_px=2.0, connected=True)
                canvas.fill(stack.quad(), color)
                canvas.reserve(stack.quad())
