"""Time what a loader worker does for one image: decode, flip, fit boxes, class masks.

    python tools/benchmark.py loader [--num-objects 500] [--image patch.png]

The peer is a straightforward mapper, written afresh: OpenCV decodes and flips, OpenCV fits a
rectangle to each quad, COCO rasterises each object on its own and NumPy joins them per class. Both
get the same patch of 1024 px; the project's mapper also gets it as tools/split_dota.py writes it
(PNG, BMP). Boxes and masks of both are compared. Times are process time, which other programs on
the machine disturb less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask

from tcm_d2.data.augmentation import RandomFlip
from tcm_d2.data.images import read_image
from tcm_d2.data.mapper import RotatedDatasetMapper
from tcm_d2.data.png import encode_rgb
from tcm_d2.structures.conversions import boxes_to_quads, quads_to_boxes
from tcm_d2.structures.masks import boxes_to_class_masks
from tcm_d2.synthetic.config import SyntheticConfig
from tcm_d2.synthetic.render import render_image

SIDE_PX, STRIDE_PX, NUM_CLASSES = 1024, 4, 15
GOAL_MS = 25.0


def make_annotations(num_objects: int) -> list[dict[str, Any]]:
    """Return seeded objects of 8 to 64 px on a patch."""
    rng = np.random.default_rng(0)
    centers = rng.uniform(0, SIDE_PX, (num_objects, 2))
    width = 8 + 56 * rng.random(num_objects) ** 2
    height = width * (0.2 + 0.8 * rng.random(num_objects))
    angles = rng.uniform(-90, 90, num_objects)
    boxes = np.column_stack([centers, width, height, angles]).astype(np.float32)
    quads = boxes_to_quads(torch.from_numpy(boxes)).numpy().round(1)
    return [
        {"quad": quad.tolist(), "category_id": int(rng.integers(NUM_CLASSES)), "difficult": 0}
        for quad in quads
    ]


def map_plainly(item: dict[str, Any], *, flip: bool) -> dict[str, Any]:
    """Do the same work one object at a time."""
    image = cv2.cvtColor(cv2.imread(item["file_name"]), cv2.COLOR_BGR2RGB)
    if flip:
        image = cv2.flip(image, 1)
    side = SIDE_PX // STRIDE_PX
    masks = np.zeros((NUM_CLASSES, side, side), dtype=bool)
    boxes = []
    for annotation in item["annotations"]:
        quad = np.array(annotation["quad"], dtype=np.float32)
        if flip:
            quad[:, 0] = SIDE_PX - quad[:, 0]
        (cx, cy), (w, h), angle_deg = cv2.minAreaRect(quad)
        boxes.append((cx, cy, w, h, -angle_deg) if w >= h else (cx, cy, h, w, -angle_deg - 90))
        corners = cv2.boxPoints(((cx, cy), (w, h), angle_deg)) / STRIDE_PX
        outline = [corners.reshape(-1).astype(float).tolist()]
        filled = coco_mask.decode(coco_mask.frPyObjects(outline, side, side))[:, :, 0]
        masks[annotation["category_id"]] |= filled.astype(bool)
    return {
        "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
        "boxes": torch.tensor(boxes),
        "class_masks": torch.from_numpy(masks),
    }


def time_ms(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return (median, least) process time of a call in milliseconds, after one to warm up."""
    times = []
    for repeat in range(repeats + 1):
        start = time.process_time()
        function()
        if repeat:
            times.append(1e3 * (time.process_time() - start))
    return statistics.median(times), min(times)


def check_same(ours: dict[str, Any], peer: dict[str, Any]) -> None:
    """Raise unless both mappers made the same image and, up to rounding, the same targets."""
    if not torch.equal(ours["image"], peer["image"]):
        raise RuntimeError("the images differ")
    quads = [
        boxes_to_quads(b).mean(dim=1) for b in (ours["instances"].gt_boxes.tensor, peer["boxes"])
    ]
    torch.testing.assert_close(quads[0], quads[1].float(), rtol=0, atol=0.5)
    differing = (ours["class_masks"] != peer["class_masks"]).float().mean()
    if differing > 0.01:
        raise RuntimeError(f"{differing:.1%} of the mask's pixels differ")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--num-objects", type=int, default=500)
    parser.add_argument("--image", type=Path, help="a patch of 1024 px instead of a rendered one")
    parser.add_argument("--repeats", type=int, default=30)


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.image is None:
        config = SyntheticConfig(image_size_px=SIDE_PX)
        rgb = render_image(config, seed=0, split_index=0, image_index=2).image
    else:
        rgb = read_image(args.image, channel_order="RGB")[:SIDE_PX, :SIDE_PX]
    if rgb.shape[:2] != (SIDE_PX, SIDE_PX):
        raise ValueError(f"--image: expected {SIDE_PX} px, got {rgb.shape[:2]}")
    mapper = RotatedDatasetMapper(
        is_train=True,
        augmentations=[RandomFlip([0.0, 0.0, 0.0])],
        image_format="RGB",
        num_classes=NUM_CLASSES,
        with_class_masks=True,
        mask_stride_px=STRIDE_PX,
        on_bad_image="raise",
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("opencv.png", "split.png", "split.bmp")}
        for name in ("opencv.png", "split.bmp"):
            cv2.imwrite(str(files[name]), rgb[:, :, ::-1])
        files["split.png"].write_bytes(encode_rgb(rgb))
        annotations = make_annotations(args.num_objects)
        items = {
            name: {
                "file_name": str(path),
                "image_id": name,
                "height": SIDE_PX,
                "width": SIDE_PX,
                "annotations": annotations,
            }
            for name, path in files.items()
        }
        peer = map_plainly(items["opencv.png"], flip=False)
        for item in items.values():
            check_same(mapper(item), peer)
        rows: dict[str, Callable[[], object]] = {
            "straightforward, PNG of OpenCV": lambda: map_plainly(items["opencv.png"], flip=True)
        }
        names = {
            "opencv.png": "PNG of OpenCV",
            "split.png": "PNG of split_dota",
            "split.bmp": "BMP",
        }
        flipping = RotatedDatasetMapper(
            is_train=True,
            augmentations=[RandomFlip([1.0, 0.0, 0.0])],
            image_format="RGB",
            num_classes=NUM_CLASSES,
            with_class_masks=True,
            mask_stride_px=STRIDE_PX,
            on_bad_image="raise",
        )
        for key, title in names.items():
            rows[f"mapper, {title}"] = lambda key=key: flipping(items[key])
        for key, title in names.items():
            rows[f"  decode {title}"] = lambda key=key: read_image(files[key], channel_order="RGB")
        quads = torch.tensor([a["quad"] for a in annotations])
        boxes = quads_to_boxes(quads)
        classes = torch.tensor([a["category_id"] for a in annotations])
        rows["  fit boxes"] = lambda: quads_to_boxes(quads)
        rows["  class masks"] = lambda: boxes_to_class_masks(
            boxes,
            classes,
            num_classes=NUM_CLASSES,
            image_size_hw=(SIDE_PX, SIDE_PX),
            stride_px=STRIDE_PX,
        )
        print(f"{args.num_objects} objects on {SIDE_PX} px; goal {GOAL_MS:g} ms per image")
        print(f"{'':<34} {'ms (median)':>12} {'least':>8}")
        for title, call in rows.items():
            median, least = time_ms(call, args.repeats)
            print(f"{title:<34} {median:>12.1f} {least:>8.1f}", flush=True)
        for path in files.values():
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    return 0
