"""Say what the DOTA server would reject in a submission, or silently score badly.

Example:
    %(prog)s --detections Task1.zip --image-list test_images.txt

Each line names file:line, the rule, what is wrong and what to do. Notes are no
problems. Exit status 0 means no problem.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, new_parser, parse_options
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.files.lint_rules import RULES

# Of earlier releases.
OLD_WORDS = {"--results": "--detections"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    rules = "\n".join(f"  {name:<16} {text}" for name, text in RULES.items())
    parser = new_parser(f"{__doc__}\nRules:\n{rules}", prog)
    add = parser.add_argument
    add("--detections", required=True, type=Path, metavar="DIR_or_ZIP", help="result files")
    add("--task", type=int, choices=(1, 2), default=1, help="1 oriented, 2 upright boxes")
    add("--image-list", type=Path, metavar="FILE", help="image ids of the task, one per line")
    add_classes_option(
        parser, "classes of the task (default: the 15 of DOTA-v1.0)", default=DOTA_V1_CLASSES
    )
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words=OLD_WORDS)
