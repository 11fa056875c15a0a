"""The command tcm-d2 merge."""

from __future__ import annotations

import argparse
import logging
import sys

from tcm_d2.evaluation.dota_evaluator import rows_by_class
from tcm_d2.evaluation.files.escapes import describe_escaped_ids, read_image_list
from tcm_d2.evaluation.files.lint import lint_results
from tcm_d2.evaluation.files.task_files import read_task1, write_submission
from tcm_d2.evaluation.merge import (
    load_patch_detections,
    merge_patch_detections,
    merge_task1,
)
from tcm_d2.structures.detections import ClassDetections

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Merge, write and lint; return 0, or 1 after a message on standard error."""
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
