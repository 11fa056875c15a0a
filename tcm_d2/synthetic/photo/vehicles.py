"""Painters of road vehicles: cars of all bodies and colours, buses, lorries, trailers.

Each painter fills its ``Pose`` exactly and returns nothing; sizes in metres stand in `VEHICLES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.geometry import Pose, rounded_rect
from tcm_d2.synthetic.photo.colors import (
    BUS_PAINTS,
    CAR_PAINTS,
    CONTAINER_PAINTS,
    TRUCK_PAINTS,
    Palette,
    pick,
    shade,
)

Painter = Callable[[Canvas, Pose, np.random.Generator, Color], None]
_GLASS: Color = (30, 36, 44)


def _band(u0: float, u1: float, half: float, taper: float = 0.0) -> np.ndarray:
    """Return a quad across the vehicle from u0 to u1, narrower by ``taper`` at u1."""
    return np.array([[u0, -half], [u0, half], [u1, half - taper], [u1, -half + taper]])


def _body(canvas: Canvas, pose: Pose, color: Color, *, height: float, radius: tuple) -> None:
    """Shadow, outline with a dark edge, and a lit and a shaded flank."""
    outline = rounded_rect(radius=radius)
    canvas.shadow(pose.points(outline), height_px=height * pose.width, connected=True)
    canvas.fill(pose.points(outline), shade(color, 0.72))
    canvas.fill(pose.points(outline * [0.97, 0.92]), color)


def paint_car(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a saloon or hatchback."""
    _body(canvas, pose, color, height=0.4, radius=(0.13, 0.24))
    glass = shade(_GLASS, rng.uniform(0.7, 2.2))
    front, rear = rng.uniform(0.2, 0.28), rng.uniform(-0.42, -0.3)
    canvas.fill(pose.points(_band(front, front - 0.13, 0.38, 0.06)), glass)
    canvas.fill(pose.points(_band(rear, rear + 0.1, 0.36, 0.04)), glass)
    if pose.length > 14:
        for side in (-1, 1):
            flank = np.array(
                [
                    [front - 0.05, 0.36],
                    [rear + 0.04, 0.36],
                    [rear + 0.08, 0.3],
                    [front - 0.12, 0.31],
                ]
            ) * [1, side]
            canvas.fill(pose.points(flank), glass, alpha=0.85)
    canvas.fill(pose.points(_band(front - 0.13, rear + 0.1, 0.31)), shade(color, 1.1))
    if pose.length > 24:
        hood = pose.points([[front + 0.02, 0.0], [0.46, 0.0]])
        canvas.stroke(hood, shade(color, 1.15), width_px=0.12 * pose.width, alpha=0.4)


def paint_van(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a van or an off-road car: a long roof behind one windscreen."""
    _body(canvas, pose, color, height=0.55, radius=(0.08, 0.18))
    front = rng.uniform(0.26, 0.4)
    canvas.fill(
        pose.points(_band(front, front - 0.1, 0.4, 0.05)), shade(_GLASS, rng.uniform(0.8, 1.6))
    )
    canvas.fill(pose.points(_band(front - 0.1, -0.45, 0.36)), shade(color, 1.07))
    if rng.random() < 0.4:
        for u in np.linspace(front - 0.2, -0.36, 3):
            line = pose.points([[u, -0.3], [u, 0.3]])
            canvas.stroke(line, shade(color, 0.8), width_px=0.04 * pose.length, alpha=0.5)


def paint_pickup(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a pick-up: a short cabin before an open bed, at times loaded."""
    _body(canvas, pose, color, height=0.42, radius=(0.09, 0.16))
    canvas.fill(pose.points(_band(0.24, 0.13, 0.38, 0.05)), _GLASS)
    canvas.fill(pose.points(_band(0.13, -0.08, 0.34)), shade(color, 1.1))
    canvas.fill(pose.points(_band(-0.08, -0.12, 0.34)), _GLASS)
    bed = shade(color, rng.uniform(0.35, 0.7)) if rng.random() < 0.7 else (150, 132, 108)
    canvas.fill(pose.points(_band(-0.14, -0.46, 0.38)), bed)


def paint_bus(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a bus or coach: a long roof, at times with a white top, hatches and units."""
    _body(canvas, pose, color, height=0.9, radius=(0.03, 0.14))
    canvas.fill(pose.points(_band(0.485, 0.45, 0.42, 0.02)), _GLASS)
    roof = shade(color, 1.08)
    if rng.random() < 0.35:
        roof = (238, 238, 234)
    canvas.fill(pose.points(_band(0.43, -0.46, 0.36)), roof)
    for u in np.linspace(0.3, -0.36, int(rng.integers(1, 6))):
        hatch = rounded_rect(length=rng.uniform(0.03, 0.08), width=rng.uniform(0.2, 0.45)) + [u, 0]
        canvas.fill(pose.points(hatch), shade(roof, rng.choice([0.72, 0.86, 1.1])))
    if rng.random() < 0.4:  # ribs of a school bus
        for u in np.linspace(-0.4, 0.38, 9):
            line = pose.points([[u, -0.36], [u, 0.36]])
            canvas.stroke(line, shade(roof, 0.88), width_px=0.5, alpha=0.5)


def paint_short_bus(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a school bus with a bonnet before its cabin."""
    body = Pose(*pose.points([[-0.07, 0.0]])[0], pose.heading_deg, 0.86 * pose.length, pose.width)
    nose = rounded_rect(length=0.3, width=0.78, radius=(0.06, 0.16)) + [0.35, 0]
    canvas.shadow(pose.points(nose), height_px=0.3 * pose.width)
    canvas.fill(pose.points(nose), shade(color, 0.92))
    paint_bus(canvas, body, rng, color)


def paint_box_truck(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a lorry with a box, a bed or a mixer behind its cab."""
    _truck(canvas, pose, rng, color, cab=rng.uniform(0.17, 0.28))


def paint_semi(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a road tractor with its trailer."""
    _truck(canvas, pose, rng, color, cab=min(0.3, 1.6 * pose.width / pose.length))


def _truck(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color, *, cab: float
) -> None:
    front = 0.5 - cab
    gap = rng.uniform(0.01, 0.04)
    whole = np.array([[0.5, -0.46], [0.5, 0.46], [-0.5, 0.5], [-0.5, -0.5]])
    canvas.shadow(pose.points(whole), height_px=0.95 * pose.width, connected=True)
    canvas.fill(pose.points(whole * [1, 0.6]), (40, 40, 42))
    cab_color = pick(rng, CAR_PAINTS)
    cabin = rounded_rect(length=cab, width=0.92, radius=(0.04, 0.16)) + [(0.5 + front) / 2, 0]
    canvas.fill(pose.points(cabin), shade(cab_color, 0.85))
    canvas.fill(
        pose.points((cabin - [(0.5 + front) / 2, 0]) * [0.8, 0.84] + [(0.5 + front) / 2, 0]),
        cab_color,
    )
    canvas.fill(pose.points(_band(0.5 - 0.15 * cab, 0.5 - 0.35 * cab, 0.4, 0.03)), _GLASS)
    _load(canvas, pose, rng, color, front=front - gap)


def paint_trailer(canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color) -> None:
    """Paint a parked trailer without a tractor."""
    outline = pose.points(_band(0.5, -0.5, 0.5))
    canvas.shadow(outline, height_px=0.9 * pose.width, connected=True)
    _load(canvas, pose, rng, color, front=0.5)


def _load(
    canvas: Canvas, pose: Pose, rng: np.random.Generator, color: Color, *, front: float
) -> None:
    """The part behind the cab: a closed box, a tank, an open bed with its load, a flat bed."""
    kind = rng.choice(["box", "box", "box", "tank", "bed", "flat"])
    rect = _band(front, -0.5, 0.5)
    if kind == "tank":
        canvas.fill(pose.points(_band(front, -0.5, 0.46)), shade(color, 0.62))
        canvas.fill(pose.points(_band(front, -0.5, 0.5) * [1, 0.62]), color)
        canvas.fill(pose.points(_band(front, -0.5, 0.14)), shade(color, 1.18))
        canvas.fill(pose.points(rect * [1, 0.06]), (70, 70, 72), alpha=0.6)
        canvas.stroke(pose.points(rect), shade(color, 0.5), width_px=0.5, closed=True, alpha=0.7)
        return
    canvas.fill(pose.points(rect), shade(color, 0.8))
    inner = (rect - [(front - 0.5) / 2, 0]) * [0.96, 0.88] + [(front - 0.5) / 2, 0]
    if kind == "bed":
        canvas.fill(
            pose.points(inner), ((140, 120, 96), (58, 56, 54), (170, 164, 152))[rng.integers(3)]
        )
        return
    if kind == "flat":
        canvas.fill(pose.points(inner), (112, 96, 78))
        for u in np.linspace(front - 0.12, -0.4, 4):
            if rng.random() < 0.6:
                box = rounded_rect(length=0.12, width=0.7, radius=(0.01, 0.02)) + [u, 0]
                canvas.fill(pose.points(box), pick(rng, CONTAINER_PAINTS))
        return
    canvas.fill(pose.points(inner), color)
    canvas.fill(pose.points(inner * [1, 0.5] - [0, 0.21]), shade(color, 1.06))
    if pose.length > 22:
        for u in np.linspace(front - 0.05, -0.45, int(rng.integers(4, 12))):
            line = pose.points([[u, -0.44], [u, 0.44]])
            canvas.stroke(line, shade(color, 0.82), width_px=0.5, alpha=0.5)


class VehicleKind(NamedTuple):
    """A kind of vehicle: its name, class, sizes in metres (as labels go, mirrors included)."""

    name: str
    class_name: str
    length_m: tuple[float, float]
    width_m: tuple[float, float]
    paints: Palette
    paint: Painter


_SMALL, _LARGE = "small-vehicle", "large-vehicle"
VEHICLES: dict[str, VehicleKind] = {
    "car": VehicleKind("car", _SMALL, (4.0, 5.0), (1.95, 2.2), CAR_PAINTS, paint_car),
    "van": VehicleKind("van", _SMALL, (4.5, 5.8), (2.0, 2.35), CAR_PAINTS, paint_van),
    "pickup": VehicleKind("pick-up", _SMALL, (5.0, 6.0), (2.0, 2.3), CAR_PAINTS, paint_pickup),
    "bus": VehicleKind("bus", _LARGE, (9.0, 13.0), (2.6, 3.0), BUS_PAINTS, paint_bus),
    "school bus": VehicleKind(
        "school bus",
        _LARGE,
        (6.5, 12.0),
        (2.5, 2.9),
        (((228, 168, 40), 0.8), ((238, 238, 234), 0.2)),
        paint_short_bus,
    ),
    "truck": VehicleKind("truck", _LARGE, (6.5, 10.5), (2.5, 2.9), TRUCK_PAINTS, paint_box_truck),
    "semi": VehicleKind(
        "semi-trailer truck", _LARGE, (13.0, 20.0), (2.6, 3.0), TRUCK_PAINTS, paint_semi
    ),
    "trailer": VehicleKind("trailer", _LARGE, (9.0, 16.5), (2.5, 3.0), TRUCK_PAINTS, paint_trailer),
}
SMALL_MIX: tuple[tuple[str, float], ...] = (("car", 0.6), ("van", 0.24), ("pickup", 0.16))
LARGE_MIX: tuple[tuple[str, float], ...] = (
    ("truck", 0.3),
    ("semi", 0.24),
    ("trailer", 0.2),
    ("bus", 0.16),
    ("school bus", 0.1),
)
