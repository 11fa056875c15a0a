"""Score a detector on labelled photos of other sources, whole images as users have them.

    python tools/benchmark.py real_photos --images dota=D/images=D/labelTxt
    python tools/benchmark.py real_photos --images ucas=U/images=U/labelTxt \\
        --rename car=small-vehicle

Each set is a name, a folder of images and one of DOTA label files; a name that is given again adds
to its set. Printed: AP50 by the devkit's rules (11-point, difficult objects ignored) per class, the
mean over the classes that the set holds, and the seconds an image takes. Nothing is trained here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tcm_d2 import Detector
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.evaluation.scoring.score import ScoreTable, evaluate_task1
from tcm_d2.inference.batch_run import expand_inputs
from tcm_d2.inference.bundled import DEFAULT_NAME
from tcm_d2.structures.detections import ClassDetections
from tcm_d2.visualize.draw import save_image

IOU_THRESHOLD = 0.5
# Detections from this score on are drawn.
SHOWN_SCORE = 0.3


class PhotoFolder(NamedTuple):
    """Images of a set and their label files."""

    name: str
    images: Path
    labels: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    add = parser.add_argument
    add("--images", nargs="+", required=True, type=_folder, metavar="NAME=IMAGES=LABELTXT")
    add("--rename", nargs="*", default=[], metavar="THEIRS=OURS", help="classes of the label files")
    add("--weights", default=DEFAULT_NAME, help="what Detector.from_pretrained takes")
    add("--score", type=float, default=0.02, help="lowest score that counts")
    add("--window", type=int, help="side of the windows in px")
    add("--scales", type=float, nargs="+", help="sizes at which an image is looked at")
    add("--threads", type=int, default=2)
    add("--pictures", type=Path, help="also draw what is found there, from a score of 0.3")
    add("--json", type=Path, help="also write the numbers there")


def _folder(text: str) -> PhotoFolder:
    parts = text.split("=")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"expected NAME=IMAGES=LABELTXT, got {text!r}")
    return PhotoFolder(parts[0], Path(parts[1]), Path(parts[2]))


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its tables and return the exit status."""
    torch.set_num_threads(args.threads)
    detector = Detector.from_pretrained(
        args.weights, score_threshold=args.score, window_px=args.window, scales=args.scales
    )
    renamed = dict(pair.split("=") for pair in args.rename)
    results = {}
    for name in dict.fromkeys(folder.name for folder in args.images):
        folders = [folder for folder in args.images if folder.name == name]
        table, seconds = score_set(detector, folders, renamed, args.pictures)
        print(f"\n{name}: {args.weights}, scores from {args.score:g}, {seconds:.2f} s an image")
        print(_short_table(table), flush=True)
        results[name] = {"seconds_per_image": seconds, **_numbers(table)}
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return 0


def score_set(
    detector: Detector,
    folders: list[PhotoFolder],
    renamed: dict[str, str],
    pictures: Path | None = None,
) -> tuple[ScoreTable, float]:
    """Return the AP table of a set, and the seconds an image took."""
    rows: defaultdict[str, list[ClassDetections]] = defaultdict(list)
    image_ids = []
    with tempfile.TemporaryDirectory() as scratch:
        labels = Path(scratch)
        started = time.perf_counter()
        for folder in folders:
            for path in expand_inputs([folder.images]):
                found = detector(path)
                for class_name, one in found.to_task1().items():
                    rows[class_name].append(one)
                image_ids.append(path.stem)
                _copy_label(folder.labels / f"{path.stem}.txt", labels, renamed)
                if pictures is not None:
                    pictures.mkdir(parents=True, exist_ok=True)
                    picture = found.above(SHOWN_SCORE).draw(label_mode="never")
                    save_image(pictures / f"{path.stem}.png", picture)
        seconds = (time.perf_counter() - started) / max(1, len(image_ids))
        annotations = read_annotations(labels, image_ids=image_ids, classes=DOTA_V1_CLASSES)
    joined = {
        name: ClassDetections(
            [image_id for part in parts for image_id in part.image_ids],
            np.concatenate([np.asarray(part.scores, np.float64) for part in parts]),
            np.concatenate([np.asarray(part.quads, np.float64) for part in parts]),
        )
        for name, parts in rows.items()
    }
    return evaluate_task1(joined, annotations, iou_threshold=IOU_THRESHOLD), seconds


def _copy_label(source: Path, folder: Path, renamed: dict[str, str]) -> None:
    """Write a label file with our class names."""
    lines = []
    for line in source.read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if len(fields) > 8:
            fields[8] = renamed.get(fields[8], fields[8])
        lines.append(" ".join(fields))
    (folder / source.name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbers(table: ScoreTable) -> dict[str, Any]:
    rows = {
        name: {"ap": round(100 * row.ap, 1), "objects": row.num_ground_truths}
        for name, row in table.classes.items()
        if row.num_ground_truths
    }
    return {"mean": round(float(np.mean([row["ap"] for row in rows.values()])), 1), "classes": rows}


def _short_table(table: ScoreTable) -> str:
    numbers = _numbers(table)
    counts = Counter({name: row["objects"] for name, row in numbers["classes"].items()})
    lines = [
        f"{name:<20}{num:>7} objects{numbers['classes'][name]['ap']:>8.1f}"
        for name, num in counts.most_common()
    ]
    return "\n".join([*lines, f"{'mean':<20}{'':>15}{numbers['mean']:>8.1f}"])
