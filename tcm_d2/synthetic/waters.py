"""Scenes at the sea: marinas and ports."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic import facilities, vehicles
from tcm_d2.synthetic.canvas import Color
from tcm_d2.synthetic.geometry import Pose
from tcm_d2.synthetic.scene import Scene
from tcm_d2.synthetic.surroundings import (
    paint_hall,
    paint_house,
    paint_trees,
)
from tcm_d2.synthetic.towns import fill_tank_block

_PIER_COLORS: tuple[Color, ...] = (
    (178, 170, 154),
    (150, 108, 86),
    (196, 192, 182),
    (140, 134, 124),
    (164, 146, 120),
)


def _shore(scene: Scene, v: float, *, wobble_px: float, out: float) -> np.ndarray:
    """Return a polygon in image points on the far side (towards v = out) of a wavy shore line."""
    reach = scene.reach + 10
    u = np.linspace(-reach, reach, 24)
    phases = scene.rng.uniform(0, 2 * np.pi, 3)
    wave = sum(np.sin(u / reach * np.pi * (k + 1) + phases[k]) / (k + 1) for k in range(3))
    line = np.stack([u, v + wobble_px * wave], 1)
    return scene.frame.points(np.concatenate([line, [[reach, out], [-reach, out]]]))


def draw_marina(scene: Scene) -> None:
    """Draw piers with berthed boats along one or two shores, and boats under way."""
    rng, reach = scene.rng, scene.reach
    scene.prepare(("urban", "sand", "grass", "dry")[rng.integers(4)])
    ship_long = scene.class_size("ship")[0]
    scene.gsd_m = 11.0 / ship_long
    both_sides = scene.chance(0.8)
    low = rng.uniform(0.5, 0.68) * reach
    high = -rng.uniform(0.5, 0.68) * reach if both_sides else -reach - 10
    scene.add_water([scene.frame.rect(-reach - 10, high, reach + 10, low)])
    pier_width = max(1.06 * scene.config.min_short_side_px, rng.uniform(0.3, 0.5) * ship_long)
    room = (low - high) / (2 if both_sides else 1) - 1.2 * ship_long
    pier_length = min(scene.config.max_aspect_ratio * pier_width, max(room, 3 * pier_width))
    for shore, sign in ((low, -1), (high, 1)) if both_sides else ((low, -1),):
        _pier_row(scene, shore, sign=sign, width=pier_width, length=pier_length)
        _quay_berths(scene, shore, sign=sign)
        _waterfront(scene, shore, sign=-sign, depth=reach - abs(shore))
    for _ in range(int(14 * (reach / 256) ** 2)):
        u, v = rng.uniform(-reach, reach), rng.uniform(high, low)
        _ship_under_way(scene, u, v, heading_deg=rng.choice([0.0, 180.0]) + rng.normal(0, 14))


def _pier_row(scene: Scene, shore: float, *, sign: int, width: float, length: float) -> None:
    """Piers from a shore (v) into the water (towards sign), boats on both sides of each."""
    rng = scene.rng
    ship_long, ship_short = scene.class_size("ship")
    pitch = 2.08 * ship_long + width + rng.uniform(0.25, 0.6) * ship_long
    color = _PIER_COLORS[rng.integers(len(_PIER_COLORS))]
    for u in np.arange(-scene.reach + rng.uniform(0.2, 1.0) * pitch, scene.reach, pitch):
        own = length * rng.uniform(0.8, 1.0)
        middle = shore + sign * (own / 2)
        pose = scene.pose(u, middle, heading_deg=90.0 * -sign, length=own, width=width)
        placed = scene.place(
            "harbor",
            pose,
            lambda pose=pose: facilities.paint_pier(scene.canvas, pose, rng, color=color),
            over=True,
            margin_px=0.0,
        )
        if not placed:
            continue
        berth = ship_short * rng.uniform(1.12, 1.35)
        for side in (-1, 1):
            for along in np.arange(0.9 * berth, own - 0.3 * berth, berth):
                if not scene.chance(0.84 * min(1.1, scene.config.density)):
                    continue
                ship_l, ship_w = scene.sample_size("ship")
                ship_w = min(ship_w, 0.94 * berth)
                gap = width / 2 + ship_l / 2 + 1.5
                bow_in = scene.chance(0.35)
                heading = (0.0 if side > 0 else 180.0) + (180.0 if bow_in else 0.0)
                place_boat(
                    scene,
                    u + side * gap,
                    shore + sign * along,
                    heading_deg=heading + rng.normal(0, 2),
                    length=ship_l,
                    width=ship_w,
                )


def _quay_berths(scene: Scene, shore: float, *, sign: int) -> None:
    """Boats berthed at the shore itself, between the piers."""
    berth = 1.25 * scene.class_size("ship")[1]
    for u in np.arange(-scene.reach, scene.reach, berth):
        if scene.chance(0.5 * scene.config.density):
            length, width = scene.sample_size("ship")
            place_boat(
                scene,
                u,
                shore + sign * (length / 2 + 2),
                heading_deg=-90.0 * sign + scene.rng.normal(0, 2),
                length=length,
                width=min(width, 0.94 * berth),
            )


def place_boat(
    scene: Scene,
    u: float,
    v: float,
    *,
    heading_deg: float,
    length: float,
    width: float,
    freighter: bool = False,
) -> Pose | None:
    """Place a berthed or drifting ship in the frame; returns its pose, None without room."""
    pose = scene.pose(u, v, heading_deg=heading_deg, length=length, width=width)
    paint = vehicles.paint_freighter if freighter else vehicles.paint_boat
    placed = scene.place(
        "ship", pose, lambda: paint(scene.canvas, pose, scene.rng), margin_px=0.3, on_water=True
    )
    return pose if placed else None


def _ship_under_way(
    scene: Scene, u: float, v: float, *, heading_deg: float, freighter: bool = False
) -> None:
    """A moving ship with its wake, where there is open water around it."""
    rng = scene.rng
    length, width = scene.sample_size("ship")
    if freighter:
        length, width = 1.7 * length, 1.35 * width
    pose = scene.pose(u, v, heading_deg=heading_deg, length=length, width=width)
    wake = pose.points([[0.6, -0.8], [0.6, 0.8], [-1.6, 1.2], [-1.6, -1.2]])
    if not scene.canvas.is_free(wake) or scene.water_fraction(wake) < 1.0:
        return

    def paint() -> None:
        if scene.chance(0.75):
            vehicles.paint_wake(scene.canvas, pose, rng, length=rng.uniform(0.5, 1.1))
        (vehicles.paint_freighter if freighter else vehicles.paint_boat)(scene.canvas, pose, rng)

    if scene.place("ship", pose, paint, on_water=True):
        scene.canvas.reserve(wake)


def _waterfront(scene: Scene, shore: float, *, sign: int, depth: float) -> None:
    """Road, parked cars and houses behind a shore, in the direction of sign."""
    rng, reach = scene.rng, scene.reach
    if depth < 12:
        return
    quay = sorted([shore, shore + sign * 6.0])
    scene.canvas.fill(scene.frame.rect(-reach, quay[0], reach, quay[1]), (186, 182, 172))
    car_long, car_short = scene.class_size("small-vehicle")
    road = max(14.0, 2.2 * car_short)
    road_v = shore + sign * (10 + road / 2)
    scene.canvas.fill(
        scene.frame.rect(-reach, road_v - road / 2, reach, road_v + road / 2), scene.road_color
    )
    scene.traffic(
        (-reach, road_v), (reach, road_v), lane_px=road / 2, spacing_px=5 * car_long, truck_part=0.1
    )
    scene.canvas.reserve(scene.frame.rect(-reach, road_v - road / 2, reach, road_v + road / 2))
    v = road_v + sign * (road / 2 + 8 + 22)
    while abs(v) < reach + 10:
        u = -reach
        while u < reach:
            length, width = rng.uniform(40, 90), rng.uniform(26, 40)
            pose = scene.pose(u + length / 2, v, heading_deg=0, length=length, width=width)
            if scene.chance(0.7) and scene.canvas.is_free(pose.quad()):
                (paint_house if length < 62 else paint_hall)(scene.canvas, pose, rng)
            u += length + rng.uniform(6, 26)
        v += sign * rng.uniform(50, 64)
    paint_trees(
        scene.canvas,
        rng,
        count=int(40 * (reach / 256) ** 2),
        radius_px=(4, 9),
        clusters=9,
        land=~scene.water,
    )


def draw_port(scene: Scene) -> None:
    """Draw broad piers with freighters, sheds and tanks ashore, ships in the roads."""
    rng, reach = scene.rng, scene.reach
    scene.prepare(("urban", "soil", "urban")[rng.integers(3)])
    canvas = scene.canvas
    ship_long, ship_short = scene.class_size("ship")
    scene.gsd_m = 30.0 / ship_long
    shore = rng.uniform(0.0, 0.25) * reach
    scene.add_water([_shore(scene, shore, wobble_px=0.0, out=-reach - 10)])
    pier_long, pier_short = scene.sample_size("harbor")
    pier_long = min(max(pier_long, 60.0), 0.85 * (shore + reach))
    pier_short = max(pier_short, 0.28 * pier_long, pier_long / scene.config.max_aspect_ratio)
    pitch = pier_short + 2.3 * (1.35 * ship_short) + rng.uniform(14, 34)
    for u in np.arange(-reach + rng.uniform(0.2, 0.9) * pitch, reach, pitch):
        own = pier_long * rng.uniform(0.7, 1.0)
        color = _PIER_COLORS[rng.integers(len(_PIER_COLORS))]
        pose = scene.pose(u, shore - own / 2, heading_deg=90.0, length=own, width=pier_short)
        if scene.place(
            "harbor",
            pose,
            lambda p=pose, c=color: facilities.paint_pier(canvas, p, rng, color=c),
            over=True,
            margin_px=0.0,
        ):
            _pier_cargo(scene, pose)
            for side in (-1, 1):
                length = min(1.7 * scene.sample_size("ship")[0], 0.9 * own)
                width = min(1.35 * ship_short, length / 2.6)
                if width >= scene.config.min_short_side_px and scene.chance(0.7):
                    place_boat(
                        scene,
                        u + side * (pier_short / 2 + width / 2 + 2),
                        shore - own * 0.5,
                        heading_deg=rng.choice([90.0, 270.0]) + rng.normal(0, 0.6),
                        length=length,
                        width=width,
                        freighter=True,
                    )
    for _ in range(int(18 * (reach / 256) ** 2)):
        _ship_under_way(
            scene,
            rng.uniform(-reach, reach),
            rng.uniform(-reach, shore),
            heading_deg=rng.choice([0.0, 180.0, 60.0]) + rng.normal(0, 12),
            freighter=scene.chance(0.5),
        )
    _port_land(scene, shore)


def _pier_cargo(scene: Scene, pose: Pose) -> None:
    """Container stacks and sheds on a pier."""
    for u in np.arange(-0.4, 0.4, max(0.09, 12.0 / pose.length)):
        if scene.chance(0.5):
            color = vehicles.TRAILER_COLORS[scene.rng.integers(6)]
            half = min(0.035, 5.0 / pose.length)
            v = scene.rng.uniform(-0.2, 0.2)
            stack = pose.points([[u - half, v - 0.16], [u + half, v - 0.16], [u + half, v + 0.16],
                                 [u - half, v + 0.16]])  # fmt: skip
            scene.canvas.shadow(stack, height_px=2.5, connected=True)
            scene.canvas.fill(stack, color)


def _port_land(scene: Scene, shore: float) -> None:
    rng, reach = scene.rng, scene.reach
    scene.canvas.fill(scene.frame.rect(-reach, shore, reach, shore + 9), (176, 172, 162))
    truck_short = scene.class_size("large-vehicle")[1]
    road = 2.1 * truck_short + 4
    road_v = shore + 12 + road / 2
    scene.canvas.fill(
        scene.frame.rect(-reach, road_v - road / 2, reach, road_v + road / 2), scene.road_color
    )
    scene.traffic(
        (-reach, road_v),
        (reach, road_v),
        lane_px=road / 2,
        spacing_px=2.5 * scene.class_size("large-vehicle")[0],
        truck_part=0.7,
    )
    scene.canvas.reserve(scene.frame.rect(-reach, road_v - road / 2, reach, road_v + road / 2))
    top = road_v + road / 2 + 6
    u = -reach
    while u < reach and top < reach - 40:
        width = rng.uniform(90, 170)
        block = (u + 4, top, u + width - 4, min(reach, top + rng.uniform(0.8, 1.4) * width))
        if scene.chance(0.6):
            fill_tank_block(scene, block)
        else:
            hall = scene.pose(
                (block[0] + block[2]) / 2,
                (block[1] + block[3]) / 2,
                heading_deg=0,
                length=0.9 * (block[2] - block[0]),
                width=0.8 * (block[3] - block[1]),
            )
            paint_hall(scene.canvas, hall, rng)
        u += width
    paint_trees(
        scene.canvas,
        rng,
        count=int(30 * (reach / 256) ** 2),
        radius_px=(4, 9),
        clusters=6,
        land=~scene.water,
    )
