#!/usr/bin/env python
"""Merge patch-level detections into whole images, write result files, pack and lint them.

Examples:
    python tools/merge_results.py --detections patch_results --output merged --iou-threshold 0.1
    python tools/merge_results.py --detections output/inference/dota_v1_test/patch_detections.npz \\
        --output merged --iou-threshold 0.3 --image-list test_images.txt

The input is a folder or zip of Task1_<class>.txt files whose rows name patches, or the
patch_detections.npz that an evaluation leaves. A patch is named `P0001__1__824___0` (the middle
field is the rate by which the image was resized: devkit) or `P0001__1024__824___0` (the size of the
patch: mmrotate). `--patch-names auto` takes whole numbers from 16 on as sizes and all else as
rates. The output is Task1/Task1_<class>.txt and Task1.zip in the output folder (Task2 likewise).

The zip is written last and an old one is removed first: where there is a zip, the run was finished.
What the server would reject is reported with file, line and what to do; with --strict it is an
error.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.cli.options import parse_options
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.dota_evaluator import rows_by_class
from tcm_d2.evaluation.files.escapes import describe_escaped_ids, read_image_list
from tcm_d2.evaluation.files.lint import lint_results
from tcm_d2.evaluation.files.rows import TASKS
from tcm_d2.evaluation.files.task_files import read_task1, write_submission
from tcm_d2.evaluation.merge import (
    NAME_STYLES,
    load_patch_detections,
    merge_patch_detections,
    merge_task1,
)
from tcm_d2.structures.detections import ClassDetections

logger = logging.getLogger("merge_results")

# Of earlier releases.
_OLD_WORDS = {"--output-dir": "--output", "--nms-iou": "--iou-threshold"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--detections",
        required=True,
        type=Path,
        metavar="DIR_ZIP_or_NPZ",
        help="patch-level rows, or patch_detections.npz",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="made where missing")
    add(
        "--iou-threshold",
        type=float,
        default=0.1,
        help="suppress above this IoU (default: 0.1 as mmrotate; the devkit takes 0.3)",
    )
    add(
        "--patch-names",
        choices=NAME_STYLES,
        default="auto",
        help="what the middle field of a patch name is (default: auto, see above)",
    )
    add("--task", type=int, choices=TASKS, default=1, help="1 corners, 2 their upright bounds")
    add(
        "--classes",
        nargs="+",
        default=list(DOTA_V1_CLASSES),
        metavar="NAME",
        help="classes to write (default: the 15 of DOTA-v1.0); absent ones get an empty file. For "
        "an npz: the names of its labels, in order",
    )
    add("--image-list", type=Path, metavar="FILE", help="image ids of the task, for the lint")
    add("--strict", action="store_true", help="problems of the lint make the run fail")
    return parse_options(parser, arguments, old_words=_OLD_WORDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge, write and lint; return 0, or 1 after a message on standard error."""
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    classes = list(dict.fromkeys(args.classes))
    try:
        num_in, merged = merge(args, classes)
        names = (name for part in merged.values() for name in part.image_ids)
        if escaped := describe_escaped_ids(names):
            logger.warning("%s", escaped)
        zip_path = write_submission(args.output, merged, classes=classes, task=args.task)
        image_ids = None
        if args.image_list is not None:
            image_ids = read_image_list(args.image_list)
        problems = lint_results(zip_path, classes=classes, image_ids=image_ids, task=args.task)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # The files of absent classes are empty on purpose.
    problems = [problem for problem in problems if not problem.is_note]
    for problem in problems:
        logger.warning("%s: %s: %s", problem.where, problem.rule, problem.message)
    num_out = sum(len(part.scores) for part in merged.values())
    num_images = len({image_id for part in merged.values() for image_id in part.image_ids})
    print(f"{num_in} rows on patches -> {num_out} rows on {num_images} images: {zip_path}")
    return 1 if problems and args.strict else 0


def merge(args: argparse.Namespace, classes: list[str]) -> tuple[int, dict[str, ClassDetections]]:
    """Return the number of rows on patches, and the merged rows by class."""
    if args.detections.suffix == ".npz":
        patches = load_patch_detections(args.detections)
        largest = int(patches.found.class_ids.max(initial=-1))
        if largest >= len(classes):
            raise ValueError(
                f"--classes: expected at least {largest + 1} names for the labels in "
                f"{args.detections}, got {len(classes)}"
            )
        merged = merge_patch_detections(patches, iou_threshold=args.iou_threshold)
        return len(patches.found), rows_by_class(merged, classes=classes)
    rows = read_task1(args.detections)
    merged_rows = merge_task1(rows, iou_threshold=args.iou_threshold, name_style=args.patch_names)
    return sum(len(part.scores) for part in rows.values()), merged_rows


if __name__ == "__main__":
    sys.exit(main())
