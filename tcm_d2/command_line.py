"""What all command lines share; the standard library only, so that ``--help`` comes at once.

One vocabulary for the options; words of earlier releases go on working:

==================  =============================================
--images            image files or folders
--labels            folders of label files
--detections        result files: a folder, a zip, an npz
--classes           class names in label order, or a data.yaml or text file with them
--weights           of a detector
--config-file       of a detector, .yaml or .py
--output            file or folder to write
--score-threshold   lower scores are left out
--iou-threshold     a match, or a duplicate, needs an IoU above it
==================  =============================================
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence


def new_parser(description: str | None, prog: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows its description as it is written.

    Args:
        description: ``%(prog)s`` in it becomes the program's name.
        prog: how the program was called; None takes the process's own name.
    """
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--import``; what it names goes to `tcm_d2.config.registries.import_user_parts`.

    Only the person at the command line names code to run, never a configuration.
    """
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="my_package.my_head or my_head.py: run it first, so that it registers parts or data "
        "sets of your own; may be repeated",
    )


def add_classes_option(
    parser: argparse._ActionsContainer, meaning: str, *, default: Sequence[str] | None = None
) -> None:
    """Add ``--classes``: class names in label order, or a file, which ``run_command`` reads.

    Args:
        parser: or a group of one.
        meaning: what the names do here, for the help.
    """
    parser.add_argument(
        "--classes",
        nargs="+",
        default=None if default is None else list(default),
        metavar="NAME",
        help=f"{meaning}; or a data.yaml or text file with them",
    )


def parse_options(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    *,
    old_words: Mapping[str, str],
) -> argparse.Namespace:
    """Return the parsed command line.

    Args:
        arguments: None takes those of the process.
        old_words: an option's word of earlier releases, which no help shows -> today's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    for position, text in enumerate(given[:end]):
        word, sign, value = text.partition("=")
        if word in old_words:
            given[position] = f"{old_words[word]}{sign}{value}"
    return parser.parse_args(given)
