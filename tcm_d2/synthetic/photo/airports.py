"""Scenes of airports, airfields and heliports."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic import facilities
from tcm_d2.synthetic.geometry import Pose
from tcm_d2.synthetic.photo import aircraft
from tcm_d2.synthetic.photo.buildings import put_hall, put_trees
from tcm_d2.synthetic.photo.colors import CONCRETE, WHITE, pick, vary
from tcm_d2.synthetic.photo.traffic import draw_kind, park_rows, put_vehicle
from tcm_d2.synthetic.photo.vehicles import LARGE_MIX, SMALL_MIX
from tcm_d2.synthetic.photo.world import World

_YELLOW = (204, 172, 64)


def put_plane(
    world: World,
    u: float,
    v: float,
    *,
    kind: str,
    heading_deg: float,
    like: tuple[float, float, tuple] | None = None,
) -> bool:
    """Place a plane; ``like`` gives length and span in metres and the colour of its fleet."""
    rng = world.rng
    if kind == "fighter":
        name, sizes = "fighter jet", (rng.uniform(12, 22), rng.uniform(0.6, 0.85))
    else:
        name, sizes = (
            aircraft.PLANES[kind].name,
            (
                rng.uniform(*aircraft.PLANES[kind].length_m),
                rng.uniform(*aircraft.PLANES[kind].span),
            ),
        )
    military = kind in ("fighter", "military transport")
    length, span, color = like or (
        sizes[0],
        sizes[0] * sizes[1],
        aircraft.plane_color(rng, military=military),
    )
    pose = world.pose(u, v, heading_deg=heading_deg, length=world.px(length), width=world.px(span))

    def paint() -> None:
        if kind == "fighter":
            aircraft.paint_fighter(world.canvas, pose, rng, color)
        else:
            aircraft.paint_plane(world.canvas, pose, rng, color, kind=aircraft.PLANES[kind])

    return world.put(name, pose, paint, class_name="plane", color=color, margin_px=world.px(0.5))


def fleet_of(world: World, kind: str) -> tuple[float, float, tuple]:
    """Return length, span and colour that a row of planes shares."""
    rng = world.rng
    low, high = (12, 22) if kind == "fighter" else aircraft.PLANES[kind].length_m
    length = float(rng.uniform(low, high))
    span = length * float(
        rng.uniform(*((0.6, 0.85) if kind == "fighter" else aircraft.PLANES[kind].span))
    )
    return (
        length,
        span,
        aircraft.plane_color(rng, military=kind in ("fighter", "military transport")),
    )


def _markings(world: World, extent: tuple[float, float, float, float]) -> None:
    """Taxi lines, lead-in curves, white edges and stains over an apron."""
    rng, canvas = world.rng, world.canvas
    u0, v0, u1, v1 = extent
    for _ in range(int(rng.integers(1, 6))):
        color = _YELLOW if world.chance(0.7) else (WHITE if world.chance(0.7) else (176, 60, 50))
        v = rng.uniform(v0, v1)
        width = max(0.5, world.px(rng.uniform(0.15, 0.5)))
        alpha = rng.uniform(0.3, 0.9)
        if world.chance(0.5):
            canvas.stroke(
                world.frame.points([[u0, v], [u1, v]]), color, width_px=width, alpha=alpha
            )
        else:
            turn = np.linspace(0, np.pi / 2, 14)
            radius = world.px(rng.uniform(15, 60))
            u = rng.uniform(u0, u1)
            arc = np.stack([u + radius * np.sin(turn), v + radius * (1 - np.cos(turn))], 1)
            arc = np.concatenate([[[u - radius, v]], arc, [[u + radius, v + 2 * radius]]])
            canvas.stroke(world.frame.points(arc), color, width_px=width, alpha=alpha)


def _runway(world: World, v: float, *, width_m: float) -> None:
    canvas, reach, rng = world.canvas, world.reach, world.rng
    half = world.px(width_m / 2)
    quad = world.frame.rect(-reach, v - half, reach, v + half)
    world.pave(quad, world.asphalt)
    canvas.fill(
        world.frame.rect(-reach, v - 0.2 * half, reach, v + 0.2 * half), (50, 50, 52), alpha=0.25
    )
    line = max(0.6, world.px(0.9))
    for edge in (-0.92, 0.92):
        canvas.stroke(
            world.frame.points([[-reach, v + edge * half], [reach, v + edge * half]]),
            WHITE,
            width_px=line,
            alpha=0.8,
        )
    for u in np.arange(-reach, reach, world.px(50)):
        canvas.stroke(
            world.frame.points([[u, v], [u + world.px(30), v]]), WHITE, width_px=line, alpha=0.8
        )
    bar = rng.uniform(-reach, reach)
    for offset in np.linspace(-0.8, 0.8, 10):
        mark = [[bar, v + offset * half], [bar + world.px(30), v + offset * half]]
        canvas.stroke(world.frame.points(mark), WHITE, width_px=max(0.6, world.px(1.6)), alpha=0.8)
    canvas.reserve(quad)


def draw_airport(world: World) -> None:
    """Draw a terminal with gates or an open apron, a taxiway, and grass with a runway."""
    rng, reach = world.rng, world.reach
    world.start(("grass", "dry", "soil", "scrub", "lawn")[rng.integers(5)])
    top = rng.uniform(-1.1, -0.35) * reach
    apron = (-reach, top, reach, reach)
    concrete = pick(rng, CONCRETE) if world.chance(0.75) else world.asphalt
    world.pave(world.frame.rect(*apron), concrete, concrete=world.chance(0.7))
    _markings(world, apron)
    if top + world.px(60) > -reach:
        world.surroundings = "on a runway"
        _runway(world, top - world.px(rng.uniform(35, 60)), width_m=rng.uniform(25, 60))
    world.surroundings = "on an apron"
    mode = rng.choice(["gates", "rows", "scattered"], p=[0.3, 0.5, 0.2])
    if mode == "gates":
        _gates(world, top)
    elif mode == "rows":
        _rows(world, top)
    else:
        kinds = list(aircraft.PLANES) + ["fighter"]
        for _ in range(int(rng.integers(2, 14))):
            put_plane(
                world,
                rng.uniform(-reach, reach),
                rng.uniform(top, reach),
                kind=kinds[rng.integers(len(kinds))],
                heading_deg=float(rng.uniform(0, 360)),
            )
    _ground_vehicles(world, top)


def _gates(world: World, top: float) -> None:
    """Airliners nose-in at a terminal with jet bridges."""
    rng, reach = world.rng, world.reach
    length, span, _ = fleet_of(world, "airliner")
    front = rng.uniform(0.3, 0.95) * reach
    depth = world.px(rng.uniform(25, 60))
    terminal = world.pose(0, front + depth / 2, heading_deg=0.0, length=2 * reach, width=depth)
    put_hall(world, terminal)
    fleet = [aircraft.plane_color(rng, military=False) for _ in range(3)]
    pitch = world.px(span * rng.uniform(1.12, 1.45))
    slant = float(rng.choice([0.0, 0.0, rng.uniform(-35, 35)]))
    for u in np.arange(-reach + rng.uniform(0, 1) * pitch, reach, pitch):
        if not world.chance(0.72):
            continue
        factor = rng.uniform(0.75, 1.05)
        own = length * factor, span * factor, fleet[rng.integers(3)]
        nose_v = front - world.px(rng.uniform(4, 14))
        v = nose_v - world.px(own[0] / 2)
        if put_plane(
            world, u, v, kind="airliner", heading_deg=-90.0 + slant, like=own
        ) and world.chance(0.75):
            _jet_bridge(world, u, v, front, length_px=world.px(own[0]))
    row_v = front - world.px(length * 2.3)
    if row_v > top and world.chance(0.5):
        for u in np.arange(-reach, reach, 1.2 * pitch):
            if world.chance(0.35):
                put_plane(
                    world,
                    u,
                    row_v,
                    kind="airliner",
                    heading_deg=float(rng.choice([0.0, 180.0, 90.0])),
                )


def _jet_bridge(world: World, u: float, v: float, front: float, *, length_px: float) -> None:
    """A passenger bridge from the terminal to the left side of a plane's nose."""
    canvas, rng = world.canvas, world.rng
    door = np.array([u + world.px(3.5), v + 0.3 * length_px])
    start = np.array([u + world.px(rng.uniform(10, 18)), front])
    line = world.frame.points(np.stack([start, [start[0], door[1] + world.px(5)], door]))
    width = max(1.0, world.px(3.2))
    canvas.stroke(line + canvas.sun_xy * world.px(4) * 0.6, (16, 18, 24), width_px=width, alpha=0.4)
    canvas.stroke(line, vary(rng, (190, 192, 192), light=24), width_px=width)


def _rows(world: World, top: float) -> None:
    """Rows of stands, each with one kind of plane, on one or many headings."""
    rng, reach = world.rng, world.reach
    kinds = list(aircraft.PLANES) + ["fighter"]
    lead = kinds[rng.integers(len(kinds))]
    heading = float(rng.choice([90.0, 270.0])) + float(rng.choice([0.0, 0.0, 0.0, 45.0, -45.0]))
    v = top + world.px(rng.uniform(10, 30))
    while v < reach:
        kind = lead if world.chance(0.7) else kinds[rng.integers(len(kinds))]
        length, span, color = fleet_of(world, kind)
        pitch = world.px(max(length, span) * rng.uniform(1.02, 1.6))
        row_v = v + world.px(max(length, span)) / 2
        taken = rng.uniform(0.4, 1.0)
        for u in np.arange(-reach + rng.uniform(0, 1) * pitch, reach, pitch):
            if world.chance(0.4):
                lead_in = world.frame.points([[u, row_v - 0.7 * pitch], [u, row_v + 0.3 * pitch]])
                world.canvas.stroke(lead_in, _YELLOW, width_px=max(0.5, world.px(0.2)), alpha=0.7)
            if not world.chance(taken):
                continue
            same = world.chance(0.75)
            turned = heading + rng.normal(0, 2) if world.chance(0.9) else float(rng.uniform(0, 360))
            put_plane(
                world,
                u,
                row_v + rng.normal(0, 0.02) * pitch,
                kind=kind,
                heading_deg=turned,
                like=(length, span, color) if same else None,
            )
        v += world.px(max(length, span) * rng.uniform(1.15, 2.4))
    if world.chance(0.4):
        hangar = world.pose(
            rng.uniform(-reach, reach),
            reach * rng.uniform(0.6, 1.0),
            heading_deg=0.0,
            length=world.px(rng.uniform(30, 90)),
            width=world.px(rng.uniform(20, 50)),
        )
        put_hall(world, hangar)


def _ground_vehicles(world: World, top: float) -> None:
    """Tugs, buses, lorries and cars on an apron, and a row of parked ones."""
    rng, reach = world.rng, world.reach
    for _ in range(int(rng.integers(0, 16))):
        kind = draw_kind(rng, SMALL_MIX if world.chance(0.65) else LARGE_MIX)
        put_vehicle(
            world,
            rng.uniform(-reach, reach),
            rng.uniform(top, reach),
            heading_deg=float(rng.choice([0.0, 90.0, 180.0, 270.0])) + rng.normal(0, 8),
            kind=kind,
        )
    if world.chance(0.4):
        u, v = rng.uniform(-reach, 0.5 * reach), rng.uniform(top, reach)
        size = world.px(rng.uniform(14, 40))
        park_rows(
            world,
            (u, v, u + 1.5 * size, v + size),
            kinds=SMALL_MIX if world.chance(0.6) else LARGE_MIX,
        )


def draw_heliport(world: World) -> None:
    """Draw pads with helicopters, or a helicopter or two on ships' decks, roofs, lawns."""
    rng, reach = world.rng, world.reach
    world.start(("grass", "lawn", "dry", "concrete", "asphalt", "scrub")[rng.integers(6)])
    field = (-0.9 * reach, -0.6 * reach, 0.9 * reach, 0.9 * reach)
    if world.chance(0.7):
        world.pave(
            world.frame.rect(*field),
            pick(rng, CONCRETE) if world.chance(0.6) else world.asphalt,
            concrete=world.chance(0.5),
        )
    world.surroundings = "on a heliport"
    length = float(rng.uniform(10, 20))
    span = length * float(rng.uniform(0.75, 0.95))
    military = world.chance(0.5)
    color = (
        vary(rng, (88, 94, 80) if world.chance(0.6) else (74, 78, 84), light=12)
        if military
        else None
    )
    pitch = world.px(length * rng.uniform(1.15, 2.0))
    heading = float(rng.choice([0.0, 90.0, 45.0, rng.uniform(0, 360)]))
    marked = world.chance(0.55)
    for v in np.arange(field[1] + 0.6 * pitch, field[3] - 0.4 * pitch, pitch):
        for u in np.arange(field[0] + 0.6 * pitch, field[2] - 0.4 * pitch, pitch):
            if marked:
                pad = world.pose(
                    u, v, heading_deg=0, length=world.px(1.1 * length), width=world.px(1.1 * length)
                )
                if world.canvas.is_free(pad.quad()):
                    facilities.paint_helipad(world.canvas, pad, rng)
            if not world.chance(0.6):
                continue
            own = color or aircraft.plane_color(rng, military=False)
            pose = world.pose(
                u,
                v,
                heading_deg=heading + rng.normal(0, 8),
                length=world.px(length),
                width=world.px(span),
            )

            def paint(pose: Pose = pose, own: tuple = own) -> None:
                aircraft.paint_helicopter(world.canvas, pose, rng, own)

            world.put("helicopter", pose, paint, class_name="helicopter", color=own)
    for u in np.arange(-reach, reach, world.px(45)):
        if world.chance(0.4):
            put_hall(
                world,
                world.pose(
                    u,
                    -0.8 * reach,
                    heading_deg=0.0,
                    length=world.px(36),
                    width=min(0.3 * reach, world.px(28)),
                ),
            )
    if world.chance(0.4):
        put_plane(
            world,
            rng.uniform(-reach, reach),
            rng.uniform(-0.5, 0.8) * reach,
            kind=("light plane", "regional propeller plane")[rng.integers(2)],
            heading_deg=float(rng.uniform(0, 360)),
        )
    _ground_vehicles(world, -0.6 * reach)
    put_trees(
        world, (-reach, -reach, reach, reach), count=int(rng.integers(0, 40)), radius_m=(1.5, 5)
    )
