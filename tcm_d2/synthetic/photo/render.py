"""Photo-like images: objects of true size in scenes of many kinds, seen by many cameras."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tcm_d2.synthetic.config import SyntheticConfig
from tcm_d2.synthetic.photo.airports import draw_airport, draw_heliport
from tcm_d2.synthetic.photo.camera import photograph
from tcm_d2.synthetic.photo.country import draw_country, draw_crossroads, draw_river
from tcm_d2.synthetic.photo.crossings import draw_bridges, draw_roundabouts
from tcm_d2.synthetic.photo.harbours import draw_marina, draw_port, draw_sea
from tcm_d2.synthetic.photo.quays import draw_fleet, draw_jetties
from tcm_d2.synthetic.photo.town import draw_blocks, draw_ground
from tcm_d2.synthetic.photo.world import World


class PhotoKind(NamedTuple):
    """A kind of scene: its painter, how often it comes, and its metres per pixel (log-uniform)."""

    draw: Callable[[World], None]
    weight: float
    gsd_m: tuple[float, float]


SCENES: dict[str, PhotoKind] = {
    "lots": PhotoKind(lambda world: draw_blocks(world, "lots"), 15, (0.09, 0.4)),
    "town": PhotoKind(lambda world: draw_blocks(world, "town"), 8, (0.09, 0.4)),
    "suburb": PhotoKind(lambda world: draw_blocks(world, "suburb"), 7, (0.09, 0.4)),
    "sports": PhotoKind(lambda world: draw_blocks(world, "sports"), 9, (0.12, 0.75)),
    "ground": PhotoKind(draw_ground, 12, (0.12, 0.9)),
    "industry": PhotoKind(lambda world: draw_blocks(world, "industry"), 9, (0.13, 0.9)),
    "airport": PhotoKind(draw_airport, 15, (0.14, 0.9)),
    "heliport": PhotoKind(draw_heliport, 4, (0.08, 0.4)),
    "marina": PhotoKind(draw_marina, 18, (0.11, 0.6)),
    "port": PhotoKind(draw_port, 6, (0.15, 1.3)),
    "sea": PhotoKind(draw_sea, 4, (0.12, 1.2)),
    "river": PhotoKind(draw_river, 8, (0.15, 1.2)),
    "crossroads": PhotoKind(draw_crossroads, 9, (0.1, 0.6)),
    "country": PhotoKind(draw_country, 4, (0.12, 0.8)),
}

# Scenes of what is rare in those above, or larger there than a window of a detector: fields,
# bridges, roundabouts, piers, long ships, tanks, helicopters.
LANDMARKS: dict[str, PhotoKind] = {
    "sports park": PhotoKind(lambda world: draw_blocks(world, "sports park"), 30, (0.12, 0.9)),
    "bridges": PhotoKind(draw_bridges, 18, (0.25, 1.6)),
    "roundabouts": PhotoKind(draw_roundabouts, 12, (0.12, 1.1)),
    "jetties": PhotoKind(draw_jetties, 14, (0.15, 1.1)),
    "fleet": PhotoKind(draw_fleet, 16, (0.4, 1.8)),
    "tank farm": PhotoKind(lambda world: draw_blocks(world, "tank farm"), 7, (0.12, 0.7)),
    "heliport": PhotoKind(draw_heliport, 4, (0.08, 0.6)),
}


class DrawnPhoto(NamedTuple):
    """A scene, its finished image RGB uint8 (H, W, 3), and the name of its kind."""

    world: World
    image: np.ndarray
    scene_name: str


def draw_photo(rng: np.random.Generator, config: SyntheticConfig) -> DrawnPhoto:
    """Draw one scene of a random kind of the style and photograph it."""
    scenes = LANDMARKS if config.style == "landmarks" else SCENES
    names = list(scenes)
    weights = np.array([scenes[name].weight for name in names], float)
    name = names[rng.choice(len(names), p=weights / weights.sum())]
    low, high = np.log(scenes[name].gsd_m)
    world = World(rng, config, gsd_m=float(np.exp(rng.uniform(low, high))))
    scenes[name].draw(world)
    photo = photograph(rng, world.canvas.finish())
    world.hide(photo.black)
    return DrawnPhoto(world, photo.image, name)
