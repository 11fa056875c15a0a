"""Painters of ships: boats, yachts, freighters, tankers, barges, ferries and warships.

Local frame: +x ahead in lengths, +y to starboard in beams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import Pose, ellipse, mirrored, rounded_rect
from tcm_d2.synthetic.photo.colors import CONTAINER_PAINTS, Palette, clip, pick, shade, vary

Painter = Callable[[Canvas, Pose, np.random.Generator, Color], None]


def hull_outline(rng: np.random.Generator, *, bow: float, stern: float) -> np.ndarray:
    """Return a hull; ``bow``: length of its pointed part, ``stern``: half width of its transom."""
    full = rng.uniform(0.7, 0.86)
    return mirrored(
        [
            [0.5, 0.0],
            [0.5 - 0.12 * bow, 0.36 * full * 0.5],
            [0.5 - 0.45 * bow, full * 0.42],
            [0.5 - bow, 0.49],
            [0.4 - bow, 0.5],
            [-0.3, 0.5],
            [-0.46, 0.5 * (stern + 1) / 2],
            [-0.5, 0.5 * stern],
        ]
    )


def _hull(canvas: Canvas, pose: Pose, outline: np.ndarray, color: Color, deck: Color) -> None:
    canvas.shadow(pose.points(outline), height_px=0.18 * pose.width)
    canvas.fill(pose.points(outline), color)
    canvas.fill(pose.points(outline * [0.95, 0.8]), deck)


def _block(
    canvas: Canvas,
    pose: Pose,
    box: tuple[float, float, float, float],
    color: Color,
    *,
    height: float = 0.2,
) -> None:
    """A cabin or deckhouse: centre, length and width in the local frame, with its shadow."""
    u, v, length, width = box
    outline = rounded_rect(length=length, width=width, radius=(0.2 * length, 0.2 * width)) + [u, v]
    canvas.shadow(pose.points(outline), height_px=height * pose.width, connected=True)
    canvas.fill(pose.points(outline), color)


def _deck_clutter(canvas: Canvas, pose: Pose, rng: np.random.Generator) -> None:
    """Hatches, cushions, dinghies, covers: small bright and dark patches on a deck."""
    if pose.length < 14:
        return
    tones: tuple[Color, ...] = (
        (30, 32, 38),
        (70, 72, 76),
        (246, 246, 244),
        (44, 66, 118),
        (150, 120, 88),
        (120, 122, 124),
    )
    for _ in range(int(rng.integers(1, 8))):
        size = rng.uniform(0.03, 0.14), rng.uniform(0.1, 0.5)
        patch = rounded_rect(length=size[0], width=size[1], radius=(0.02, 0.06))
        patch = patch + [rng.uniform(-0.4, 0.26), rng.normal(0, 0.08)]
        canvas.fill(pose.points(np.clip(patch, -0.47, 0.47)), tones[rng.integers(6)], alpha=0.85)


def paint_motor_boat(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a motor boat or yacht: cabin with dark windows, cockpit, at times a flying bridge."""
    outline = hull_outline(rng, bow=rng.uniform(0.3, 0.5), stern=rng.uniform(0.7, 0.95))
    wood = rng.random() < 0.25
    deck: Color = (
        vary(rng, (186, 158, 118), light=16) if wood else shade(color, rng.uniform(0.86, 1.0))
    )
    _hull(canvas, pose, outline, color, deck)
    u = rng.uniform(-0.06, 0.12)
    length, width = rng.uniform(0.24, 0.46), rng.uniform(0.46, 0.66)
    top = clip(np.array([1.0, 1.0, 1.0]) * rng.uniform(206, 250))
    if rng.random() < 0.7:
        _block(canvas, pose, (u, 0.0, length, width), top)
        glass = np.array(
            [
                [u + 0.42 * length, -0.42 * width],
                [u + 0.42 * length, 0.42 * width],
                [u + 0.2 * length, 0.36 * width],
                [u + 0.2 * length, -0.36 * width],
            ]
        )
        canvas.fill(pose.points(glass), (30, 38, 50))
    cockpit = rounded_rect(length=rng.uniform(0.14, 0.3), width=0.62) + [-0.33, 0]
    tone = ((70, 66, 62), (150, 126, 96), (52, 70, 104), (206, 204, 198))[rng.integers(4)]
    canvas.fill(pose.points(cockpit), tone)
    _deck_clutter(canvas, pose, rng)
    if rng.random() < 0.3:
        cover = rounded_rect(length=rng.uniform(0.3, 0.6), width=0.72) + [-0.14, 0]
        canvas.fill(
            pose.points(cover), ((44, 66, 112), (120, 124, 128), (70, 60, 56))[rng.integers(3)]
        )


def paint_sailing_boat(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a sailing boat without sails set: boom with its cover, mast and its long shadow."""
    outline = hull_outline(rng, bow=rng.uniform(0.48, 0.66), stern=rng.uniform(0.4, 0.85))
    deck = vary(rng, (196, 176, 140), light=12) if rng.random() < 0.35 else shade(color, 0.93)
    _hull(canvas, pose, outline, color, deck)
    _block(
        canvas,
        pose,
        (rng.uniform(-0.02, 0.08), 0.0, rng.uniform(0.26, 0.4), 0.48),
        shade(color, 1.03),
        height=0.06,
    )
    cockpit = rounded_rect(length=0.22, width=0.5) + [-0.31, 0]
    canvas.fill(pose.points(cockpit), (112, 104, 94), alpha=0.8)
    _deck_clutter(canvas, pose, rng)
    mast = np.array([rng.uniform(0.06, 0.14), 0.0])
    cover: Color = ((40, 62, 118), (226, 226, 220), (98, 32, 34), (50, 82, 72))[rng.integers(4)]
    boom = pose.points([mast, [-0.34, rng.uniform(-0.03, 0.03)]])
    canvas.stroke(boom, cover, width_px=max(0.7, 0.11 * pose.width))
    foot = pose.points([mast])[0]
    shadow = np.stack([foot, foot + canvas.sun_xy * pose.length * rng.uniform(0.5, 1.1)])
    canvas.stroke(shadow, (16, 20, 26), width_px=0.6, alpha=0.35 * canvas.shadow_alpha / 0.5)
    lean = rng.normal(0, 0.12, 2)
    top = foot + lean * pose.length
    canvas.stroke(np.stack([foot, top]), (214, 214, 210), width_px=0.6, alpha=0.8)


def paint_open_boat(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a rowing boat, dinghy or fishing boat: a rim around a dark inside with thwarts."""
    outline = hull_outline(rng, bow=rng.uniform(0.35, 0.6), stern=rng.uniform(0.5, 0.9))
    _hull(
        canvas,
        pose,
        outline,
        color,
        ((110, 96, 78), (86, 92, 98), (150, 140, 120))[rng.integers(3)],
    )
    for u in np.linspace(0.15, -0.3, int(rng.integers(1, 4))):
        canvas.stroke(pose.points([[u, -0.36], [u, 0.36]]), color, width_px=0.08 * pose.length)


def paint_freighter(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a bulk carrier, tanker or container ship with its bridge aft."""
    outline = hull_outline(rng, bow=rng.uniform(0.1, 0.2), stern=rng.uniform(0.6, 0.9))
    deck = vary(
        rng,
        ((132, 76, 60), (104, 114, 104), (146, 142, 132), (96, 60, 54))[rng.integers(4)],
        light=14,
    )
    _hull(canvas, pose, outline, color, deck)
    style = rng.choice(["hatches", "containers", "pipes"])
    low, high = -0.28, rng.uniform(0.34, 0.4)
    if style == "containers":
        rows = int(np.clip(pose.length / 9, 5, 22))
        for u in np.linspace(low, high, rows):
            for v in np.linspace(-0.36, 0.36, int(np.clip(pose.width / 3.5, 2, 7))):
                if rng.random() < 0.9:
                    half_u, half_v = (
                        0.42 * (high - low) / rows,
                        0.34 / np.clip(pose.width / 3.5, 2, 7),
                    )
                    box = np.array(
                        [
                            [u - half_u, v - half_v],
                            [u + half_u, v - half_v],
                            [u + half_u, v + half_v],
                            [u - half_u, v + half_v],
                        ]
                    )
                    canvas.fill(pose.points(box), pick(rng, CONTAINER_PAINTS))
    elif style == "hatches":
        rows = int(rng.integers(4, 9))
        tone = shade(deck, rng.uniform(0.6, 1.35))
        for u in np.linspace(low, high - 0.04, rows):
            _block(
                canvas,
                pose,
                (u, 0.0, 0.7 * (high - low) / rows, rng.uniform(0.5, 0.68)),
                tone,
                height=0.05,
            )
    else:
        canvas.stroke(
            pose.points([[low, 0], [high, 0]]), shade(deck, 1.3), width_px=0.12 * pose.width
        )
        for u in np.linspace(low, high, 5):
            canvas.stroke(pose.points([[u, -0.35], [u, 0.35]]), shade(deck, 0.75), width_px=0.6)
    castle = rng.uniform(-0.41, -0.34)
    _block(canvas, pose, (castle, 0.0, rng.uniform(0.06, 0.11), 0.84), (238, 238, 234), height=0.4)
    _block(canvas, pose, (castle - 0.05, 0.0, 0.03, 0.24), pick(rng, CONTAINER_PAINTS), height=0.3)


def paint_barge(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a river barge: a long box with open holds or covers."""
    outline = rounded_rect(radius=(0.04, 0.3))
    canvas.shadow(pose.points(outline), height_px=0.15 * pose.width)
    canvas.fill(pose.points(outline), color)
    load = ((46, 44, 44), (150, 132, 104), (104, 108, 112), (96, 58, 46))[rng.integers(4)]
    for u in np.linspace(-0.26, 0.32, int(rng.integers(1, 4))):
        canvas.fill(pose.points(rounded_rect(length=0.26, width=0.66) + [u, 0]), load)
    if rng.random() < 0.6:
        _block(canvas, pose, (-0.43, 0.0, 0.08, 0.66), (232, 232, 228))


def paint_ferry(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a ferry, cruise ship or large yacht: white decks in steps, funnels, boats."""
    outline = hull_outline(rng, bow=rng.uniform(0.16, 0.3), stern=rng.uniform(0.8, 1.0))
    _hull(canvas, pose, outline, color, (226, 226, 222))
    for step in range(int(rng.integers(2, 5))):
        size = 0.74 - 0.14 * step
        tone = shade((240, 240, 238), 1 - 0.05 * (step % 2))
        _block(canvas, pose, (-0.04 - 0.01 * step, 0.0, size, 0.82 - 0.12 * step), tone, height=0.1)
    if rng.random() < 0.6:
        pool = rounded_rect(length=0.07, width=0.26) + [rng.uniform(-0.2, 0.2), 0]
        canvas.fill(pose.points(pool), (70, 160, 190))
    _block(canvas, pose, (-0.24, 0.0, 0.07, 0.24), pick(rng, CONTAINER_PAINTS), height=0.4)


def paint_warship(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a grey warship: gun, deckhouses, mast, landing deck aft."""
    outline = hull_outline(rng, bow=rng.uniform(0.34, 0.48), stern=rng.uniform(0.6, 0.85))
    _hull(canvas, pose, outline, color, shade(color, rng.uniform(0.86, 1.06)))
    for _ in range(int(rng.integers(3, 7))):
        u = rng.uniform(-0.26, 0.24)
        box = (u, 0.0, rng.uniform(0.06, 0.18), rng.uniform(0.4, 0.76))
        _block(canvas, pose, box, shade(color, rng.uniform(0.9, 1.25)), height=0.3)
    x, y = pose.points([[0.3, 0]])[0]
    canvas.disc(x, y, max(0.8, 0.16 * pose.width), shade(color, 0.8))
    barrel = pose.points([[0.3, 0], [0.38, 0]])
    canvas.stroke(barrel, shade(color, 0.6), width_px=max(0.5, 0.05 * pose.width))
    if rng.random() < 0.7:
        ring = ellipse(center=(-0.38, 0), radii=(0.34 * pose.width / pose.length, 0.34), num=24)
        canvas.stroke(pose.points(ring), (226, 226, 220), width_px=0.6, closed=True, alpha=0.7)


def paint_carrier(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint an aircraft carrier: a flat deck with runways, an island, planes."""
    deck = np.array(
        [
            [0.5, -0.16],
            [0.5, 0.2],
            [0.3, 0.3],
            [0.1, 0.5],
            [-0.3, 0.5],
            [-0.48, 0.34],
            [-0.5, -0.3],
            [-0.3, -0.5],
            [0.1, -0.5],
            [0.3, -0.3],
        ]
    )
    canvas.shadow(pose.points(deck), height_px=0.2 * pose.width)
    canvas.fill(pose.points(deck), shade(color, 0.7))
    for line in (
        [[-0.48, -0.1], [0.3, -0.36]],
        [[-0.48, 0.02], [0.32, -0.24]],
        [[0.1, 0.08], [0.48, 0.02]],
    ):
        canvas.stroke(pose.points(line), (220, 220, 214), width_px=0.7, alpha=0.7)
    _block(canvas, pose, (rng.uniform(-0.1, 0.1), 0.38, 0.12, 0.13), shade(color, 1.15), height=0.3)
    for _ in range(int(rng.integers(4, 16))):
        u, v = rng.uniform(-0.42, 0.36), rng.choice([-0.36, 0.3]) + rng.normal(0, 0.04)
        dart = np.array([[0.025, 0], [-0.02, 0.07], [-0.02, -0.07]]) + [u, v]
        canvas.fill(pose.points(dart), (150, 154, 156))


def paint_wake(canvas: Canvas, pose: Pose, rng: np.random.Generator, *, length: float) -> None:
    """Paint foam behind a moving ship; ``length`` in ship lengths."""
    for half, reach, alpha in ((0.26, 1.0, 0.2), (0.2, 0.7, 0.2), (0.16, 0.4, 0.25)):
        churn = [
            [-0.45, -half],
            [-0.45, half],
            [-0.5 - reach * length, 1.6 * half],
            [-0.5 - reach * length, -1.6 * half],
        ]
        canvas.fill(pose.points(churn), (222, 230, 230), alpha=alpha)
    spread = rng.uniform(0.6, 1.6)
    for side in (-1, 1):
        for reach in (0.4, 0.8, 1.2):
            end = length * reach
            arm = [
                [0.42, side * 0.3],
                [-0.5 - end, side * (0.55 + spread * end)],
                [-0.46 - end, side * (0.75 + spread * end)],
                [0.42, side * 0.44],
            ]
            canvas.fill(pose.points(arm), (212, 222, 224), alpha=0.09)


class ShipKind(NamedTuple):
    """A kind of ship: its name, length in metres, length over beam, hull colours, painter."""

    name: str
    length_m: tuple[float, float]
    aspect: tuple[float, float]
    paints: Palette
    paint: Painter


_WHITE_HULLS: Palette = (
    ((242, 243, 241), 0.78),
    ((38, 52, 92), 0.08),
    ((206, 202, 190), 0.06),
    ((150, 40, 38), 0.03),
    ((120, 150, 160), 0.05),
)
_WORK_HULLS: Palette = (
    ((110, 46, 38), 0.2),
    ((44, 52, 62), 0.25),
    ((36, 74, 110), 0.2),
    ((88, 90, 90), 0.15),
    ((40, 92, 76), 0.1),
    ((150, 66, 44), 0.1),
)
_GREY_HULLS: Palette = (((132, 138, 142), 0.6), ((108, 114, 118), 0.25), ((158, 162, 164), 0.15))
SHIPS: dict[str, ShipKind] = {
    "motor boat": ShipKind("motor boat", (5.0, 16.0), (2.4, 3.6), _WHITE_HULLS, paint_motor_boat),
    "yacht": ShipKind("yacht", (15.0, 45.0), (3.3, 5.0), _WHITE_HULLS, paint_motor_boat),
    "sailing boat": ShipKind(
        "sailing boat", (6.0, 17.0), (2.7, 4.0), _WHITE_HULLS, paint_sailing_boat
    ),
    "open boat": ShipKind("rowing boat", (3.5, 9.0), (2.2, 4.2), _WHITE_HULLS, paint_open_boat),
    "freighter": ShipKind("cargo ship", (60.0, 300.0), (5.0, 8.0), _WORK_HULLS, paint_freighter),
    "barge": ShipKind("barge", (30.0, 110.0), (4.5, 9.0), _WORK_HULLS, paint_barge),
    "tug": ShipKind("tugboat", (16.0, 36.0), (2.4, 3.4), _WORK_HULLS, paint_motor_boat),
    "ferry": ShipKind("ferry", (35.0, 260.0), (4.0, 7.0), _WHITE_HULLS, paint_ferry),
    "warship": ShipKind("warship", (60.0, 200.0), (6.5, 9.5), _GREY_HULLS, paint_warship),
    "carrier": ShipKind("aircraft carrier", (220.0, 335.0), (4.0, 5.4), _GREY_HULLS, paint_carrier),
}
