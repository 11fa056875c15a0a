"""From a seed to an image and its labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tcm_d2.data.dota.labels import DotaLabel, DotaObject
from tcm_d2.synthetic import textures
from tcm_d2.synthetic.airfields import draw_airport, draw_heliport
from tcm_d2.synthetic.canals import draw_canals
from tcm_d2.synthetic.config import SyntheticConfig
from tcm_d2.synthetic.photo.render import draw_photo
from tcm_d2.synthetic.scene import Scene
from tcm_d2.synthetic.sports import draw_sports
from tcm_d2.synthetic.things import Thing
from tcm_d2.synthetic.towns import draw_parking, draw_suburb, draw_tanks
from tcm_d2.synthetic.waters import draw_marina, draw_port

# Less visible, or more hidden by trees: the object is marked difficult.
_DIFFICULT_VISIBLE_FRACTION = 0.85
_DIFFICULT_HIDDEN_FRACTION = 0.25
# Labels have this many decimals, as DOTA-v1.0 files.
_DECIMALS = 1


class SceneKind(NamedTuple):
    """A scene painter and the classes it exists for."""

    draw: Callable[[Scene], None]
    classes: tuple[str, ...]


SCENES: dict[str, SceneKind] = {
    "sports": SceneKind(
        draw_sports,
        ("ground-track-field", "soccer-ball-field", "baseball-diamond", "tennis-court",
         "basketball-court"),
    ),
    "marina": SceneKind(draw_marina, ("ship", "harbor")),
    "suburb": SceneKind(draw_suburb, ("swimming-pool", "small-vehicle", "roundabout")),
    "airport": SceneKind(draw_airport, ("plane",)),
    "canals": SceneKind(draw_canals, ("bridge", "roundabout")),
    "parking": SceneKind(draw_parking, ("small-vehicle", "large-vehicle")),
    "heliport": SceneKind(draw_heliport, ("helicopter",)),
    "tanks": SceneKind(draw_tanks, ("storage-tank", "large-vehicle")),
    "port": SceneKind(draw_port, ("harbor", "ship", "storage-tank")),
}  # fmt: skip
# The images of a set go through this list in turn, so that small sets hold every class: classes
# that fill few places per scene (tracks, bridges) come more often.
SCENE_CYCLE: tuple[str, ...] = (
    "sports", "marina", "suburb", "airport", "canals", "sports", "parking", "heliport", "sports",
    "tanks", "canals", "port",
)  # fmt: skip


class RenderedImage(NamedTuple):
    """An image, RGB uint8 (H, W, 3), its labels, the name of its scene, and all named things.

    Things are the labelled objects and, in photo-like scenes, also what has no class: containers,
    trains, cranes, solar panels, houses.
    """

    image: np.ndarray
    label: DotaLabel
    scene_name: str
    things: tuple[Thing, ...]


def scene_names(config: SyntheticConfig) -> tuple[str, ...]:
    """Return the cycle of scenes that hold any of the wanted classes."""
    return tuple(name for name in SCENE_CYCLE if set(SCENES[name].classes) & set(config.classes))


def render_image(
    config: SyntheticConfig, *, seed: int, split_index: int, image_index: int
) -> RenderedImage:
    """Render one image; it depends on nothing but the arguments.

    Args:
        config: settings of the data set.
        seed: of the data set, >= 0.
        split_index: 0 for train, 1 for val; further sets may use further numbers.
        image_index: number in the split; also picks the kind of scene, except of photo-like ones.
    """
    rng = np.random.default_rng([seed, split_index, image_index])
    if config.style != "plain":
        world, image, name = draw_photo(rng, config)
        return RenderedImage(image, _label(world), name, tuple(world.named))
    names = scene_names(config)
    name = names[image_index % len(names)]
    scene = Scene(rng, config)
    SCENES[name].draw(scene)
    image = textures.grain(rng, scene.canvas.finish(), strength=1.0)
    image = textures.degrade(rng, image, strength=config.degradation)
    things = tuple(
        Thing(placed.class_name.replace("-", " "), "", placed.quad, "", placed.class_name)
        for placed in scene.canvas.objects
    )
    return RenderedImage(image, _label(scene), name, things)


def _label(scene: Scene) -> DotaLabel:
    objects = [
        DotaObject(
            quad=tuple(np.round(placed.quad, _DECIMALS).reshape(-1).tolist()),
            class_name=placed.class_name,
            difficult=int(_is_difficult(scene, placed.quad, placed.visible_fraction)),
        )
        for placed in scene.canvas.objects
    ]
    return DotaLabel(objects, image_source="synthetic", gsd=round(scene.gsd_m, 4))


def _is_difficult(scene: Scene, quad: np.ndarray, visible_fraction: float) -> bool:
    sides = np.hypot(*(quad[1:3] - quad[0:2]).T)
    return bool(
        sides.min() < scene.config.difficult_short_side_px
        or visible_fraction < _DIFFICULT_VISIBLE_FRACTION
        or scene.canvas.hidden_fraction(quad) > _DIFFICULT_HIDDEN_FRACTION
    )
