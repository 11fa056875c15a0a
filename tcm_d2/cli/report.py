"""The command tcm-d2 report."""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
from pathlib import Path

import numpy as np

from tcm_d2.config.registries import import_user_parts
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import list_labels
from tcm_d2.data.images import read_image
from tcm_d2.evaluation.dota_evaluator import AP_FILE, TASK1_DIR
from tcm_d2.evaluation.files.ap_file import ScoringRules, read_scoring_rules
from tcm_d2.evaluation.files.task_files import read_task1
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.files import write_bytes_atomically
from tcm_d2.inference.find_files import find_detector_files
from tcm_d2.inference.model_images import to_model_image
from tcm_d2.inference.pretrained import build_pretrained
from tcm_d2.inference.score_maps import compute_score_maps
from tcm_d2.inference.speed import make_fast
from tcm_d2.report.analysis import Analysis, analyze, rank_images
from tcm_d2.report.gallery import Picture, find_image_files, pack_pictures
from tcm_d2.report.page import build_page


def run(args: argparse.Namespace) -> int:
    """Write the page; return 0, or 1 after a message on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        complete_from_run(args)
        analysis = read_analysis(args)
        pictures = [] if args.images is None else make_pictures(analysis, args)
        page = build_page(
            analysis,
            pictures,
            title=args.title
            or f"Report on {task1_path(args.detections).parent.name or args.detections}",
            facts=[
                ("Results", str(args.detections)),
                ("Labels", str(args.labels)),
                ("Written", f"{datetime.datetime.now():%Y-%m-%d %H:%M}"),
            ],
            score_threshold=args.score_threshold,
            min_score=args.min_score,
        )
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(args.output, page.encode("utf-8"))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"mean AP {100 * analysis.mean_ap:.2f}, {len(analysis.image_ids)} images")
    print(f"{args.output}  {args.output.stat().st_size / 1e6:.1f} MB, {len(pictures)} pictures")
    return 0


def complete_from_run(args: argparse.Namespace) -> None:
    """Fill in what --run says of the results and their rules, and the defaults for the rest.

    Raises:
        FileNotFoundError: the run lacks Task1/ or ap.json.
        ValueError: ap.json is not what an evaluation writes.
    """
    rules = ScoringRules(DOTA_V1_CLASSES, "11point", 0.5)
    if args.run is not None:
        args.detections = args.run / TASK1_DIR
        if not args.detections.is_dir():
            raise FileNotFoundError(
                f"--run: {args.run}: expected {TASK1_DIR}/ and {AP_FILE}, as an evaluation "
                f"leaves them in OUTPUT_DIR/inference/<data set>; found no {TASK1_DIR}/"
            )
        rules = read_scoring_rules(args.run / AP_FILE)
    args.classes = list(rules.classes) if args.classes is None else args.classes
    args.metric = rules.metric if args.metric is None else args.metric
    args.iou_threshold = rules.iou_threshold if args.iou_threshold is None else args.iou_threshold


def read_analysis(args: argparse.Namespace) -> Analysis:
    """Read results and labels, and score them."""
    image_ids = list(list_labels(args.labels))
    if not image_ids:
        raise ValueError(f"{args.labels}: expected label files <image id>.txt, found none")
    annotations = read_annotations(args.labels, image_ids=image_ids, classes=args.classes)
    detections = read_task1(task1_path(args.detections))
    return analyze(detections, annotations, iou_threshold=args.iou_threshold, metric=args.metric)


def task1_path(results: Path) -> Path:
    """Return where the Task1 files are: in the folder itself or in its Task1."""
    inner = results / TASK1_DIR
    return inner if inner.is_dir() else results


def make_pictures(analysis: Analysis, args: argparse.Namespace) -> list[Picture]:
    """Return the pictures with most errors, with score maps where a detector is given."""
    files = find_image_files(args.images, analysis.image_ids)
    ranked = rank_images(analysis, score_threshold=args.score_threshold)
    chosen = [
        (index, files[analysis.image_ids[index]])
        for index in ranked
        if analysis.image_ids[index] in files
    ][: args.num_pictures]
    maps: dict[int, np.ndarray] = {}
    if args.config_file is not None:
        import_user_parts(args.imports)
        detector = build_pretrained(
            find_detector_files(args.config_file, weights=args.weights, config_file=None),
            device=args.device,
            class_names=None,
            overrides=args.opts,
        )
        make_fast(detector.model)
        if len(detector.classes) != len(analysis.class_names):
            raise ValueError(
                f"--config-file: the detector has {len(detector.classes)} classes, the report "
                f"{len(analysis.class_names)}; give --classes in the detector's order"
            )
        for index, path in chosen:
            image = to_model_image(
                read_image(path, channel_order="RGB"),
                image_format=detector.image_format,
                resize_factor=detector.resize_factor,
            )
            maps[index] = compute_score_maps(detector.model, image).numpy()
    return pack_pictures(
        chosen,
        max_bytes=int(1e6 * args.max_mb),
        image_format=args.image_format,
        score_maps=maps,
    )
