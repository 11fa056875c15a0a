"""Photo-like scenes: determinism, labels that lie on their objects, named things, every class."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.synthetic import SyntheticConfig, render_image
from tcm_d2.synthetic.canvas import Canvas
from tcm_d2.synthetic.geometry import Pose, fraction_inside
from tcm_d2.synthetic.photo import aircraft, courts, crossings, plants, ships, sports, vehicles
from tcm_d2.synthetic.photo.camera import photograph
from tcm_d2.synthetic.photo.colors import name_color
from tcm_d2.synthetic.photo.render import LANDMARKS, SCENES, draw_photo
from tcm_d2.synthetic.photo.world import World

SIZE_PX = 256


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    """A scene of each kind."""
    config = SyntheticConfig.photo(image_size_px=SIZE_PX)
    found = {}
    for index, (name, kind) in enumerate([*SCENES.items(), *LANDMARKS.items()]):
        world = World(np.random.default_rng([6, index]), config, gsd_m=float(np.mean(kind.gsd_m)))
        kind.draw(world)
        found[name] = world
    found["grounds"] = world = World(np.random.default_rng(4), config, gsd_m=0.9)
    world.start("grass")
    fillers = (
        sports.fill_track,
        sports.fill_soccer,
        sports.fill_diamonds,
        sports.fill_tennis,
        sports.fill_basketball,
        plants.fill_tanks,
    )
    for index, fill in enumerate(fillers):
        u, v = (index % 3 - 1) * 75.0, (index // 3 - 0.5) * 110.0
        fill(world, (u - 36, v - 53, u + 36, v + 53))
    return found


def test_an_image_depends_on_its_numbers_only():
    config = SyntheticConfig.photo(image_size_px=128)
    first, again, other = (
        render_image(config, seed=seed, split_index=0, image_index=2) for seed in (3, 3, 4)
    )
    assert (first.image == again.image).all() and first.label == again.label
    assert (first.image != other.image).mean() > 0.3


def test_scenes_hold_every_class_and_things_without_one(worlds: dict[str, World]):
    things = [thing for world in worlds.values() for thing in world.named]
    counts = Counter(thing.class_name for thing in things)
    assert set(DOTA_V1_CLASSES) <= set(counts)
    assert counts[""] > 20
    assert any(thing.color for thing in things) and any(thing.surroundings for thing in things)


def test_every_labelled_object_is_a_named_thing(worlds: dict[str, World]):
    for name, world in worlds.items():
        labelled = Counter(placed.class_name for placed in world.canvas.objects)
        named = Counter(thing.class_name for thing in world.named if thing.class_name)
        assert labelled == named, name


def test_labels_lie_in_the_image_at_true_sizes(worlds: dict[str, World]):
    longest_m = {"small-vehicle": 6.5, "large-vehicle": 21, "plane": 82, "ship": 340}
    for world in worlds.values():
        for placed in world.canvas.objects:
            quad = placed.quad
            assert fraction_inside(quad, width_px=SIZE_PX, height_px=SIZE_PX) >= 0.5
            sides = np.hypot(*(quad[1:3] - quad[:2]).T)
            assert sides.min() >= 4.4
            limit = longest_m.get(placed.class_name)
            assert limit is None or sides.max() * world.gsd_m <= limit


def test_each_style_has_its_own_kinds_of_scenes():
    for config, kinds in (
        (SyntheticConfig.photo(image_size_px=128), SCENES),
        (SyntheticConfig.landmarks(image_size_px=128), LANDMARKS),
    ):
        names = {draw_photo(np.random.default_rng(seed), config).scene_name for seed in range(4)}
        assert names <= set(kinds), config.style


def test_bridges_over_water_end_on_land():
    config = SyntheticConfig.landmarks(image_size_px=SIZE_PX)
    over_water = 0
    for seed in range(4):
        world = World(np.random.default_rng(seed), config, gsd_m=0.9)
        LANDMARKS["bridges"].draw(world)
        for placed in world.canvas.objects:
            if placed.class_name != "bridge" or not _on_water(world, placed.quad.mean(0)):
                continue
            over_water += 1
            ahead = (placed.quad[0] - placed.quad[3]) / 2
            for end in (placed.quad[:2].mean(0), placed.quad[2:].mean(0)):
                outward = np.sign((end - placed.quad.mean(0)) @ ahead)
                assert not _on_water(world, end + outward * 2 * ahead / np.hypot(*ahead))
    assert over_water > 4


def _on_water(world: World, point: np.ndarray) -> bool:
    column, row = np.floor(point).astype(int)
    return 0 <= min(row, column) and max(row, column) < SIZE_PX and bool(world.water[row, column])


def test_what_a_road_is_painted_over_is_no_longer_labelled():
    config = SyntheticConfig.photo(image_size_px=SIZE_PX)
    world = World(np.random.default_rng(0), config, gsd_m=0.2)
    world.start("grass")
    poses = [Pose(x, 100.0, 0.0, 24.0, 12.0) for x in (40.0, 200.0)]
    for pose in poses:
        assert world.put("car", pose, lambda: None, class_name="small-vehicle", over=True)
    world.clear_under([np.array([[180.0, 0], [220, 0], [220, 256], [180, 256]])])
    assert len(world.canvas.objects) == len(world.named) == 1
    assert world.named[0].quad.mean(0)[0] == pytest.approx(40)


def test_what_a_black_corner_hides_is_no_longer_labelled():
    config = SyntheticConfig.photo(image_size_px=SIZE_PX)
    world = World(np.random.default_rng(0), config, gsd_m=0.2)
    world.start("grass")
    for x in (40.0, 200.0):
        pose = Pose(x, 100.0, 0.0, 24.0, 12.0)
        world.put("car", pose, lambda: None, class_name="small-vehicle", over=True)
    black = np.zeros((SIZE_PX, SIZE_PX), bool)
    black[:, 150:] = True
    world.hide(black)
    assert [placed.quad.mean(0)[0] < 150 for placed in world.canvas.objects] == [True]


def test_a_photograph_keeps_the_size_and_says_where_it_is_black():
    image = np.full((96, 128, 3), 120, np.uint8)
    for seed in range(30):
        photo = photograph(np.random.default_rng(seed), image)
        assert photo.image.shape == image.shape and photo.image.dtype == np.uint8
        assert not photo.black[48, 64]
        if photo.black.any():
            assert photo.image[photo.black].mean() < 40
            return
    pytest.fail("no photograph with a black corner among 30")


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ((240, 240, 236), "white"),
        ((28, 30, 33), "black"),
        ((158, 34, 32), "red"),
        ((38, 62, 116), "blue"),
        ((212, 172, 48), "yellow"),
        ((58, 112, 84), "green"),
        ((96, 62, 44), "brown"),
        ((118, 122, 126), "grey"),
    ],
)
def test_colors_have_everyday_names(color, name: str):
    assert name_color(color) == name


PAINTERS = {
    **{name: (kind.paint, 90.0, 28.0) for name, kind in vehicles.VEHICLES.items()},
    **{name: (kind.paint, 90.0, 30.0) for name, kind in ships.SHIPS.items()},
    **{
        name: (
            lambda c, p, r, color, kind=kind: aircraft.paint_plane(c, p, r, color, kind=kind),
            90.0,
            80.0,
        )
        for name, kind in aircraft.PLANES.items()
    },
    "fighter": (aircraft.paint_fighter, 90.0, 66.0),
    "tennis": (
        lambda c, p, r, color: courts.paint_tennis_court(c, p, r, color=color, line_alpha=0.0),
        90.0,
        42.0,
    ),
    "roundabout": (
        lambda c, p, r, _: crossings.paint_roundabout(c, p, r, road=(96, 96, 98)),
        90.0,
        90.0,
    ),
    "kidney pool": (lambda c, p, r, _: courts.paint_pool(c, p, r, style="kidney"), 90.0, 50.0),
}
# Nets and goals stand out of the lines, funnels and masts lean out of hulls.
LOOSE = ("tennis", "sailing boat")


@pytest.mark.parametrize("name", PAINTERS)
def test_painted_pixels_fill_the_box(name: str):
    """The extent of the painted pixels along the box's axes is the box, within 2 px."""
    paint, length, width = PAINTERS[name]
    key = np.array([255, 0, 255], np.uint8)
    canvas = Canvas(
        np.broadcast_to(key, (192, 192, 3)).copy(), sun_xy=np.zeros(2), shadow_alpha=0.0
    )
    pose = Pose(96.3, 95.8, 0.0, length, width)
    paint(canvas, pose, np.random.default_rng(1), (226, 226, 222))
    painted = (np.abs(canvas.finish().astype(int) - key).max(2) > 60).astype(np.uint8)
    if name in LOOSE:
        painted = cv2.erode(painted, np.ones((3, 3), np.uint8))
        painted = cv2.dilate(painted, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero(painted)
    for values, middle, extent in ((columns, pose.x, length), (rows, pose.y, width)):
        assert abs(values.max() + 1 - middle - extent / 2) < 2.1
        assert abs(values.min() - middle + extent / 2) < 2.1
