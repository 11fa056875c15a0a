"""Measure what test-time augmentation gains: AP of whole images against the number of views.

    python tools/demo_embedded.py --model tcm_atss          # trains the detector, 10 minutes
    python tools/benchmark.py tta --weights output/demo/tcm_atss --images output/demo/data/val

Each view is computed once; the choices are merged from the same detections.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--weights", required=True, help="see Detector.from_pretrained")
    parser.add_argument("--images", type=Path, required=True, help="holds images and labelTxt")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.75, 1.25])
    parser.add_argument("--limit", type=int, default=0, help="use only so many images")


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    from tcm_d2.data.images import list_images
    from tcm_d2.evaluation.scoring.annotations import read_annotations
    from tcm_d2.evaluation.scoring.score import evaluate_task1
    from tcm_d2.inference.detector import Detector
    from tcm_d2.inference.tta import TTAConfig, merge_views

    detector = Detector.from_pretrained(args.weights)
    images = list(list_images(args.images / "images").items())
    images = images[: args.limit or len(images)]
    classes = detector.classes
    annotations = read_annotations(
        args.images / "labelTxt", image_ids=[name for name, _ in images], classes=classes
    )
    everything = TTAConfig(
        flip=True,
        quarter_turns=[0, 1, 2, 3],
        scales=args.scales,
        nms_threshold=0.1,
        merge="mean",
    )
    found, seconds = views_of_images(detector, images, everything)
    print(f"{len(images)} images, {seconds / len(images) / len(everything.views):.2f} s per view")
    print("| views | merge | AP50 | AP75 |\n|---|---|---|---|")
    for name, flip, turns, scales in choices(args.scales):
        for merge in ("mean", "max") if name != "1" else ("max",):
            config = TTAConfig(
                flip=flip, quarter_turns=turns, scales=scales, nms_threshold=0.1, merge=merge
            )
            merged = {
                image_id: merge_views([views[v] for v in config.views], config)
                for image_id, views in found.items()
            }
            rows = task1_rows(merged, classes)
            values = [
                100 * evaluate_task1(rows, annotations, iou_threshold=iou).mean_ap
                for iou in (0.5, 0.75)
            ]
            shown = "-" if name == "1" else merge
            print(f"| {name} | {shown} | {values[0]:.1f} | {values[1]:.1f} |", flush=True)
    return 0


def choices(scales: list[float]) -> list[tuple[str, bool, list[int], list[float]]]:
    """Return name, flip, turns and scales of the choices to compare."""
    return [
        ("1", False, [0], [1.0]),
        ("2: flip", True, [0], [1.0]),
        ("4: turns", False, [0, 1, 2, 3], [1.0]),
        ("8: flip x turns", True, [0, 1, 2, 3], [1.0]),
        (f"{len(scales)}: scales {scales}", False, [0], scales),
        (f"{8 * len(scales)}: all", True, [0, 1, 2, 3], scales),
    ]


@torch.no_grad()
def views_of_images(
    detector: Any, images: list[tuple[str, Path]], config: Any
) -> tuple[dict[str, dict[Any, Instances]], float]:
    """Return the detections of each view of each image, in its frame, and the seconds it took."""
    from tcm_d2.data.images import read_image
    from tcm_d2.inference.tta import from_view, view_input

    found: dict[str, dict[Any, Instances]] = {}
    started = time.perf_counter()
    for image_id, path in images:
        image = torch.from_numpy(read_image(path, channel_order="RGB")).permute(2, 0, 1)
        inputs = {"image": image}
        found[image_id] = {}
        for view in config.views:
            output = detector.model([view_input(inputs, view)])[0]["instances"].to("cpu")
            found[image_id][view] = from_view(output, view, inputs)
    return found, time.perf_counter() - started


def task1_rows(merged: dict[str, Instances], classes: tuple[str, ...]) -> dict[str, Any]:
    """Return result rows by class name."""
    from tcm_d2.structures.conversions import boxes_to_quads
    from tcm_d2.structures.detections import ClassDetections

    rows = {}
    for index, name in enumerate(classes):
        mine = {image_id: part[part.pred_classes == index] for image_id, part in merged.items()}
        ids = [image_id for image_id, part in mine.items() for _ in range(len(part))]
        boxes = torch.cat([part.pred_boxes.tensor for part in mine.values()]).double()
        scores = torch.cat([part.scores for part in mine.values()]).double()
        rows[name] = ClassDetections(ids, scores.numpy(), boxes_to_quads(boxes).numpy())
    return rows
