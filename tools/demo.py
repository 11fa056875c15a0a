#!/usr/bin/env python3
"""Detect in pictures of any size, and write what was found: pictures, GeoJSON, DOTA, COCO, JSON.

  tools/demo.py --weights output/tcm_fcos --images a.png b.tif folder/ 'scenes/*.tif' --output out
  tools/demo.py --weights model_final.pth --config-file configs/tcm_fcos.yaml --images big.tif \\
      --output out --window 1024 --overlap 300 --bands 4 3 2

Larger pictures are cut into overlapping windows and put together. A run that was stopped goes on
when it is started again. Exit status: 0, 1 where a file was left out or a result could not be
written, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

# Read by OpenMP when torch is loaded: idle threads sleep instead of spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tcm_d2 import Detector
from tcm_d2.cli.options import parse_options
from tcm_d2.config.registries import add_import_option, import_user_parts
from tcm_d2.inference.batch_run import (
    PICTURE_FORMATS,
    FileOutcome,
    FileRun,
    expand_inputs,
    run_files,
)
from tcm_d2.inference.bundled import DEFAULT_NAME
from tcm_d2.inference.results import MAX_PICTURE_SIDE_PX
from tcm_d2.inference.seams import SEAM_RULES
from tcm_d2.inference.speed import keep_memory

# Of earlier releases.
_OLD_WORDS = {"--input": "--images"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", nargs="+", required=True, help="files, folders, patterns in quotes"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder, made where missing")
    model = parser.add_argument_group("detector")
    model.add_argument(
        "--weights",
        help="output folder of a training, .pth or .safetensors beside config.yaml, or a published "
        "detector of mmrotate; default: a small detector of rendered scenes",
    )
    add_import_option(parser)
    model.add_argument("--config-file", help="where it does not lie beside the weights")
    model.add_argument("--device", help="cuda, cuda:1, cpu; default: CUDA where there is one")
    model.add_argument(
        "--classes", nargs="+", help="names in label order; with an open vocabulary what to find"
    )
    model.add_argument("--score-threshold", type=float, help="default 0.3")
    model.add_argument("--tta", action="store_true", help="8 views of each window (TEST.TTA)")
    cut = parser.add_argument_group("large pictures")
    cut.add_argument("--window", type=int, help="side in px; default: as the model was trained")
    cut.add_argument("--overlap", type=int, help="px, more than the longest object; default: 1/4")
    cut.add_argument("--batch-size", type=int, help="windows at once, default 4")
    cut.add_argument("--seam-rule", choices=SEAM_RULES, default="whole")
    read = parser.add_argument_group("reading")
    read.add_argument(
        "--bands", type=int, nargs="+", help="shown as red, green, blue, from 1: 4 3 2"
    )
    read.add_argument(
        "--value-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="shown black and white"
    )
    read.add_argument("--apply-exif", action="store_true", help="turn as EXIF's orientation says")
    read.add_argument(
        "--crs", help="coordinate system of files that have a position and name none: EPSG:32633"
    )
    write = parser.add_argument_group("results")
    write.add_argument(
        "--geopackage", action="store_true", help="also detections.gpkg, of files with a position"
    )
    write.add_argument("--wgs84", action="store_true", help="GeoJSON in longitude and latitude")
    write.add_argument("--picture-format", choices=(*PICTURE_FORMATS, "none"), default="png")
    write.add_argument("--picture-side", type=int, default=MAX_PICTURE_SIDE_PX, metavar="PX")
    write.add_argument(
        "--to",
        nargs="+",
        default=[],
        metavar="FORMAT",
        help="also for labelling tools: cvat, x-anylabeling, labelme, label-studio, yolo-obb",
    )
    write.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return parse_options(parser, argv, old_words=_OLD_WORDS)


def make_detector(args: argparse.Namespace) -> Detector:
    """Return the detector that the command line names."""
    import_user_parts(args.imports)
    named = args.weights or args.config_file
    if named is None:
        named = DEFAULT_NAME
        print(
            f"no --weights: taking {named}, which comes with tcm_d2. It is small and was trained "
            "on rendered scenes; for real images train one, or name weights"
        )
    return Detector.from_pretrained(
        named,
        config_file=args.config_file if args.weights else None,
        device=args.device,
        score_threshold=args.score_threshold,
        class_names=args.classes,
        window_px=args.window,
        overlap_px=args.overlap,
        batch_size=args.batch_size,
        seam_rule=args.seam_rule,
        tta=args.tta,
    )


def run(args: argparse.Namespace) -> int:
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


def main() -> None:
    """Run the command line."""
    args = parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        sys.exit(run(args))
    except (ValueError, OSError, ModuleNotFoundError, MemoryError) as error:
        if args.traceback:
            raise
        print(f"error: {error} (--traceback shows where)", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what was found is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
