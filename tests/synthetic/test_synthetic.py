"""The embedded data set: determinism, format, exact boxes, statistics, sensible scenes."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import read_label
from tcm_d2.synthetic import (
    CLASS_SIZES,
    SyntheticConfig,
    facilities,
    make_synthetic_dota,
    render_image,
    vehicles,
)
from tcm_d2.synthetic.canvas import Canvas
from tcm_d2.synthetic.geometry import Pose, fraction_inside
from tcm_d2.synthetic.render import SCENE_CYCLE, SCENES, scene_names
from tcm_d2.synthetic.scene import _FILLING_CLASSES, Scene

REPO_DIR = Path(__file__).resolve().parents[2]
IMAGE_SIZE_PX = 512


@pytest.fixture(scope="module")
def easy_images():
    """One round of scenes as a small detector would see them."""
    config = SyntheticConfig.easy(image_size_px=IMAGE_SIZE_PX)
    return [
        render_image(config, seed=0, split_index=1, image_index=index)
        for index in range(len(SCENE_CYCLE))
    ]


@pytest.fixture(scope="module")
def dota_like_images():
    """One round of scenes with DOTA's size statistics."""
    config = SyntheticConfig(image_size_px=IMAGE_SIZE_PX)
    return [
        render_image(config, seed=5, split_index=0, image_index=index)
        for index in range(len(SCENE_CYCLE))
    ]


@pytest.fixture(scope="module")
def drawn_sizes():
    """Return (long, short) of every class in 300 scenes, arrays (300, 2) by class."""
    config = SyntheticConfig(image_size_px=4096)
    sizes = defaultdict(list)
    for index in range(300):
        scene = Scene(np.random.default_rng([9, index]), config)
        for name in CLASS_SIZES:
            sizes[name].append(scene.class_size(name))
    return {name: np.array(rows) for name, rows in sizes.items()}


def sides_of(quad) -> tuple[float, float]:
    """Return (long, short) of a label's rectangle."""
    points = np.reshape(quad, (4, 2))
    sides = np.hypot(*(points[1:3] - points[0:2]).T)
    return float(sides.max()), float(sides.min())


class TestWriter:
    def test_same_seed_same_bytes_whatever_the_process_count(self, tmp_path: Path):
        arguments = ["--num-train", "8", "--num-val", "5", "--image-size", "128", "--seed", "3"]
        for name, workers in (("one", "1"), ("two", "2")):
            subprocess.run(
                [sys.executable, str(REPO_DIR / "tools" / "make_synthetic_dota.py")]
                + ["--output", str(tmp_path / name), "--num-workers", workers, *arguments],
                check=True,
                env={**os.environ, "PYTHONPATH": str(REPO_DIR)},
                capture_output=True,
            )
        files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
        assert len(files) == 2 * 13
        same = filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", files, shallow=False)[0]
        assert len(same) == len(files)

    def test_layout_and_summary_agree_with_the_files(self, tmp_path: Path):
        summary = make_synthetic_dota(
            tmp_path, num_train=3, num_val=2, image_size_px=160, seed=1, num_workers=0
        )
        assert summary.num_images == {"train": 3, "val": 2}
        names = [p.stem for p in sorted((tmp_path / "val" / "images").iterdir())]
        assert names == ["P0003", "P0004"]
        for split in ("train", "val"):
            counts: dict[str, int] = defaultdict(int)
            for path in (tmp_path / split / "images").iterdir():
                assert cv2.imread(str(path)).shape == (160, 160, 3)
                label = read_label(
                    tmp_path / split / "labelTxt" / f"{path.stem}.txt", classes=DOTA_V1_CLASSES
                )
                assert label.image_source == "synthetic"
                assert label.gsd is not None and 0.01 < label.gsd < 10
                for obj in label.objects:
                    counts[obj.class_name] += 1
            assert counts == dict(summary.num_objects[split])

    def test_coordinates_have_one_decimal(self, tmp_path: Path):
        make_synthetic_dota(tmp_path, num_train=1, num_val=0, image_size_px=256, seed=2)
        lines = (tmp_path / "train/labelTxt/P0000.txt").read_text().splitlines()
        assert lines[0].startswith("imagesource:") and lines[1].startswith("gsd:")
        assert len(lines) > 2
        for field in lines[2].split()[:8]:
            assert len(field.split(".")[1]) == 1

    def test_seed_split_and_index_change_the_image(self):
        config = SyntheticConfig(image_size_px=128)
        base = render_image(config, seed=0, split_index=0, image_index=0)
        for change in ({"seed": 1}, {"split_index": 1}, {"image_index": len(SCENE_CYCLE)}):
            other = render_image(
                config, **{"seed": 0, "split_index": 0, "image_index": 0, **change}
            )
            assert (other.image != base.image).mean() > 0.5

    def test_only_wanted_classes_are_drawn(self):
        config = SyntheticConfig(image_size_px=256, classes=("ship", "plane"))
        assert set(scene_names(config)) == {"marina", "port", "airport"}
        found = {
            obj.class_name
            for index in range(3)
            for obj in render_image(config, seed=0, split_index=0, image_index=index).label.objects
        }
        assert found == {"ship", "plane"}

    @pytest.mark.parametrize(
        "bad",
        [
            {"num_train": -1},
            {"num_val": 1.5},
            {"seed": -1},
            {"num_workers": -1},
            {"image_size_px": 64},
            {"classes": ("car",)},
            {"objects_scale": 0.0},
        ],
    )
    def test_bad_arguments_are_named(self, tmp_path: Path, bad):
        arguments = {"num_train": 1, "num_val": 0, "image_size_px": 128, "seed": 0, **bad}
        with pytest.raises(ValueError, match=next(iter(bad))):
            make_synthetic_dota(tmp_path, **arguments)


class TestContent:
    def test_a_round_of_scenes_holds_every_class_in_number(self, easy_images):
        counts: dict[str, int] = defaultdict(int)
        for rendered in easy_images:
            for obj in rendered.label.objects:
                counts[obj.class_name] += not obj.difficult
        assert set(counts) == set(DOTA_V1_CLASSES)
        assert min(counts.values()) >= 5, dict(counts)

    def test_easy_objects_are_large_enough_and_fit_into_patches(self, easy_images):
        for rendered in easy_images:
            for obj in rendered.label.objects:
                long_px, short_px = sides_of(obj.quad)
                assert short_px >= 13.8, obj
                assert long_px <= 0.5 * IMAGE_SIZE_PX, obj

    def test_some_but_few_objects_are_difficult(self, easy_images, dota_like_images):
        for images in (easy_images, dota_like_images):
            flags = [obj.difficult for image in images for obj in image.label.objects]
            assert 0.005 < np.mean(flags) < 0.35
        tiny = [
            obj
            for image in dota_like_images
            for obj in image.label.objects
            if sides_of(obj.quad)[1] < 7.5
        ]
        assert all(obj.difficult for obj in tiny)

    def test_labels_have_sizes_of_the_right_order(self, dota_like_images):
        rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for image in dota_like_images:
            for obj in image.label.objects:
                rows[obj.class_name].append(sides_of(obj.quad))
        # One round of scenes draws one to three sizes per class, so only the order is certain.
        for name, stats in CLASS_SIZES.items():
            long_px, short_px = np.median(rows[name], axis=0)
            assert 0.2 < long_px / stats.long_px < 5.0, (name, long_px)
            assert 0.5 < (long_px / short_px) / stats.aspect < 2.0, (name, long_px, short_px)

    def test_angles_are_spread(self, dota_like_images):
        angles = []
        for image in dota_like_images:
            for obj in image.label.objects:
                if obj.class_name in ("ship", "small-vehicle", "plane"):
                    points = np.reshape(obj.quad, (4, 2))
                    ahead = points[0] - points[3]
                    angles.append(np.degrees(np.arctan2(-ahead[1], ahead[0])) % 360)
        histogram = np.histogram(angles, bins=12, range=(0, 360))[0]
        assert (histogram > 0).sum() >= 9, histogram

    def test_crowds_occur(self):
        config = SyntheticConfig(image_size_px=1024)
        index = SCENE_CYCLE.index("marina")
        crowd = render_image(config, seed=3, split_index=0, image_index=index)
        assert sum(obj.class_name == "ship" for obj in crowd.label.objects) > 100

    def test_quads_are_rectangles_clockwise_and_mostly_inside(self, easy_images):
        for rendered in easy_images:
            for obj in rendered.label.objects:
                quad = np.reshape(obj.quad, (4, 2))
                edges = np.roll(quad, -1, axis=0) - quad
                cross = edges[:, 0] * np.roll(edges[:, 1], -1) - edges[:, 1] * np.roll(
                    edges[:, 0], -1
                )
                assert (cross > 0).all()  # clockwise with y down
                np.testing.assert_allclose(edges[0], -edges[2], atol=0.21)
                size = IMAGE_SIZE_PX
                assert fraction_inside(quad, width_px=size, height_px=size) > 0.55

    def test_objects_overlap_only_where_they_may(self, easy_images):
        may_overlap = {"ground-track-field", "soccer-ball-field", "bridge", "harbor", "ship"}
        for rendered in easy_images:
            taken = np.zeros((IMAGE_SIZE_PX, IMAGE_SIZE_PX), np.uint8)
            for obj in rendered.label.objects:
                if obj.class_name in may_overlap:
                    continue
                mask = np.zeros_like(taken)
                quad = np.reshape(obj.quad, (4, 2))
                inner = quad.mean(0) + 0.85 * (quad - quad.mean(0))
                cv2.fillPoly(mask, [np.rint(inner).astype(np.int32)], 1)
                assert not (mask & taken).any(), (rendered.scene_name, obj)
                taken |= mask

    def test_ships_float(self):
        # Water is bluer than red; land and piers are not.
        config = SyntheticConfig(image_size_px=512, degradation=0.0)
        for name in ("marina", "port"):
            rendered = render_image(
                config, seed=1, split_index=0, image_index=SCENE_CYCLE.index(name)
            )
            ships = [o for o in rendered.label.objects if o.class_name == "ship"]
            assert ships
            blue = rendered.image[..., 2].astype(int) - rendered.image[..., 0]
            for ship in ships:
                quad = np.reshape(ship.quad, (4, 2))
                bow = (quad[0] + quad[1]) / 2 + 0.04 * (quad[0] - quad[3])
                column, row = np.clip(bow, 0, 511).astype(int)
                corners = np.clip(quad, 0, 511).astype(int)
                values = [blue[y, x] for x, y in corners] + [blue[row, column]]
                assert np.max(values) > 0, (name, ship)


class TestSizes:
    @pytest.mark.parametrize("name", CLASS_SIZES)
    def test_scenes_draw_the_medians_and_spreads_asked_for(self, drawn_sizes, name: str):
        stats, rows = CLASS_SIZES[name], drawn_sizes[name]
        # Classes that fill scenes are drawn larger, as scenes of small ones hold more of them.
        crowding = 1.2 if name in _FILLING_CLASSES else 0.0
        median = stats.long_px * np.exp(crowding * stats.long_spread**2)
        assert np.median(rows[:, 0]) == pytest.approx(median, rel=0.2)
        assert np.median(rows[:, 0] / rows[:, 1]) == pytest.approx(stats.aspect, rel=0.12)
        assert np.log(rows[:, 0]).std() == pytest.approx(stats.long_spread, rel=0.25)

    @pytest.mark.realdata
    @pytest.mark.parametrize("name", CLASS_SIZES)
    def test_the_numbers_are_dotas(self, realdata_dir: Path, name: str):
        stats = json.loads((realdata_dir / "stats.json").read_text(encoding="utf-8"))
        measured = next(v for k, v in stats.items() if "val_proxy" in k)["per_class"][name]
        sides = measured["long_side_px"]
        ours = CLASS_SIZES[name]
        assert ours.long_px == pytest.approx(sides["p50"], rel=0.1)
        assert ours.aspect == pytest.approx(measured["aspect_ratio"]["p50"], rel=0.15)
        spread = np.log(sides["p75"] / sides["p25"]) / 1.349
        assert ours.long_spread == pytest.approx(spread, rel=0.6)


PAINTERS = {
    "plane": lambda c, p, r: vehicles.paint_plane(c, p, r, style="airliner"),
    "helicopter": vehicles.paint_helicopter,
    "boat": vehicles.paint_boat,
    "freighter": vehicles.paint_freighter,
    "car": vehicles.paint_car,
    "bus": lambda c, p, r: vehicles.paint_truck(c, p, r, style="bus"),
    "trailer": lambda c, p, r: vehicles.paint_truck(c, p, r, style="trailer"),
    "tank": lambda c, p, r: facilities.paint_storage_tank(c, p, r, base=210.0, style="dome"),
    "track": facilities.paint_track,
    "soccer": facilities.paint_soccer_field,
    "diamond": facilities.paint_baseball_diamond,
    "round pool": lambda c, p, r: facilities.paint_pool(c, p, r, style="round"),
    "roundabout": lambda c, p, r: facilities.paint_roundabout(c, p, r, road=(110, 110, 110)),
    "pier": lambda c, p, r: facilities.paint_pier(c, p, r, color=(170, 160, 150)),
    "bridge": lambda c, p, r: facilities.paint_bridge(c, p, r, road=(110, 110, 110)),
}
SQUARE = ("tank", "track", "diamond", "roundabout")


@pytest.mark.parametrize("name", PAINTERS)
@pytest.mark.parametrize("heading_deg", [0.0, 37.0, 250.0])
def test_painted_pixels_fill_the_box_exactly(name: str, heading_deg: float):
    """The extent of the painted pixels along the box's axes is the box (within 1.5 px)."""
    key = np.array([255, 0, 255], np.uint8)
    background = np.broadcast_to(key, (256, 256, 3)).copy()
    canvas = Canvas(background, sun_xy=np.array([0.0, 0.0]), shadow_alpha=0.0)
    width = 90.0 if name in SQUARE else 52.0
    pose = Pose(128.3, 126.8, heading_deg, 90.0, width)
    PAINTERS[name](canvas, pose, np.random.default_rng(0))
    painted = np.abs(canvas.finish().astype(int) - key).max(2) > 60
    rows, columns = np.nonzero(painted)
    offset = np.stack([columns + 0.5 - pose.x, rows + 0.5 - pose.y], 1)
    turn = np.radians(heading_deg)
    along = offset @ [np.cos(turn), -np.sin(turn)]
    across = offset @ [np.sin(turn), np.cos(turn)]
    for values, extent in ((along, pose.length), (across, pose.width)):
        assert abs(values.max() - extent / 2) < 1.5
        assert abs(values.min() + extent / 2) < 1.5


def test_every_scene_of_the_cycle_exists():
    assert set(SCENE_CYCLE) == set(SCENES)
