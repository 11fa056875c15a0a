"""The command tcm-d2 predict."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tcm_d2 import Detector
from tcm_d2.config.registries import import_user_parts
from tcm_d2.inference.batch_run import (
    FileOutcome,
    FileRun,
    expand_inputs,
    run_files,
)
from tcm_d2.inference.bundled import DEFAULT_NAME
from tcm_d2.inference.speed import keep_memory


def make_detector(args: argparse.Namespace) -> Detector:
    """Return the detector that the command line names."""
    import_user_parts(args.imports)
    named = args.weights or args.config_file
    if named is None:
        named = DEFAULT_NAME
        print(
            f"no --weights: taking {named}, which comes with tcm_d2. It is small and learned from "
            "renders alone; docs/bundled_detector.md says what it finds on photos and what not"
        )
    return Detector.from_pretrained(
        named,
        config_file=args.config_file if args.weights else None,
        device=args.device,
        score_threshold=args.score_threshold,
        class_names=args.classes,
        window_px=args.window,
        overlap_px=args.overlap,
        scales=args.scales,
        batch_size=args.batch_size,
        seam_rule=args.seam_rule,
        tta=args.tta,
    )


def detect(args: argparse.Namespace) -> int:
    """Detect in all files and return the exit status."""
    paths = expand_inputs(args.images)
    options = {
        "bands": tuple(args.bands) if args.bands else None,
        "value_range": tuple(args.value_range) if args.value_range else None,
        "apply_exif": args.apply_exif,
        "crs": args.crs,
    }
    file_run = FileRun(
        output_dir=args.output,
        geojson_crs="wgs84" if args.wgs84 else "image",
        picture_format=None if args.picture_format == "none" else args.picture_format,
        picture_side_px=args.picture_side,
        read_options={key: value for key, value in options.items() if value},
        show_progress=not args.quiet,
        annotation_formats=tuple(args.to),
        geopackage=args.geopackage,
    )
    detector = make_detector(args)
    keep_memory(detector.device)
    config = detector.config
    print(
        f"{len(paths)} files, {len(detector.classes)} classes, on {detector.device}; windows of "
        f"{config.window_px} px, {config.overlap_px} px overlap, scores from "
        f"{config.score_threshold:g}",
        flush=True,
    )
    started = time.perf_counter()
    outcomes = run_files(detector, paths, file_run, report=None if args.quiet else print_outcome)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    total = sum(outcome.num_detections for outcome in outcomes)
    print(
        f"{total} detections in {len(outcomes) - len(failed)} files, results in {args.output} "
        f"({time.perf_counter() - started:.1f} s)"
    )
    incomplete = [outcome for outcome in outcomes if outcome.message]
    for outcome in incomplete:
        kind = "left out" if outcome.status == "failed" else "incomplete"
        print(f"{kind}: {outcome.message}", file=sys.stderr)
    return 1 if incomplete else 0


def print_outcome(outcome: FileOutcome) -> None:
    """Print a line for a file."""
    text = f"{outcome.num_detections} detections, {outcome.seconds:.1f} s"
    if outcome.status != "done":
        text = outcome.status if outcome.status == "failed" else f"{text} (done before)"
    print(f"{outcome.path}: {text}", flush=True)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return detect(args)
    except (ValueError, OSError, ModuleNotFoundError, MemoryError) as error:
        if args.traceback:
            raise
        print(f"error: {error} (--traceback shows where)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was found is kept, the same command goes on", file=sys.stderr)
        return 130
