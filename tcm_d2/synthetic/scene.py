"""The context that scene painters share: canvas, random numbers, sizes, placing of objects."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tcm_d2.synthetic import textures, vehicles
from tcm_d2.synthetic.canvas import Canvas
from tcm_d2.synthetic.config import CLASS_SIZES, SyntheticConfig
from tcm_d2.synthetic.geometry import Frame, Pose, fraction_inside
from tcm_d2.synthetic.surroundings import ROAD_COLORS

# Objects with less of them inside the image are not drawn at all.
MIN_VISIBLE_FRACTION = 0.6
# Parts of the size spread that all classes of a scene share and that each class has to itself.
_SHARED_SPREAD, _OWN_SPREAD = 0.75, 0.65
# These classes fill a scene, so scenes of small objects hold more of them. Sizes are raised by
# exp(_CROWDING * spread^2) to bring the median over objects back to DOTA's.
_FILLING_CLASSES = frozenset(
    ("plane", "storage-tank", "baseball-diamond", "basketball-court", "tennis-court")
)
_CROWDING = 1.2
# Scatter of single objects around their class's size in the scene (log-normal).
_OBJECT_SPREAD = {"ship": 0.16, "large-vehicle": 0.12, "plane": 0.05, "swimming-pool": 0.15}
# Part of scenes whose frame is parallel to the image's sides.
_ALIGNED_FRACTION = 0.3

Extent = tuple[float, float, float, float]


class Scene:
    """One image in the making.

    Attributes:
        rng: the image's own random numbers.
        config: settings of the data set.
        frame: rotated frame at the image centre that the layout follows.
        reach: half the side of a square in the frame that covers the image.
        canvas: what is painted on; set by ``prepare``.
        water: bool (H, W), where ships may float.
        gsd_m: metres per pixel, for the label file.
    """

    canvas: Canvas

    def __init__(self, rng: np.random.Generator, config: SyntheticConfig) -> None:
        self.rng = rng
        self.config = config
        size = config.image_size_px
        aligned = rng.random() < _ALIGNED_FRACTION
        angle_deg = 90.0 * rng.integers(4) if aligned else rng.uniform(0, 360)
        self.frame = Frame(size / 2, size / 2, float(angle_deg))
        turn = math.radians(angle_deg)
        self.reach = 0.5 * size * (abs(math.cos(turn)) + abs(math.sin(turn))) + 4
        self.shared_zoom = float(np.clip(rng.standard_normal(), -1.6, 1.6))
        sun_rad = rng.uniform(0, 2 * np.pi)
        self.sun_xy = np.array([np.cos(sun_rad), np.sin(sun_rad)]) * rng.uniform(0.5, 1.3)
        self.shadow_alpha = float(rng.uniform(0.38, 0.62))
        self.road_color = ROAD_COLORS[rng.integers(len(ROAD_COLORS))]
        self.water = np.zeros((size, size), bool)
        self.gsd_m = 0.25
        self._sizes: dict[str, tuple[float, float]] = {}

    def prepare(self, kind: str) -> None:
        """Start the canvas with a ground of the given kind."""
        size = self.config.image_size_px
        background = textures.ground(self.rng, size, size, kind=kind, sun_xy=self.sun_xy)
        self.canvas = Canvas(background, sun_xy=self.sun_xy, shadow_alpha=self.shadow_alpha)

    def add_water(self, polygons: list[np.ndarray]) -> None:
        """Flood polygons: paint them as water and mark them as such."""
        size = self.config.image_size_px
        surface = textures.water(self.rng, size, size, sun_xy=self.sun_xy)
        before = self.canvas.occupied
        self.canvas.occupied = np.zeros_like(before)
        for polygon in polygons:
            self.canvas.stroke(polygon, (150, 142, 120), width_px=5, closed=True, alpha=0.5)
            self.canvas.reserve(polygon)
        mask = self.canvas.occupied
        self.canvas.occupied = before
        self.canvas.texture_mask(mask * np.uint8(255), surface)
        self.water |= mask.astype(bool)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def class_size(self, class_name: str) -> tuple[float, float]:
        """Return this scene's typical (long, short) side of a class in pixels."""
        if class_name not in self._sizes:
            config, stats = self.config, CLASS_SIZES[class_name]
            own = float(np.clip(self.rng.standard_normal(), -1.8, 1.8))
            spread = config.size_spread * stats.long_spread
            zoom = math.exp(spread * (_SHARED_SPREAD * self.shared_zoom + _OWN_SPREAD * own))
            scatter = float(np.clip(self.rng.standard_normal(), -1.6, 1.6))
            aspect = max(1.0, stats.aspect * math.exp(stats.aspect_spread * scatter))
            aspect = min(aspect, config.max_aspect_ratio)
            crowding = _CROWDING if class_name in _FILLING_CLASSES else 0.0
            zoom *= math.exp(crowding * (config.size_spread * stats.long_spread) ** 2)
            long_px = stats.long_px * config.objects_scale * zoom
            long_px = min(long_px, config.max_long_fraction * config.image_size_px)
            short_px = max(long_px / aspect, 1.08 * config.min_short_side_px)
            self._sizes[class_name] = (short_px * aspect, short_px)
        return self._sizes[class_name]

    def sample_size(self, class_name: str) -> tuple[float, float]:
        """Return (long, short) of one object: the scene's size with a little scatter."""
        long_px, short_px = self.class_size(class_name)
        spread = _OBJECT_SPREAD.get(class_name, 0.04)
        factor = math.exp(spread * float(np.clip(self.rng.standard_normal(), -2, 2)))
        factor = max(factor, 1.02 * self.config.min_short_side_px / short_px)
        return long_px * factor, short_px * factor

    def pose(self, u: float, v: float, *, heading_deg: float, length: float, width: float) -> Pose:
        """Return the pose of an object in this scene's frame."""
        return self.frame.pose(u, v, heading_deg=heading_deg, length=length, width=width)

    def place(
        self,
        class_name: str,
        pose: Pose,
        paint: Callable[[], object],
        *,
        margin_px: float = 1.0,
        on_water: bool = False,
        over: bool = False,
    ) -> bool:
        """Paint and label an object where there is room for it.

        Args:
            class_name: its class; nothing happens when the settings leave that class out.
            pose: its exact rectangle.
            paint: draws it.
            margin_px: room kept around it.
            on_water: it must lie wholly on water, otherwise wholly on land.
            over: it may stand on something (a field inside a track, a bridge over a river).

        Returns:
            Whether the object was drawn.
        """
        if class_name not in self.config.classes:
            return False
        if pose.short_side < self.config.min_short_side_px:
            return False
        quad = pose.quad()
        size = self.config.image_size_px
        visible = fraction_inside(quad, width_px=size, height_px=size)
        if visible < MIN_VISIBLE_FRACTION:
            return False
        room = pose.grown(margin_px).quad()
        if not over:
            if not self.canvas.is_free(room):
                return False
            if self.water_fraction(quad) != (1.0 if on_water else 0.0):
                return False
        paint()
        self.canvas.reserve(room)
        self.canvas.record(class_name, pose, visible_fraction=visible)
        return True

    def water_fraction(self, quad: np.ndarray) -> float:
        """Return the part of the quad's corners and centre (where inside the image) on water."""
        mid = np.stack([quad, np.roll(quad, 1, axis=0)]).mean(0)
        points = np.concatenate([quad, mid, quad.mean(0, keepdims=True)])
        size = self.config.image_size_px
        inside = (points >= 0).all(1) & (points < size).all(1)
        if not inside.any():
            return 0.0
        columns, rows = points[inside].astype(int).T
        return float(self.water[rows, columns].mean())

    def car(self, u: float, v: float, *, heading_deg: float, margin_px: float = 1.0) -> bool:
        """Place a small vehicle in the frame."""
        length, width = self.sample_size("small-vehicle")
        pose = self.pose(u, v, heading_deg=heading_deg, length=length, width=width)
        return self.place(
            "small-vehicle",
            pose,
            lambda: vehicles.paint_car(self.canvas, pose, self.rng),
            margin_px=margin_px,
        )

    def truck(
        self,
        u: float,
        v: float,
        *,
        heading_deg: float,
        style: str | None = None,
        margin_px: float = 1.0,
    ) -> bool:
        """Place a large vehicle in the frame; ``style`` as in ``paint_truck``."""
        length, width = self.sample_size("large-vehicle")
        if style is None:
            style = "trailer" if length / width > 3.2 else ("box", "bus")[self.rng.integers(2)]
        pose = self.pose(u, v, heading_deg=heading_deg, length=length, width=width)
        return self.place(
            "large-vehicle",
            pose,
            lambda: vehicles.paint_truck(self.canvas, pose, self.rng, style=style),
            margin_px=margin_px,
        )

    def traffic(
        self,
        start_uv: tuple[float, float],
        stop_uv: tuple[float, float],
        *,
        lane_px: float,
        spacing_px: float,
        truck_part: float,
    ) -> None:
        """Place vehicles on both lanes of a straight road of the frame (which is not reserved)."""
        start, stop = np.array(start_uv), np.array(stop_uv)
        length = float(np.hypot(*(stop - start)))
        step = (stop - start) / max(1e-6, length)
        right = np.array([-step[1], step[0]])
        heading = math.degrees(math.atan2(-step[1], step[0]))
        for lane, turn in ((1, 0.0), (-1, 180.0)):
            along = self.rng.uniform(0, spacing_px)
            while along < length:
                u, v = start + step * along + right * lane * lane_px / 2
                wobble = self.rng.normal(0, 1.5)
                if self.chance(truck_part):
                    self.truck(u, v, heading_deg=heading + turn + wobble)
                else:
                    self.car(u, v, heading_deg=heading + turn + wobble)
                along += spacing_px * self.rng.uniform(0.5, 1.8) / max(0.05, self.config.density)


def split_blocks(
    rng: np.random.Generator, extent: Extent, *, min_side: float, max_side: float
) -> list[Extent]:
    """Cut a rectangle (u0, v0, u1, v1) into blocks until no side is longer than ``max_side``."""
    u0, v0, u1, v1 = extent
    width, height = u1 - u0, v1 - v0
    if max(width, height) <= max_side or max(width, height) < 2 * min_side:
        return [extent]
    long_side = max(width, height)
    cut = rng.uniform(max(0.35 * long_side, min_side), min(0.65 * long_side, long_side - min_side))
    if width >= height:
        halves = ((u0, v0, u0 + cut, v1), (u0 + cut, v0, u1, v1))
    else:
        halves = ((u0, v0, u1, v0 + cut), (u0, v0 + cut, u1, v1))
    return [
        block
        for half in halves
        for block in split_blocks(rng, half, min_side=min_side, max_side=max_side)
    ]
