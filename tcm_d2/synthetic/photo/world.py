"""What the painters of photo-like scenes share: a scale in metres, placing, named things."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tcm_d2.synthetic.canvas import Canvas, Color
from tcm_d2.synthetic.config import SyntheticConfig
from tcm_d2.synthetic.geometry import Frame, Pose, fraction_inside
from tcm_d2.synthetic.photo import grounds
from tcm_d2.synthetic.photo.colors import ASPHALT, CONCRETE, name_color, pick
from tcm_d2.synthetic.scene import Scene
from tcm_d2.synthetic.things import Thing

# Objects with less of them inside the image are painted, but carry no label.
_MIN_LABELLED_FRACTION = 0.5


class World(Scene):
    """A scene with a ground sampling distance: objects have their true sizes in metres.

    Attributes:
        gsd_m: metres per pixel.
        surroundings: where things that are placed now stand, in words: "in a parking lot".
        named: everything placed so far that has a name, classes or not.
        asphalt, concrete: colours of this scene's pavements.
    """

    def __init__(self, rng: np.random.Generator, config: SyntheticConfig, *, gsd_m: float) -> None:
        super().__init__(rng, config)
        self.gsd_m = gsd_m
        self.surroundings = ""
        self.named: list[Thing] = []
        self.asphalt: Color = pick(rng, ASPHALT)
        self.concrete: Color = pick(rng, CONCRETE)
        self._textures: dict[str, np.ndarray] = {}
        self.road_color = self.asphalt
        # The image shows some part of the layout, not always its middle.
        shift = rng.uniform(-0.5, 0.5, 2) * 0.25 * config.image_size_px
        self.frame = Frame(
            self.frame.x + float(shift[0]), self.frame.y + float(shift[1]), self.frame.angle_deg
        )
        self.reach += 0.18 * config.image_size_px
        if rng.random() < 0.15:  # an overcast sky
            self.shadow_alpha *= 0.35
        self.sun_xy = self.sun_xy * float(rng.uniform(0.7, 1.5))

    def px(self, metres: float) -> float:
        """Return a length in pixels."""
        return metres / self.gsd_m

    def start(self, kind: str) -> None:
        """Start the canvas with a ground of a kind of `grounds.GROUNDS`."""
        size = self.config.image_size_px
        background = grounds.paint_ground(
            self.rng, size, kind=kind, gsd_m=self.gsd_m, sun_xy=self.sun_xy
        )
        self.canvas = Canvas(background, sun_xy=self.sun_xy, shadow_alpha=self.shadow_alpha)

    def cover(self, quad: np.ndarray, kind: str) -> None:
        """Cover a polygon with a ground of a kind."""
        if kind not in self._textures:
            self._textures[kind] = grounds.paint_ground(
                self.rng,
                self.config.image_size_px,
                kind=kind,
                gsd_m=self.gsd_m,
                sun_xy=self.sun_xy,
            )
        self.canvas.texture(quad, self._textures[kind])

    def flood(self, polygons: list[np.ndarray], *, shore: bool = True) -> None:
        """Paint polygons as water, and mark them as such."""
        size = self.config.image_size_px
        surface = grounds.paint_water(self.rng, size, gsd_m=self.gsd_m, sun_xy=self.sun_xy)
        mask = np.zeros((size, size), np.uint8)
        before, self.canvas.occupied = self.canvas.occupied, mask
        for polygon in polygons:
            if shore:
                tone = (168, 158, 132) if self.chance(0.5) else (92, 88, 78)
                width = self.px(float(self.rng.uniform(1.5, 6)))
                self.canvas.stroke(polygon, tone, width_px=width, closed=True, alpha=0.6)
            self.canvas.reserve(polygon)
        self.canvas.occupied = before
        self.canvas.texture_mask(mask * np.uint8(255), surface)
        self.water |= mask.astype(bool)

    def pave(self, quad: np.ndarray, color: Color, *, concrete: bool = False) -> None:
        """Pave a polygon with asphalt or concrete of a colour: stains, patches, cracks."""
        grounds.paint_pavement(
            self.canvas, quad, self.rng, color=color, gsd_m=self.gsd_m, concrete=concrete
        )
        self.canvas.pave(quad)

    def clear_under(self, polygons: list[np.ndarray]) -> None:
        """Forget what stands where a road or a river will be painted over it."""
        before, self.canvas.occupied = self.canvas.occupied, np.zeros_like(self.canvas.occupied)
        for polygon in polygons:
            self.canvas.reserve(polygon)

        def stays(quad: np.ndarray) -> bool:
            return self.canvas.is_free(quad.mean(0) + 0.9 * (quad - quad.mean(0)))

        self._keep(stays)
        self.canvas.occupied = before & (1 - self.canvas.occupied)

    def hide(self, black: np.ndarray) -> None:
        """Forget what lies mostly where the finished image shows nothing, bool (H, W)."""
        if black.any():
            seen, self.canvas.cover = self.canvas.cover, black.astype(np.uint8)
            self._keep(lambda quad: self.canvas.hidden_fraction(quad) < _MIN_LABELLED_FRACTION)
            self.canvas.cover = seen

    def _keep(self, stays: Callable[[np.ndarray], bool]) -> None:
        self.canvas.objects = [placed for placed in self.canvas.objects if stays(placed.quad)]
        self.named = [thing for thing in self.named if stays(thing.quad)]

    def put(
        self,
        name: str,
        pose: Pose,
        paint: Callable[[], object],
        *,
        class_name: str = "",
        color: Color | None = None,
        margin_px: float = 0.6,
        on_water: bool | None = False,
        over: bool = False,
    ) -> bool:
        """Paint a thing where there is room, label it if it has a class, note it by name.

        Args:
            name: what it is in words: "school bus".
            pose: its exact rectangle.
            paint: draws it.
            class_name: its class in label files; "" for what is not labelled.
            color: its main colour, named in its note.
            margin_px: room kept around it.
            on_water: it must lie on water, or on land; None takes either.
            over: it may stand on something.

        Returns:
            Whether it was painted.
        """
        quad = pose.quad()
        size = self.config.image_size_px
        if (quad.max(0) < 0).any() or (quad.min(0) > size).any():
            return False
        if class_name and class_name not in self.config.classes:
            return False
        room = pose.grown(margin_px).quad()
        if not over and not self.canvas.is_free(room):
            return False
        if on_water is not None and self.water_fraction(quad) != (1.0 if on_water else 0.0):
            return False
        paint()
        self.canvas.reserve(room)
        visible = fraction_inside(quad, width_px=size, height_px=size)
        if visible >= _MIN_LABELLED_FRACTION and pose.short_side >= self.config.min_short_side_px:
            if class_name:
                self.canvas.record(class_name, pose, visible_fraction=visible)
            word = "" if color is None else name_color(color)
            self.named.append(Thing(name, word, quad, self.surroundings, class_name))
        return True
