"""Check a data set in DOTA's format before training on it.

    %(prog)s --root mine --classes ship plane
    %(prog)s --images IMAGES --labels LABELTXT --classes dota-v1.0 \\
        --output output/check --num-pictures 12

Looks for files that cannot be read or are unmatched, class names that are unknown (with near
matches), lines and quads that mean nothing, objects outside the image, written twice or too small,
and scores the labels as if they were detections, which must give 1.0. Prints a report; --output
also writes report.txt, report.json and drawings of a sample. Exit status: 0 nothing wrong, 1 errors
(with --strict also warnings), 2 the check could not be done. Other formats:
tcm-d2 convert-annotations.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, new_parser, parse_options
from tcm_d2.data.dota.classes import CLASS_LISTS

# Of earlier releases.
OLD_WORDS = {"--image-dir": "--images", "--label-dir": "--labels", "--out": "--output"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--root", type=Path, metavar="DIR", help="holds images/ and labelTxt/")
    add("--images", type=Path, metavar="DIR", help="instead of --root, with --labels")
    add("--labels", type=Path, metavar="DIR", help="DOTA label files")
    add("--annotations", type=Path, metavar="PATH", help="instead of --labels: of another format")
    add("--format", default="auto", metavar="NAME", help="of the annotations (auto)")
    add("--classes-file", type=Path, metavar="FILE", help="for formats with class indices")
    add_classes_option(
        parser,
        f"class names, or one of {', '.join(CLASS_LISTS)}; without it any name is allowed",
    )
    add("--output", type=Path, metavar="DIR", help="for report.txt, report.json and pictures")
    add("--num-pictures", type=int, default=8, metavar="N", help="images to draw into --output (8)")
    add("--seed", type=int, default=0, help="chooses the pictures")
    add("--no-decode", action="store_true", help="read the heads of the images only: faster")
    add("--strict", action="store_true", help="exit status 1 for warnings too")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = make_parser(prog)
    args = parse_options(parser, arguments, old_words=OLD_WORDS)
    given = (args.labels is not None) + (args.annotations is not None)
    if (args.root is None) == (args.images is None) or (args.images is None) == (given == 1):
        parser.error("give --root, or --images and --labels (or --annotations)")
    if args.root is not None:
        args.images, args.labels = args.root / "images", args.root / "labelTxt"
    return args
