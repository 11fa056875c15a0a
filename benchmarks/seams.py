"""Compare the seam rule with plain suppression: AP of images cut into small windows.

    python tools/demo_embedded.py --model tcm_atss          # trains the detector, 10 minutes
    python tools/benchmark.py seams --weights output/demo/tcm_atss --images output/demo/data/val

Both rules get the same detections. "Whole" is the image in one piece: what cutting costs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Lower scores do not count for AP.
SCORE_THRESHOLD = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--weights", required=True, help="see Detector.from_pretrained")
    parser.add_argument("--images", type=Path, required=True, help="holds images and labelTxt")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--overlaps", type=int, nargs="+", default=[64, 128])


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    from tcm_d2.data.images import list_images
    from tcm_d2.evaluation.scoring.annotations import read_annotations
    from tcm_d2.inference.detector import Detector
    from tcm_d2.inference.large_image import detect_scene
    from tcm_d2.inference.rasters import open_scene

    detector = Detector.from_pretrained(args.weights, score_threshold=SCORE_THRESHOLD)
    images = list_images(args.images / "images")
    annotations = read_annotations(
        args.images / "labelTxt", image_ids=list(images), classes=detector.classes
    )
    columns = ["windows (px)", "overlap (px)", "rule", "AP50", "AP75", "detections"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    settings = [("whole", "-", "-", replace(detector.config, window_px=100_000, overlap_px=0))]
    for overlap in args.overlaps:
        for rule in ("nms", "whole"):
            config = replace(
                detector.config, window_px=args.window, overlap_px=overlap, seam_rule=rule
            )
            settings.append((str(args.window), str(overlap), rule, config))
    known: dict[bytes, Any] = {}

    def detect_windows(windows: Any) -> Any:
        """Ask the model once for each window."""
        for window in windows:
            key = window.tobytes()
            if key not in known:
                known[key] = detector.detect_windows([window])[0]
        return [known[window.tobytes()] for window in windows]

    for window, overlap, rule, config in settings:
        found = {}
        for image_id, path in images.items():
            with open_scene(path) as scene:
                found[image_id] = detect_scene(detect_windows, scene, config)
        scores = [score(found, detector.classes, annotations, iou) for iou in (0.5, 0.75)]
        print(
            f"| {window} | {overlap} | {rule} | {scores[0]:.1f} | {scores[1]:.1f} "
            f"| {sum(len(one.scores) for one in found.values())} |",
            flush=True,
        )
    return 0


def score(found: Any, classes: Any, annotations: Any, iou_threshold: float) -> float:
    """Return the mean AP in percent."""
    from tcm_d2.evaluation.scoring.score import evaluate_task1
    from tcm_d2.structures.conversions import boxes_to_quads
    from tcm_d2.structures.detections import ClassDetections

    rows = {}
    for index, name in enumerate(classes):
        ids, scores, quads = [], [np.empty(0)], [np.empty((0, 4, 2))]
        for image_id, one in found.items():
            mine = one.class_ids == index
            ids += [image_id] * int(mine.sum())
            scores.append(one.scores[mine])
            quads.append(boxes_to_quads(torch.from_numpy(one.boxes[mine])).numpy())
        rows[name] = ClassDetections(ids, np.concatenate(scores), np.concatenate(quads))
    return 100 * evaluate_task1(rows, annotations, iou_threshold=iou_threshold).mean_ap
