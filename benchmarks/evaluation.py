"""Time evaluation and merging beside straightforward ways to do the same, in one run.

    python tools/benchmark.py evaluation [--devkit DIR] [--clock cpu] [--json times.json]

The set is drawn with a fixed seed: 450 images, 27,000 objects, 99,000 detections, 15 classes, and
109,000 detections on patches. The peers:

- "pair by pair": the devkit's algorithm written plainly: per detection, upright overlaps with the
  objects of its image in numpy, then one IoU call (compiled) per candidate.
- "--devkit DIR": the official devkit itself, a checkout of DOTA_devkit with its polyiou built; it
  reads files, as its users do. AP must agree.
- "image by image": one compiled NMS call per image and class, rows formatted by Python, zip packed
  at the default level: how a detection toolbox merges and writes its submission.

Ours and the peer take turns; the table shows the median of the repeats and the ratio of medians.
Each side uses the same number of threads (--threads).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks._evaluation_set import EvaluationSet, make_evaluation_set, to_rows, write_labels
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.analysis.result import analyze_evaluation
from tcm_d2.evaluation.dota_evaluator import rows_by_class
from tcm_d2.evaluation.files.task_files import read_task1, write_submission, write_task1
from tcm_d2.evaluation.merge import merge_patch_detections
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.evaluation.scoring.average_precision import GroundTruths, average_precision
from tcm_d2.evaluation.scoring.protocols import Prepared, Rules, prepare_evaluation
from tcm_d2.evaluation.scoring.score import score_prepared
from tcm_d2.ops import nms_rotated
from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.structures.detections import QuadDetections

IOU_THRESHOLD = 0.5
NMS_IOU = 0.1
LARGEST_AP_DIFFERENCE = 1e-6


def pair_by_pair(detections: QuadDetections, objects: GroundTruths) -> float:
    """Return the 11-point AP of one class by the devkit's algorithm, one pair at a time."""
    if objects.difficult.all():
        return float("nan")
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, image in enumerate(objects.image_index.tolist()):
        rows_of[image].append(row)
    bounds = np.concatenate([objects.quads.min(axis=1), objects.quads.max(axis=1)], axis=1)
    taken: set[int] = set()
    order = np.argsort(-detections.scores)
    true, false = np.zeros(len(order)), np.zeros(len(order))
    for rank, row in enumerate(order.tolist()):
        rows = np.array(rows_of[int(detections.image_index[row])], dtype=np.int64)
        quad = detections.quads[row]
        low = np.maximum(bounds[rows, :2], quad.min(axis=0))
        high = np.minimum(bounds[rows, 2:], quad.max(axis=0))
        near = rows[(high > low).all(axis=1)]
        best_iou, best = 0.0, -1
        for candidate in near.tolist():
            iou = float(
                torch.ops.tcm_d2.paired_quad_iou(
                    torch.from_numpy(quad[None]),
                    torch.from_numpy(objects.quads[candidate : candidate + 1]),
                )
            )
            if iou > best_iou:
                best_iou, best = iou, candidate
        if best_iou <= IOU_THRESHOLD or best in taken:
            false[rank] = 1.0
        elif not objects.difficult[best]:
            true[rank] = 1.0
            taken.add(best)
    true, false = np.cumsum(true), np.cumsum(false)
    recall = true / float((~objects.difficult).sum())
    precision = true / np.maximum(true + false, np.finfo(np.float64).eps)
    return average_precision(recall, precision, metric="11point")


def image_by_image(data: EvaluationSet, folder: Path) -> None:
    """Merge patches and write the submission one image and class at a time."""
    parts = data.patch_detections
    index_of = {image_id: index for index, image_id in enumerate(data.image_ids)}
    image_of_patch = np.array([index_of[image_id] for image_id in parts.image_ids])
    boxes = torch.from_numpy(parts.found.boxes.copy())
    scores = torch.from_numpy(parts.found.scores)
    class_ids = torch.from_numpy(parts.found.class_ids)
    boxes[:, :2] += torch.from_numpy(parts.origins_xy[parts.patch_index]).float()
    image_index = image_of_patch[parts.patch_index]
    order = np.argsort(image_index, kind="stable")
    ends = np.cumsum(np.bincount(image_index, minlength=len(data.image_ids)))
    lines: list[list[str]] = [[] for _ in DOTA_V1_CLASSES]
    for image_id, rows in zip(data.image_ids, np.split(order, ends[:-1])):
        row = torch.from_numpy(rows)
        for label in range(len(DOTA_V1_CLASSES)):
            mine = row[class_ids[row] == label]
            if not len(mine):
                continue
            kept = mine[nms_rotated(boxes[mine], scores[mine], NMS_IOU)]
            quads = boxes_to_quads(boxes[kept]).reshape(-1, 8).tolist()
            for score, quad in zip(scores[kept].tolist(), quads):
                numbers = " ".join(f"{value:.2f}" for value in quad)
                lines[label].append(f"{image_id} {score:.9g} {numbers}\n")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "Task1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, rows_of_class in zip(DOTA_V1_CLASSES, lines):
            path = folder / f"Task1_{name}.txt"
            path.write_text("".join(rows_of_class))
            archive.write(path, path.name)


def merge_ours(data: EvaluationSet, folder: Path) -> None:
    """Merge patches and write the submission our way."""
    merged = merge_patch_detections(data.patch_detections, iou_threshold=NMS_IOU)
    rows = rows_by_class(merged, classes=DOTA_V1_CLASSES)
    write_submission(folder, rows, classes=DOTA_V1_CLASSES)


def load_devkit(folder: Path) -> ModuleType:
    """Import dota_evaluation_task1 of a devkit checkout (needs its polyiou built)."""
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(
        "dota_evaluation_task1", folder / "dota_evaluation_task1.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_devkit(devkit: ModuleType, folder: Path) -> list[float]:
    """Return the AP of each class from the files of ``write_files``."""
    aps = []
    with contextlib.redirect_stdout(io.StringIO()):
        for name in DOTA_V1_CLASSES:
            _, _, ap = devkit.voc_eval(
                str(folder / "Task1" / "Task1_{:s}.txt"),
                str(folder / "labelTxt" / "{:s}.txt"),
                str(folder / "images.txt"),
                name,
                ovthresh=IOU_THRESHOLD,
                use_07_metric=True,
            )
            aps.append(float(ap))
    return aps


def evaluate_files(data: EvaluationSet, folder: Path) -> list[float]:
    """Return our AP of each class from the same files."""
    annotations = read_annotations(
        folder / "labelTxt", image_ids=data.image_ids, classes=DOTA_V1_CLASSES
    )
    prepared = prepare_evaluation(read_task1(folder / "Task1"), annotations, rules=Rules())
    report = score_prepared(prepared, iou_threshold=IOU_THRESHOLD, rules=Rules())
    return [report.classes[name].ap for name in DOTA_V1_CLASSES]


# What --clock measures: on a busy machine the processor's time says more than the wall's.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def in_turns(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> tuple[float, float, Any, Any]:
    """Return the median seconds of both, taking turns, and the results of the last calls."""
    times: tuple[list[float], list[float]] = ([], [])
    results: list[Any] = [None, None]
    for _ in range(repeats):
        for index, call in enumerate((first, second)):
            start = clock()
            results[index] = call()
            times[index].append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1]), results[0], results[1]


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    """Return the largest difference of AP over the classes with objects (elsewhere ours is NaN)."""
    return max(abs(a - b) for a, b in zip(ours, theirs) if not math.isnan(a))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--images", type=int, default=450)
    parser.add_argument("--objects", type=int, default=27_000)
    parser.add_argument("--detections", type=int, default=99_000)
    parser.add_argument("--patch-detections", type=int, default=109_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--devkit", type=Path, help="checkout of DOTA_devkit with polyiou built")
    parser.add_argument("--json", type=Path, help="also write the times here")


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    global clock
    clock = CLOCKS[args.clock]
    torch.set_num_threads(args.threads)
    data = make_evaluation_set(
        num_images=args.images,
        num_objects=args.objects,
        num_detections=args.detections,
        num_patch_detections=args.patch_detections,
        seed=args.seed,
    )
    prepared = Prepared(
        list(DOTA_V1_CLASSES),
        data.image_ids,
        data.detections,
        data.ground_truths,
        [part.quads for part in data.detections],
        [part.quads for part in data.ground_truths],
    )
    print(
        f"{args.images} images, {args.objects} objects, {args.detections} detections, "
        f"{args.patch_detections} on patches; {args.threads} threads of {os.cpu_count()} CPUs; "
        f"{args.clock} time"
    )
    table: dict[str, dict[str, float]] = {}

    def show(name: str, ours: float, peer: float | None = None) -> None:
        table[name] = {"ours_s": ours} | ({} if peer is None else {"peer_s": peer})
        ratio = "" if peer is None else f"{peer:9.3f} s {peer / ours:7.1f} x"
        print(f"{name:<52} {ours:8.3f} s {ratio}", flush=True)

    def ours() -> list[float]:
        report = score_prepared(prepared, iou_threshold=IOU_THRESHOLD, rules=Rules())
        return [report.classes[name].ap for name in DOTA_V1_CLASSES]

    def plain() -> list[float]:
        return [pair_by_pair(d, g) for d, g in zip(data.detections, data.ground_truths)]

    print(f"{'':<52} {'ours':>10} {'peer':>11} {'ratio':>8}")
    ours_s, plain_s, our_ap, plain_ap = in_turns(ours, plain, max(1, args.repeats // 2))
    show("AP50 from arrays | pair by pair", ours_s, plain_s)
    worst = largest_difference(our_ap, plain_ap)
    sweep_s, all_s, _, _ = in_turns(
        lambda: score_prepared(prepared, iou_threshold=IOU_THRESHOLD, rules=Rules(), sweep=True),
        lambda: analyze_evaluation(prepared, iou_threshold=IOU_THRESHOLD, rules=Rules()),
        args.repeats,
    )
    show("AP at 0.50:0.95 from arrays", sweep_s)
    show("whole analysis from arrays", all_s)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_labels(data, folder / "labelTxt")
        write_task1(folder / "Task1", to_rows(data), classes=DOTA_V1_CLASSES)
        (folder / "images.txt").write_text("\n".join(data.image_ids) + "\n")
        if args.devkit is None:
            files_s, _, _, _ = in_turns(
                lambda: evaluate_files(data, folder), lambda: None, args.repeats
            )
            show("AP50 from files", files_s)
        else:
            devkit = load_devkit(args.devkit)
            files_s, devkit_s, file_ap, devkit_ap = in_turns(
                lambda: evaluate_files(data, folder),
                lambda: run_devkit(devkit, folder),
                max(1, args.repeats // 2),
            )
            show("AP50 from arrays | devkit (from files)", ours_s, devkit_s)
            show("AP50 from files | devkit (from files)", files_s, devkit_s)
            worst = max(worst, largest_difference(file_ap, devkit_ap))
        read_s, merge_s, _, _ = in_turns(
            lambda: read_task1(folder / "Task1"),
            lambda: merge_patch_detections(data.patch_detections, iou_threshold=NMS_IOU),
            args.repeats,
        )
        show("reading the result files", read_s)
        show("merging in memory", merge_s)
        merge_files_s, peer_s, _, _ = in_turns(
            lambda: merge_ours(data, folder / "ours"),
            lambda: image_by_image(data, folder / "peer"),
            args.repeats,
        )
        show("merging, files and zip | image by image", merge_files_s, peer_s)
        count = [
            sum(len(part.scores) for part in read_task1(folder / name).values())
            for name in ("ours/Task1", "peer")
        ]
    print(f"largest AP difference {worst:.1e}; rows after merging {count[0]} and {count[1]}")
    if args.json is not None:
        args.json.write_text(json.dumps({"threads": args.threads, "times": table}, indent=2))
    return 0 if worst <= LARGEST_AP_DIFFERENCE else 1
