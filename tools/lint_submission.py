#!/usr/bin/env python
"""Say what the DOTA server would reject in a submission, or silently score badly.

Example:
    python tools/lint_submission.py --detections Task1.zip --image-list test_images.txt

Each line names file:line, the rule, what is wrong and what to do. Notes are no
problems. Exit status 0 means no problem.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.cli.options import parse_options
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.files.escapes import read_image_list
from tcm_d2.evaluation.files.lint import RULES, lint_results
from tcm_d2.evaluation.files.rows import TASKS

# Of earlier releases.
_OLD_WORDS = {"--results": "--detections"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    rules = "\n".join(f"  {name:<16} {text}" for name, text in RULES.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nRules:\n{rules}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--detections", required=True, type=Path, metavar="DIR_or_ZIP", help="result files")
    add("--task", type=int, choices=TASKS, default=1, help="1 oriented, 2 upright boxes")
    add("--image-list", type=Path, metavar="FILE", help="image ids of the task, one per line")
    add(
        "--classes",
        nargs="+",
        default=list(DOTA_V1_CLASSES),
        metavar="NAME",
        help="classes of the task (default: the 15 of DOTA-v1.0)",
    )
    return parse_options(parser, arguments, old_words=_OLD_WORDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the problems; return 0 without any, 1 with some, 2 when there is nothing to read."""
    args = parse_arguments(arguments)
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


if __name__ == "__main__":
    sys.exit(main())
