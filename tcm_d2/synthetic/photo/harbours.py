"""Scenes at the water: marinas, ports, open sea, beaches."""

from __future__ import annotations

import numpy as np

from tcm_d2.synthetic.canvas import Color
from tcm_d2.synthetic.geometry import Pose
from tcm_d2.synthetic.photo import plants, town
from tcm_d2.synthetic.photo.buildings import put_trees
from tcm_d2.synthetic.photo.colors import pick, shade, vary
from tcm_d2.synthetic.photo.industry import put_crane
from tcm_d2.synthetic.photo.ships import SHIPS, ShipKind, paint_wake
from tcm_d2.synthetic.photo.world import World
from tcm_d2.synthetic.scene import Extent, split_blocks

PIERS: tuple[Color, ...] = (
    (178, 170, 154),
    (150, 108, 86),
    (196, 192, 182),
    (140, 134, 124),
    (164, 146, 120),
    (120, 88, 70),
    (206, 206, 202),
)


def put_ship(
    world: World,
    u: float,
    v: float,
    *,
    kind: str | ShipKind,
    heading_deg: float,
    length_m: float | None = None,
    max_beam_px: float | None = None,
    margin_px: float = -0.5,
    wake: bool = False,
) -> bool:
    """Place a ship on the water, of a kind or a name of `SHIPS`; its beam is cut to the berth."""
    rng = world.rng
    what = SHIPS[kind] if isinstance(kind, str) else kind
    length = float(rng.uniform(*what.length_m)) if length_m is None else length_m
    beam = world.px(length / float(rng.uniform(*what.aspect)))
    if max_beam_px is not None:
        beam = min(beam, max_beam_px)
    color = pick(rng, what.paints)
    pose = world.pose(u, v, heading_deg=heading_deg, length=world.px(length), width=beam)

    def paint() -> None:
        if wake:
            paint_wake(
                world.canvas, pose, rng, length=float(rng.uniform(0.4, 1.8) * min(1.0, 40 / length))
            )
        what.paint(world.canvas, pose, rng, color)

    return world.put(
        what.name, pose, paint, class_name="ship", color=color, margin_px=margin_px, on_water=True
    )


def put_pier(world: World, pose: Pose, color: Color) -> bool:
    """Place a pier, quay or jetty."""
    rng, canvas = world.rng, world.canvas

    def paint() -> None:
        canvas.shadow(pose.quad(), height_px=min(world.px(1.2), 0.4 * pose.width), connected=True)
        canvas.fill(pose.quad(), color)
        edge = pose.points([[-0.5, -0.46], [0.5, -0.46], [0.5, 0.46], [-0.5, 0.46]])
        canvas.stroke(edge, shade(color, 0.7), width_px=0.6, closed=True, alpha=0.5)
        planks = int(pose.length / max(3.0, world.px(rng.uniform(1.0, 8))))
        for u in np.linspace(-0.5, 0.5, max(2, planks))[1:-1]:
            canvas.stroke(
                pose.points([[u, -0.46], [u, 0.46]]), shade(color, 0.78), width_px=0.5, alpha=0.35
            )
        for _ in range(int(rng.integers(0, 8))):
            x, y = pose.points([[rng.uniform(-0.48, 0.48), rng.uniform(-0.35, 0.35)]])[0]
            tone = ((236, 236, 232), (70, 66, 62), (60, 90, 150))[rng.integers(3)]
            canvas.disc(x, y, max(0.5, world.px(0.5)), tone)

    return world.put(
        "pier",
        pose,
        paint,
        class_name="harbor",
        color=color,
        on_water=None,
        over=True,
        margin_px=0.0,
    )


def put_berths(
    world: World,
    pose: Pose,
    *,
    sides: tuple[int, ...],
    kinds: tuple[str, ...],
    length_m: tuple[float, float],
    taken: float,
) -> None:
    """Boats at right angles to a pier, close to each other, bow or stern in.

    ``pose`` is in the frame's own pixels: its x and y are u and v.
    """
    rng = world.rng
    gap = world.px(float(rng.choice([rng.uniform(0.0, 0.25), rng.uniform(0.1, 0.9)])))
    slant = float(rng.choice([0.0, 0.0, 0.0, rng.uniform(-25, 25)]))
    bow_in = rng.choice([0.05, 0.3, 0.9])
    along = np.array([np.cos(np.radians(pose.heading_deg)), -np.sin(np.radians(pose.heading_deg))])
    right = np.array([-along[1], along[0]])
    for side in sides:
        base = float(rng.uniform(*length_m))
        position = -0.5 * pose.length + world.px(1.0)
        while position < 0.5 * pose.length:
            length = max(4.0, base * float(rng.uniform(0.75, 1.25)))
            kind = kinds[rng.integers(len(kinds))]
            beam = world.px(length / float(rng.uniform(*SHIPS[kind].aspect)))
            position += beam / 2
            if world.chance(taken):
                out = side * (0.5 * pose.width + world.px(0.4 + length / 2))
                u, v = np.array([pose.x, pose.y]) + along * position + right * out
                heading = pose.heading_deg - 90.0 * side + (180.0 if world.chance(bow_in) else 0.0)
                put_ship(
                    world,
                    u,
                    v,
                    kind=kind,
                    heading_deg=heading + slant + rng.normal(0, 1.5),
                    length_m=length,
                    max_beam_px=beam,
                )
            position += beam / 2 + gap
            if world.chance(0.04):
                position += 2 * beam


def fill_land(world: World, extent: Extent, *, port: bool) -> None:
    """Roads, lots, yards, houses on the land behind a shore."""
    rng = world.rng
    if extent[3] - extent[1] < world.px(8):
        return
    fillers = (
        [town.fill_parking, town.fill_halls, town.fill_houses, town.fill_park]
        if not port
        else [
            plants.fill_containers,
            plants.fill_works,
            plants.fill_tanks,
            town.fill_depot,
            town.fill_parking,
        ]
    )
    side = world.px(rng.uniform(35, 90))
    for u0, v0, u1, v1 in split_blocks(rng, extent, min_side=0.5 * side, max_side=1.4 * side):
        inset = world.px(4)
        if min(u1 - u0, v1 - v0) > 2 * inset + world.px(5):
            fillers[rng.integers(len(fillers))](
                world, (u0 + inset, v0 + inset, u1 - inset, v1 - inset)
            )


def draw_marina(world: World) -> None:
    """Draw piers with crowds of boats along one or two quays."""
    rng, reach = world.rng, world.reach
    world.start(("asphalt", "concrete", "grass", "gravel", "sand")[rng.integers(5)])
    shore = rng.uniform(0.1, 0.8) * reach
    far = -rng.uniform(0.5, 1.3) * reach
    world.flood([world.frame.rect(-reach - 10, far, reach + 10, shore)], shore=world.chance(0.5))
    world.surroundings = "in a marina"
    length_m = float(rng.choice([rng.uniform(5, 8), rng.uniform(7, 13), rng.uniform(12, 22)]))
    kinds = (
        ("sailing boat",),
        ("motor boat",),
        ("motor boat", "sailing boat"),
        ("open boat", "motor boat"),
        ("sailing boat", "motor boat", "yacht"),
    )[rng.integers(5)]
    sizes = (0.8 * length_m, 1.25 * length_m)
    color = PIERS[rng.integers(len(PIERS))]
    width = world.px(rng.uniform(1.4, 5))
    pitch = world.px(2 * 1.25 * length_m + rng.uniform(3, 14)) + width
    taken = float(rng.choice([rng.uniform(0.3, 0.8), 0.92, 0.98]))
    if world.chance(0.8):
        own_start = rng.uniform(0, 1) * pitch
        for u in np.arange(-reach + own_start, reach, pitch):
            own = min(world.px(rng.uniform(40, 170)), 0.9 * (shore - far))
            pier = world.pose(u, shore - own / 2, heading_deg=90.0, length=own, width=width)
            if put_pier(world, pier, vary(rng, color, light=6)):
                local = Pose(u, shore - own / 2, 90.0, own, width)
                put_berths(world, local, sides=(-1, 1), kinds=kinds, length_m=sizes, taken=taken)
    for v, side in ((shore, 1), (far, -1)):
        if world.chance(0.7):  # boats along the quay itself
            local = Pose(0.0, v, 0.0, 2 * reach, 0.0)
            put_berths(world, local, sides=(-side,), kinds=kinds, length_m=sizes, taken=taken)
    put_afloat(world, far, shore, count=int(rng.integers(0, 9)), kinds=kinds)
    fill_land(world, (-reach, shore + world.px(1), reach, reach), port=False)
    fill_land(world, (-reach, -reach, reach, far - world.px(1)), port=False)
    if world.chance(0.4):
        put_trees(world, (-reach, shore, reach, reach), count=30, radius_m=(1, 4))


def put_afloat(
    world: World, low: float, high: float, *, count: int, kinds: tuple[str, ...]
) -> None:
    """Ships at anchor, on moorings or under way."""
    rng, reach = world.rng, world.reach
    same = float(rng.uniform(0, 360))
    for _ in range(count):
        heading = same + rng.normal(0, 10) if world.chance(0.5) else float(rng.uniform(0, 360))
        put_ship(
            world,
            rng.uniform(-reach, reach),
            rng.uniform(low, high),
            kind=kinds[rng.integers(len(kinds))],
            heading_deg=heading,
            margin_px=world.px(2),
            wake=world.chance(0.35),
        )


def draw_port(world: World) -> None:
    """Draw quays and broad piers with freighters, ferries or warships, and yards ashore."""
    rng, reach = world.rng, world.reach
    world.start(("concrete", "asphalt", "gravel", "soil")[rng.integers(4)])
    shore = rng.uniform(-0.2, 0.7) * reach
    world.flood(
        [world.frame.rect(-reach - 10, -reach - 10, reach + 10, shore)], shore=world.chance(0.3)
    )
    world.surroundings = "in a port"
    kinds = (
        ("freighter",),
        ("freighter", "barge", "tug"),
        ("warship",),
        ("warship", "carrier", "warship"),
        ("ferry", "yacht"),
        ("barge", "tug"),
        ("ferry", "freighter", "tug"),
    )[rng.integers(7)]
    if world.chance(0.65):
        pitch = world.px(rng.uniform(45, 150))
        for u in np.arange(-reach + rng.uniform(0, 1) * pitch, reach, pitch):
            length, width = world.px(rng.uniform(60, 260)), world.px(rng.uniform(6, 30))
            pier = world.pose(u, shore - length / 2, heading_deg=90.0, length=length, width=width)
            if not put_pier(world, pier, PIERS[rng.integers(len(PIERS))]):
                continue
            for side in (-1, 1):
                put_alongside(
                    world, u, shore - length / 2, side * width / 2, kinds=kinds, length_px=length
                )
    else:
        position = -reach
        while position < reach:
            kind = kinds[rng.integers(len(kinds))]
            length = float(rng.uniform(*SHIPS[kind].length_m))
            beam = world.px(length / float(rng.uniform(*SHIPS[kind].aspect)))
            if world.chance(0.7):
                put_ship(
                    world,
                    position + world.px(length / 2),
                    shore - beam / 2 - world.px(1.5),
                    kind=kind,
                    heading_deg=180.0 * rng.integers(2) + rng.normal(0, 0.5),
                    length_m=length,
                    max_beam_px=beam,
                )
            position += world.px(length + rng.uniform(4, 40))
        for u in np.arange(-reach, reach, world.px(60)):
            if world.chance(0.35):
                put_crane(
                    world,
                    u,
                    shore + world.px(4),
                    heading_deg=90.0,
                    size_m=float(rng.uniform(50, 100)),
                )
    put_afloat(world, -reach, shore, count=int(rng.integers(0, 8)), kinds=(*kinds, "motor boat"))
    fill_land(world, (-reach, shore + world.px(8), reach, reach), port=True)


def put_alongside(
    world: World, u: float, v: float, offset: float, *, kinds: tuple[str, ...], length_px: float
) -> None:
    """Ships alongside a pier, at times two abreast."""
    rng = world.rng
    side = 1 if offset > 0 else -1
    out = abs(offset) + world.px(1.0)
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        kind = kinds[rng.integers(len(kinds))]
        length = float(
            np.clip(rng.uniform(*SHIPS[kind].length_m), 0, 1.1 * length_px * world.gsd_m)
        )
        if length < 8:
            continue
        beam = world.px(length / float(rng.uniform(*SHIPS[kind].aspect)))
        put_ship(
            world,
            u + side * (out + beam / 2),
            v + rng.normal(0, 0.05) * length_px,
            kind=kind,
            heading_deg=90.0 + 180.0 * rng.integers(2) + rng.normal(0, 0.5),
            length_m=length,
            max_beam_px=beam,
        )
        out += beam + world.px(1.0)


def draw_sea(world: World) -> None:
    """Draw open water with ships of one size class, at times a wooded or sandy shore."""
    rng, reach = world.rng, world.reach
    world.start(("sand", "forest", "scrub", "grass", "soil")[rng.integers(5)])
    edge = reach * rng.uniform(0.3, 2.5)
    u = np.linspace(-reach - 10, reach + 10, 30)
    wave = sum(np.sin(u / reach * (k + 1) * 2 + rng.uniform(0, 6)) / (k + 1) for k in range(4))
    line = np.stack([u, edge + 0.12 * reach * wave], 1)
    water = np.concatenate([line, [[reach + 10, -2 * reach], [-reach - 10, -2 * reach]]])
    world.flood([world.frame.points(water)])
    world.surroundings = "on open water"
    kinds = (
        ("motor boat", "sailing boat"),
        ("freighter",),
        ("barge", "tug"),
        ("motor boat", "ferry"),
        ("warship",),
        ("open boat", "motor boat"),
        tuple(SHIPS),
    )[rng.integers(7)]
    put_afloat(world, -reach, min(edge, reach), count=int(rng.integers(2, 26)), kinds=kinds)
    if world.chance(0.4):
        color = PIERS[rng.integers(len(PIERS))]
        for _ in range(int(rng.integers(1, 5))):
            start, length = rng.uniform(-reach, reach), world.px(rng.uniform(12, 60))
            pier = world.pose(
                start,
                edge - 0.35 * length,
                heading_deg=90.0 + rng.normal(0, 6),
                length=length,
                width=world.px(rng.uniform(1.5, 4)),
            )
            put_pier(world, pier, color)
    put_trees(
        world, (-reach, -reach, reach, reach), count=int(rng.integers(0, 80)), radius_m=(1.5, 5)
    )
