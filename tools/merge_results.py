#!/usr/bin/env python
"""Merge patch-level Task1 rows into whole images and pack them for submission.

Example:
    python tools/merge_results.py --detections patch_results --output-dir merged --nms-iou 0.1

Rows of the input name patches: `P0001__1__824___0` (the middle field is the rate by which the image
was resized: devkit) or `P0001__1024__824___0` (the size of the patch: mmrotate). `--patch-names
auto` takes whole numbers from 16 on as sizes and all else as rates. The output is
Task1/Task1_<class>.txt and Task1.zip in the output folder.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.lint import lint_task1
from tcm_d2.evaluation.merge import NAME_STYLES, merge_task1
from tcm_d2.evaluation.submission import read_task1, write_task1, write_task1_zip

logger = logging.getLogger("merge_results")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--detections", required=True, type=Path, metavar="DIR_or_ZIP", help="patch-level rows")
    add("--output-dir", required=True, type=Path, metavar="DIR", help="made where missing")
    add(
        "--nms-iou",
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
    add(
        "--classes",
        nargs="+",
        default=list(DOTA_V1_CLASSES),
        metavar="NAME",
        help="classes to write (default: the 15 of DOTA-v1.0); absent ones get an empty file",
    )
    add("--image-list", type=Path, metavar="FILE", help="image ids of the task, for the lint")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge, write and lint; return 0, or 1 after a message on standard error."""
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        rows = read_task1(args.detections)
        merged = merge_task1(rows, iou_threshold=args.nms_iou, name_style=args.patch_names)
        task1_dir = args.output_dir / "Task1"
        files = write_task1(task1_dir, merged, classes=list(dict.fromkeys(args.classes)))
        zip_path = write_task1_zip(args.output_dir / "Task1.zip", files)
        image_ids = None
        if args.image_list is not None:
            image_ids = args.image_list.read_text(encoding="utf-8-sig").split()
        problems = lint_task1(zip_path, classes=args.classes, image_ids=image_ids)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for problem in problems:
        logger.warning("%s: %s: %s", problem.where, problem.rule, problem.message)
    num_in = sum(len(part.scores) for part in rows.values())
    num_out = sum(len(part.scores) for part in merged.values())
    num_images = len({image_id for part in merged.values() for image_id in part.image_ids})
    print(f"{num_in} rows on patches -> {num_out} rows on {num_images} images: {zip_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
