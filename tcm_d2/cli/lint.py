"""The command tcm-d2 lint."""

from __future__ import annotations

import argparse
import sys

from tcm_d2.evaluation.files.escapes import read_image_list
from tcm_d2.evaluation.files.lint import lint_results


def run(args: argparse.Namespace) -> int:
    """Print the problems; return 0 without any, 1 with some, 2 when there is nothing to read."""
    try:
        image_ids = None
        if args.image_list is not None:
            image_ids = read_image_list(args.image_list)
        problems = lint_results(
            args.detections, classes=args.classes, image_ids=image_ids, task=args.task
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        kind = "note: " if problem.is_note else ""
        print(f"{problem.where}: {kind}{problem.rule}: {problem.message}")
    num_problems = sum(not problem.is_note for problem in problems)
    print(f"{args.detections}: {num_problems} problems")
    return 1 if num_problems else 0
