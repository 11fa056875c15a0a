"""Scenes of sports grounds: tracks, fields, diamonds and courts in blocks between paths."""

from __future__ import annotations

import math

import numpy as np

from tcm_d2.synthetic import facilities
from tcm_d2.synthetic.facilities import BASKETBALL_COLORS, COURT_COLORS
from tcm_d2.synthetic.geometry import Pose
from tcm_d2.synthetic.scene import Extent, Scene, split_blocks
from tcm_d2.synthetic.surroundings import paint_hall, paint_lot, paint_road, paint_trees

_FACILITIES = (
    "ground-track-field", "baseball-diamond", "basketball-court", "soccer-ball-field",
    "tennis-court", "ground-track-field", "baseball-diamond", "basketball-court",
    "swimming-pool", "tennis-court",
)  # fmt: skip
# Room a facility wants, in lengths of its objects.
_ROOM = {
    "ground-track-field": 1.1,
    "baseball-diamond": 2.0,
    "basketball-court": 1.2,
    "soccer-ball-field": 1.1,
    "tennis-court": 1.4,
    "swimming-pool": 1.8,
}


def draw_sports(scene: Scene) -> None:
    """Draw a sports campus."""
    rng = scene.rng
    scene.prepare(("grass", "lush", "dry", "urban")[rng.choice(4, p=[0.45, 0.2, 0.2, 0.15])])
    track_long = scene.class_size("ground-track-field")[0]
    scene.gsd_m = 176.0 / track_long
    side = max(1.35 * track_long, 120.0)
    reach = scene.reach
    blocks = split_blocks(
        rng, (-reach, -reach, reach, reach), min_side=0.55 * side, max_side=1.25 * side
    )
    for u0, v0, u1, v1 in blocks:
        ends = scene.frame.points([[u0, v0], [u1, v0]]), scene.frame.points([[u0, v0], [u0, v1]])
        for points in ends:
            paint_road(scene.canvas, points, width_px=5.0, color=(168, 164, 152), lanes=1)
    kinds = [name for name in _FACILITIES if name in scene.config.classes] or list(_FACILITIES)
    first = int(rng.integers(len(kinds)))
    chosen = [kinds[(first + turn) % len(kinds)] for turn in range(len(blocks))]
    # Large facilities go into large blocks, roughly.
    room = [max(u1 - u0, v1 - v0) * rng.uniform(0.75, 1.33) for u0, v0, u1, v1 in blocks]
    need = [scene.class_size(kind)[0] * _ROOM[kind] for kind in chosen]
    for block, kind in zip(np.argsort(room), np.argsort(need, kind="stable")):
        u0, v0, u1, v1 = blocks[block]
        _fill_block(scene, (u0 + 6, v0 + 6, u1 - 6, v1 - 6), kind=chosen[kind])
    paint_trees(
        scene.canvas, rng, count=int(70 * (reach / 256) ** 2), radius_px=(4, 10), clusters=9
    )


def _fill_block(scene: Scene, extent: Extent, *, kind: str) -> None:
    u0, v0, u1, v1 = extent
    if scene.chance(0.06):
        pose = scene.pose(
            (u0 + u1) / 2,
            (v0 + v1) / 2,
            heading_deg=0,
            length=0.6 * (u1 - u0),
            width=0.6 * (v1 - v0),
        )
        paint_hall(scene.canvas, pose, scene.rng)
        return
    fill = {
        "ground-track-field": _fill_track,
        "baseball-diamond": _fill_diamonds,
        "soccer-ball-field": _fill_soccer,
        "tennis-court": _fill_tennis,
        "basketball-court": _fill_basketball,
        "swimming-pool": _fill_pools,
    }[kind]
    fill(scene, extent)


def _fitted_pose(scene: Scene, extent: Extent, *, class_name: str, fill: float = 0.94) -> Pose:
    """Return a pose in the middle of a block, along its longer side, shrunk to fit."""
    u0, v0, u1, v1 = extent
    along_u = (u1 - u0) >= (v1 - v0)
    room_long, room_short = max(u1 - u0, v1 - v0) * fill, min(u1 - u0, v1 - v0) * fill
    length, width = scene.sample_size(class_name)
    factor = min(1.0, room_long / length, room_short / width)
    heading = (0.0 if along_u else 90.0) + 180.0 * scene.rng.integers(2) + scene.rng.normal(0, 1.5)
    return scene.pose(
        (u0 + u1) / 2,
        (v0 + v1) / 2,
        heading_deg=heading,
        length=length * factor,
        width=width * factor,
    )


def _fill_track(scene: Scene, extent: Extent) -> None:
    canvas, rng = scene.canvas, scene.rng
    pose = _fitted_pose(scene, extent, class_name="ground-track-field")
    band_px = [0.0]

    def paint() -> None:
        band_px[0] = facilities.paint_track(canvas, pose, rng)

    if not scene.place("ground-track-field", pose, paint) or not scene.chance(0.7):
        return
    radius = pose.width / 2 - band_px[0]
    half_width = 0.84 * radius
    straight = pose.length / 2 - pose.width / 2
    half_length = 0.96 * (straight + math.sqrt(radius**2 - half_width**2))
    half_length = min(half_length, rng.uniform(1.5, 1.8) * half_width)
    field = Pose(pose.x, pose.y, pose.heading_deg, 2 * half_length, 2 * half_width)
    scene.place(
        "soccer-ball-field",
        field,
        lambda: facilities.paint_soccer_field(canvas, field, rng),
        over=True,
    )


def _fill_soccer(scene: Scene, extent: Extent) -> None:
    pose = _fitted_pose(scene, extent, class_name="soccer-ball-field")
    scene.place(
        "soccer-ball-field",
        pose,
        lambda: facilities.paint_soccer_field(scene.canvas, pose, scene.rng),
    )


def _fill_diamonds(scene: Scene, extent: Extent) -> None:
    """One diamond, or a clover of two or four that share the middle of the block."""
    rng = scene.rng
    u0, v0, u1, v1 = extent
    side = scene.sample_size("baseball-diamond")[0]
    width, height = u1 - u0, v1 - v0
    columns = 2 if width > 2.6 * side else 1
    rows = 2 if height > 2.6 * side else 1
    cell_u, cell_v = width / columns, height / rows
    reach = min(2.6, 0.88 * min(cell_u, cell_v) / side)
    if reach < 1.12:
        side *= reach / 1.12
        reach = 1.12
    for column in range(columns):
        for row in range(rows):
            # Home plates lie towards the block's middle; a single one in a random corner.
            sign_u = 1 if (column == 1 if columns == 2 else scene.chance(0.5)) else -1
            sign_v = 1 if (row == 1 if rows == 2 else scene.chance(0.5)) else -1
            centre_u = u0 + (column + 0.5) * cell_u
            centre_v = v0 + (row + 0.5) * cell_v
            home_u = centre_u - sign_u * 0.5 * reach * side
            home_v = centre_v - sign_v * 0.5 * reach * side
            # The heading for which +x, +y (right of it) point away from home plate.
            heading = {(1, 1): 0.0, (1, -1): 90.0, (-1, -1): 180.0, (-1, 1): 270.0}[sign_u, sign_v]
            pose = scene.pose(
                home_u + sign_u * side / 2,
                home_v + sign_v * side / 2,
                heading_deg=heading,
                length=side,
                width=side,
            )
            _place_diamond(scene, pose, reach=reach * rng.uniform(0.9, 1.0))


def _place_diamond(scene: Scene, pose: Pose, *, reach: float) -> None:
    def paint() -> None:
        if reach > 1.25:
            facilities.paint_outfield(scene.canvas, pose, scene.rng, reach=reach)
        facilities.paint_baseball_diamond(scene.canvas, pose, scene.rng)

    if scene.place("baseball-diamond", pose, paint):
        outfield = pose.points([[-0.5, -0.5], [reach - 0.5, -0.5], [reach - 0.5, reach - 0.5],
                                [-0.5, reach - 0.5]])  # fmt: skip
        scene.canvas.reserve(outfield)


def _fill_tennis(scene: Scene, extent: Extent) -> None:
    colors = COURT_COLORS[scene.rng.integers(len(COURT_COLORS))]
    alpha = scene.rng.uniform(0.65, 1.0)
    _fill_courts(
        scene,
        extent,
        class_name="tennis-court",
        surround=colors[1],
        pitch=(1.32, 1.5),
        paint=lambda pose: facilities.paint_tennis_court(
            scene.canvas, pose, colors=colors, line_alpha=alpha
        ),
    )


def _fill_basketball(scene: Scene, extent: Extent) -> None:
    colors = BASKETBALL_COLORS[scene.rng.integers(len(BASKETBALL_COLORS))]
    surround = (142, 140, 134) if scene.chance(0.6) else (112, 122, 110)
    alpha = scene.rng.uniform(0.6, 1.0)
    _fill_courts(
        scene,
        extent,
        class_name="basketball-court",
        surround=surround,
        pitch=(1.14, 1.2),
        paint=lambda pose: facilities.paint_basketball_court(
            scene.canvas, pose, colors=colors, line_alpha=alpha
        ),
    )


def _fill_pools(scene: Scene, extent: Extent) -> None:
    """A bath: one or two pools on a light deck beside a hall."""
    u0, v0, u1, v1 = extent
    length, width = scene.sample_size("swimming-pool")
    if "swimming-pool" not in scene.config.classes or min(u1 - u0, v1 - v0) < 1.5 * width:
        return
    middle_v = (v0 + v1) / 2
    number = 2 if u1 - u0 > 3.2 * length else 1
    half_u = min(0.47 * (u1 - u0), number * 0.75 * length)
    half_v = min(0.47 * (v1 - v0), 1.1 * width)
    middle_u = (u0 + u1) / 2
    lot = (middle_u - half_u, middle_v - half_v, middle_u + half_u, middle_v + half_v)
    paint_lot(scene.canvas, scene.frame, lot, color=(206, 202, 192))
    for index in range(number):
        u = middle_u + (index - (number - 1) / 2) * 1.4 * length
        pose = scene.pose(u, middle_v, heading_deg=0.0, length=length, width=width)
        style = "lanes" if index == 0 else "round"
        scene.place(
            "swimming-pool",
            pose,
            lambda pose=pose, style=style: facilities.paint_pool(
                scene.canvas, pose, scene.rng, style=style
            ),
        )
    if v1 - middle_v - half_v > 26:
        hall = scene.pose(
            middle_u,
            (v1 + middle_v + half_v) / 2,
            heading_deg=0.0,
            length=1.2 * half_u,
            width=0.7 * (v1 - middle_v - half_v),
        )
        paint_hall(scene.canvas, hall, scene.rng)
    scene.canvas.reserve(scene.frame.rect(*extent))


def _fill_courts(  # type: ignore[no-untyped-def]
    scene: Scene, extent: Extent, *, class_name: str, surround, pitch: tuple[float, float], paint
) -> None:
    """Fill a block with rows of equal courts; ``pitch`` is in court lengths and widths."""
    u0, v0, u1, v1 = extent
    length, width = scene.sample_size(class_name)
    along_u = (u1 - u0) >= (v1 - v0)
    if scene.chance(0.4):
        along_u = not along_u
    room = (u1 - u0, v1 - v0) if along_u else (v1 - v0, u1 - u0)
    factor = min(1.0, 0.94 * room[0] / (length * pitch[0]), 0.94 * room[1] / (width * pitch[1]))
    length, width = length * factor, width * factor
    rows = min(3, int(room[0] / (length * pitch[0])))
    columns = min(5, int(room[1] / (width * pitch[1])))
    centre_u, centre_v = (u0 + u1) / 2, (v0 + v1) / 2
    half = (rows * length * pitch[0] / 2, columns * width * pitch[1] / 2)
    half_u, half_v = half if along_u else half[::-1]
    lot = (centre_u - half_u, centre_v - half_v, centre_u + half_u, centre_v + half_v)
    if not scene.canvas.is_free(scene.frame.rect(*lot)):
        return
    if class_name in scene.config.classes:
        paint_lot(scene.canvas, scene.frame, lot, color=surround)
    for row in range(rows):
        for column in range(columns):
            a = (row + 0.5 - rows / 2) * length * pitch[0]
            b = (column + 0.5 - columns / 2) * width * pitch[1]
            u, v = (a, b) if along_u else (b, a)
            pose = scene.pose(
                centre_u + u,
                centre_v + v,
                heading_deg=0.0 if along_u else 90.0,
                length=length,
                width=width,
            )
            scene.place(class_name, pose, lambda pose=pose: paint(pose), margin_px=0.5)
    scene.canvas.reserve(scene.frame.rect(*lot))
