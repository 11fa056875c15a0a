"""Scenes of canals crossed by roads: bridges over the water, roundabouts where roads meet."""

from __future__ import annotations

import math

import numpy as np

from tcm_d2.synthetic import facilities
from tcm_d2.synthetic.scene import Scene
from tcm_d2.synthetic.surroundings import (
    paint_crop_fields,
    paint_house,
    paint_road,
    paint_trees,
)
from tcm_d2.synthetic.waters import place_boat


def draw_canals(scene: Scene) -> None:
    """Draw canals crossed by roads: bridges over the water, roundabouts where roads meet."""
    rng, reach = scene.rng, scene.reach
    scene.prepare(("grass", "lush", "dry", "forest", "soil")[rng.integers(5)])
    bridge_long, bridge_short = scene.class_size("bridge")
    scene.gsd_m = 40.0 / bridge_long
    ring_px = scene.class_size("roundabout")[0]
    if scene.chance(0.6):
        paint_crop_fields(scene.canvas, scene.frame, (-reach, -reach, reach, reach), rng)
    # Wide enough for the canal, the roads along it and houses.
    band = 2.2 * bridge_long + 1.8 * ring_px + 40
    first = -reach + rng.uniform(0.3, 0.7) * band
    canals = [_Canal(scene, v, width=bridge_long * rng.uniform(0.8, 1.0))
              for v in np.arange(first, reach, band)]  # fmt: skip
    scene.add_water([canal.polygon for canal in canals])
    roads_v = [v + band / 2 for v in np.arange(first, reach, band)]
    road_px = max(0.78 * bridge_short, 6.0)
    pitch = max(2.3 * ring_px, 2.6 * bridge_short, 80.0)
    steps = rng.uniform(1.0, 1.5, size=int(2 * reach / pitch) + 1) * pitch
    roads_u = -reach + rng.uniform(0.2, 0.9) * pitch + np.cumsum(steps) - steps[0]
    for v in roads_v:
        paint_road(
            scene.canvas,
            scene.frame.points([[-reach, v], [reach, v]]),
            width_px=road_px,
            color=scene.road_color,
            lanes=2,
        )
    for u in roads_u:
        _crossing_road(scene, float(u), canals, road_px=road_px, bridge_short=bridge_short)
        for v in roads_v:
            if scene.chance(0.75):
                _place_ring(scene, float(u), v, road_px=road_px)
    for canal in canals:
        for u in np.arange(-reach, reach, 55.0):
            if scene.chance(0.4 * scene.config.density):
                tangent = canal.heading_deg(u) + (180.0 if scene.chance(0.5) else 0.0)
                ship_l, ship_w = scene.sample_size("ship")
                if ship_w < 0.6 * canal.width:
                    place_boat(
                        scene,
                        u,
                        canal.v(u) + rng.normal(0, 0.1) * canal.width,
                        heading_deg=tangent,
                        length=ship_l,
                        width=ship_w,
                    )
    _hamlets(scene)


class _Canal:
    """A gently winding canal along u."""

    def __init__(self, scene: Scene, v0: float, *, width: float) -> None:
        self.width = width
        self._v0 = v0
        self._amplitude = scene.rng.uniform(0.0, 10.0)
        self._period = scene.rng.uniform(1.0, 2.0) * scene.reach
        self._phase = scene.rng.uniform(0, 2 * np.pi)
        u = np.linspace(-scene.reach - 20, scene.reach + 20, 48)
        middle = np.array([self.v(x) for x in u])
        upper = np.stack([u, middle - width / 2], 1)
        lower = np.stack([u, middle + width / 2], 1)[::-1]
        self.polygon = scene.frame.points(np.concatenate([upper, lower]))

    def v(self, u: float) -> float:
        """Return the canal's middle at u."""
        return self._v0 + self._amplitude * math.sin(u / self._period * 2 * math.pi + self._phase)

    def heading_deg(self, u: float) -> float:
        """Return the direction of the canal at u, relative to the frame."""
        return -math.degrees(math.atan2(self.v(u + 1) - self.v(u - 1), 2.0))


def _crossing_road(
    scene: Scene, u: float, canals: list[_Canal], *, road_px: float, bridge_short: float
) -> None:
    """A road along v at u, with a bridge over each canal (or a gap where there is none)."""
    rng, reach = scene.rng, scene.reach
    ends = [-reach]
    bridges = []
    for canal in canals:
        middle, half = canal.v(u), canal.width / 2
        ends += [middle - half - 2, middle + half + 2]
        length = canal.width * rng.uniform(1.1, 1.25)
        width = max(bridge_short, length / scene.config.max_aspect_ratio)
        bridges.append(scene.pose(u, middle, heading_deg=90, length=length, width=width))
    ends.append(reach)
    for start, stop in zip(ends[::2], ends[1::2]):
        paint_road(
            scene.canvas,
            scene.frame.points([[u, start], [u, stop]]),
            width_px=road_px,
            color=scene.road_color,
            lanes=2,
        )
    for pose in bridges:
        scene.place(
            "bridge",
            pose,
            lambda pose=pose: facilities.paint_bridge(
                scene.canvas, pose, rng, road=scene.road_color
            ),
            over=True,
        )


def _place_ring(scene: Scene, u: float, v: float, *, road_px: float) -> None:
    size = max(scene.sample_size("roundabout")[0], 2.6 * road_px)
    pose = scene.pose(u, v, heading_deg=-scene.frame.angle_deg, length=size, width=size)
    near = [o for o in scene.canvas.objects if o.class_name in ("bridge", "roundabout")]
    for other in near:
        if np.hypot(*(other.quad.mean(0) - [pose.x, pose.y])) < 0.75 * size + 12:
            return
    scene.place(
        "roundabout",
        pose,
        lambda: facilities.paint_roundabout(scene.canvas, pose, scene.rng, road=scene.road_color),
        over=True,
    )


def _hamlets(scene: Scene) -> None:
    """Houses and trees on the free land."""
    rng, reach = scene.rng, scene.reach
    for _ in range(int(90 * (reach / 256) ** 2)):
        pose = scene.pose(
            rng.uniform(-reach, reach),
            rng.uniform(-reach, reach),
            heading_deg=90.0 * rng.integers(2),
            length=rng.uniform(16, 30),
            width=rng.uniform(11, 18),
        )
        room = pose.grown(4).quad()
        if scene.canvas.is_free(room) and scene.water_fraction(room) == 0.0:
            paint_house(scene.canvas, pose, rng)
    paint_trees(
        scene.canvas,
        rng,
        count=int(90 * (reach / 256) ** 2),
        radius_px=(3, 7),
        clusters=16,
        land=~scene.water,
    )
