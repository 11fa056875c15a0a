"""Time tools/split_dota.py beside a straightforward splitter, in one run and on the same images.

    python tools/benchmark.py split [--num-images 4] [--image-dir DIR --label-dir DIR]

The peer does what published split tools do, written afresh: OpenCV reads the image, shapely cuts
every object with every window that its upright box meets, each patch is encoded on its own with
OpenCV's defaults, one process per core. Both write the same patches, which is checked pixel by
pixel. Of the repeats the fastest counts; processor time is what a busy machine disturbs least.
Without folders the images are rendered: scenes of the embedded data set, tiled to 4000 x 4000 px.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import shapely

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import DotaLabel, DotaObject, read_label, write_label
from tcm_d2.data.dota.split import (
    MULTI_SCALE,
    SINGLE_SCALE,
    SplitConfig,
    SplitSource,
    split_dataset,
)
from tcm_d2.data.dota.windows import keep_covered_windows, sliding_windows
from tcm_d2.data.workers import image_pool
from tcm_d2.synthetic.config import SyntheticConfig
from tcm_d2.synthetic.render import render_image

SIDE_PX, TILE_PX = 4000, 1000
NUM_SCENES = 4
PAD_BGR = (104, 116, 124)


def render_source(folder: Path, num_images: int) -> None:
    """Write images and labels of tiled scenes."""
    for name in ("images", "labelTxt"):
        (folder / name).mkdir(parents=True)
    config = SyntheticConfig(image_size_px=TILE_PX)
    scenes = [render_image(config, seed=0, split_index=0, image_index=i) for i in range(NUM_SCENES)]
    rng = np.random.default_rng(0)
    for index in range(num_images):
        picture = np.empty((SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        objects = []
        for y in range(0, SIDE_PX, TILE_PX):
            for x in range(0, SIDE_PX, TILE_PX):
                scene = scenes[rng.integers(NUM_SCENES)]
                picture[y : y + TILE_PX, x : x + TILE_PX] = scene.image[:, :, ::-1]
                for obj in scene.label.objects:
                    quad = np.array(obj.quad).reshape(4, 2) + (x, y)
                    numbers = tuple(quad.reshape(-1).tolist())
                    objects.append(DotaObject(numbers, obj.class_name, obj.difficult))
        cv2.imwrite(str(folder / "images" / f"P{index:04d}.png"), picture)
        write_label(folder / "labelTxt" / f"P{index:04d}.txt", DotaLabel(objects))


def split_one_plainly(image_path: Path, label_dir: Path, out: Path, config: SplitConfig) -> None:
    """Cut one image, one patch and one object after the other."""
    image = cv2.imread(str(image_path))
    height, width = image.shape[:2]
    parts = [
        sliding_windows(
            height, width, window_px=int(config.patch_size_px / r), gap_px=int(config.gap_px / r)
        )
        for r in config.rates
    ]
    windows = keep_covered_windows(np.concatenate(parts), height, width, min_image_rate=0.6)
    objects = read_label(label_dir / f"{image_path.stem}.txt").objects
    polygons = [shapely.Polygon(np.array(obj.quad).reshape(4, 2)) for obj in objects]
    for x1, y1, x2, y2 in windows.tolist():
        box = shapely.box(x1, y1, x2, y2)
        lines = []
        for obj, polygon in zip(objects, polygons):
            left, top, right, bottom = polygon.bounds
            if right <= x1 or left >= x2 or bottom <= y1 or top >= y2:
                continue
            if polygon.intersection(box).area / polygon.area >= config.min_object_iof:
                moved = np.array(obj.quad).reshape(4, 2) - (x1, y1)
                numbers = " ".join(str(value) for value in moved.reshape(-1).tolist())
                lines.append(f"{numbers} {obj.class_name} {obj.difficult}\n")
        patch = image[y1:y2, x1:x2]
        if patch.shape[:2] != (y2 - y1, x2 - x1):
            padded = np.full((y2 - y1, x2 - x1, 3), PAD_BGR, dtype=np.uint8)
            padded[: patch.shape[0], : patch.shape[1]] = patch
            patch = padded
        name = f"{image_path.stem}__{x2 - x1}__{x1}___{y1}"
        cv2.imwrite(str(out / "images" / f"{name}.png"), patch)
        (out / "labelTxt" / f"{name}.txt").write_text("".join(lines))


def split_plainly(
    image_dir: Path, label_dir: Path, out: Path, config: SplitConfig, workers: int
) -> None:
    """Cut all images of a folder, one process per image."""
    for name in ("images", "labelTxt"):
        (out / name).mkdir(parents=True)
    work = partial(split_one_plainly, label_dir=label_dir, out=out, config=config)
    paths = sorted(image_dir.iterdir())
    with image_pool(workers) as pool:
        list(pool.map(work, paths))


def split_ours(
    image_dir: Path, label_dir: Path, out: Path, config: SplitConfig, workers: int
) -> None:
    """Cut the same images with this project's splitter."""
    split_dataset(
        [SplitSource(image_dir, label_dir)],
        out,
        config=config,
        classes=DOTA_V1_CLASSES,
        num_workers=workers,
        show_progress=False,
    )


def check_same(ours: Path, theirs: Path) -> int:
    """Return the number of patches; all hold the same pixels and the same number of objects."""
    names = sorted(path.name for path in (theirs / "images").iterdir())
    if names != sorted(path.name for path in (ours / "images").iterdir()):
        raise RuntimeError("the two splitters wrote different patches")
    for name in names:
        pictures = [cv2.imread(str(folder / "images" / name)) for folder in (ours, theirs)]
        if not np.array_equal(*pictures):
            raise RuntimeError(f"{name}: the pixels differ")
        label = Path(name).with_suffix(".txt").name
        counts = [len(read_label(folder / "labelTxt" / label).objects) for folder in (ours, theirs)]
        if counts[0] != counts[1]:
            raise RuntimeError(f"{name}: {counts[0]} objects, the peer has {counts[1]}")
    return len(names)


def cpu_seconds() -> float:
    """Return the processor time of this process and its finished children."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def folder_mb(folder: Path) -> float:
    """Return the size of the files in a folder in MB."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--num-images", type=int, default=4, help="rendered images")
    parser.add_argument("--image-dir", type=Path, help="real images, with --label-dir")
    parser.add_argument("--label-dir", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--multi-scale", action="store_true", help="rates 0.5, 1.0, 1.5")


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    config = MULTI_SCALE if args.multi_scale else SINGLE_SCALE
    config = dataclasses.replace(config, resize_patches=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        image_dir, label_dir = args.image_dir, args.label_dir
        if image_dir is None:
            render_source(folder / "source", args.num_images)
            image_dir, label_dir = folder / "source" / "images", folder / "source" / "labelTxt"
        bmp = dataclasses.replace(config, image_suffix=".bmp")
        jobs: dict[str, Callable[[Path], None]] = {
            "straightforward, PNG": lambda out: split_plainly(
                image_dir, label_dir, out, config, args.workers
            ),
            "split_dota.py, PNG": lambda out: split_ours(
                image_dir, label_dir, out, config, args.workers
            ),
            "split_dota.py --format bmp": lambda out: split_ours(
                image_dir, label_dir, out, bmp, args.workers
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in jobs}
        cpu: dict[str, list[float]] = {name: [] for name in jobs}
        sizes: dict[str, float] = {}
        for repeat in range(args.repeats):
            for number, (name, job) in enumerate(jobs.items()):
                out = folder / f"out{number}"
                shutil.rmtree(out, ignore_errors=True)
                start, cpu_start = time.perf_counter(), cpu_seconds()
                job(out)
                times[name].append(time.perf_counter() - start)
                cpu[name].append(cpu_seconds() - cpu_start)
                sizes[name] = folder_mb(out / "images")
            if repeat == 0:
                num_patches = check_same(folder / "out1", folder / "out0")
        num_images = len(list(Path(image_dir).iterdir()))
        print(f"{num_images} images, {num_patches} patches, {args.workers} processes; pixels equal")
        print(f"{'per image':<28} {'s':>7} {'ratio':>7} {'CPU s':>7} {'ratio':>7} {'MB':>7}")
        first, first_cpu = (min(v["straightforward, PNG"]) for v in (times, cpu))
        for name in jobs:
            wall, work = min(times[name]), min(cpu[name])
            print(
                f"{name:<28} {wall / num_images:>7.3f} {first / wall:>6.2f}x "
                f"{work / num_images:>7.3f} {first_cpu / work:>6.2f}x "
                f"{sizes[name] / num_images:>7.1f}",
                flush=True,
            )
    return 0
