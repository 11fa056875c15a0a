"""Convert annotations to DOTA's label files, which the other tools and the loader read.

Examples:
    %(prog)s --annotations instances.json --output mine/labelTxt
    %(prog)s --format yolo-obb --annotations labels/train \\
        --images images/train --classes-file data.yaml --output mine/labelTxt
    %(prog)s --annotations mine/labelTxt --images mine/images \\
        --to cvat --output for_cvat

Without --format the format of each file is found by its content; --list-formats shows all. Nothing
is left out, changed or taken as upright without being counted in the summary. Then put (or link)
the images into mine/images and check: tcm-d2 validate --root mine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, add_import_option, new_parser, parse_options

# Of earlier releases.
OLD_WORDS = {"--image-dir": "--images", "--out": "--output"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--format", default="auto", metavar="NAME", help="of the annotations (auto)")
    add("--annotations", type=Path, metavar="PATH", help="file or folder")
    add("--output", type=Path, metavar="DIR", help="for the files written")
    add("--to", default="dota", metavar="NAME", help="format to write (dota)")
    add("--images", type=Path, metavar="DIR", help="the images, for their sizes")
    names = parser.add_mutually_exclusive_group()
    add_classes_option(names, "in the order of the indices, from 0")
    names.add_argument("--classes-file", type=Path, metavar="FILE", help="text or data.yaml")
    add(
        "--on-error",
        choices=("stop", "skip", "repair"),
        default="stop",
        help="objects that cannot be used: stop, skip and count them, or repair what can be",
    )
    add("--strict", action="store_true", help="stop where anything is upright, repaired, left out")
    add(
        "--polygons",
        choices=("rectangle", "refuse"),
        help="of other than four corners, and masks: take the smallest rectangle, or refuse them",
    )
    add("--angle-unit", choices=("radians", "degrees"), help="where it is not the format's own")
    add(
        "--bbox5",
        choices=("center", "corner", "detectron2"),
        help="what a COCO bbox of five values means",
    )
    add_import_option(parser)
    add("--list-formats", action="store_true", help="show all formats and end")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = make_parser(prog)
    args = parse_options(parser, arguments, old_words=OLD_WORDS)
    if not args.list_formats and (args.annotations is None or args.output is None):
        parser.error("give --annotations and --output")
    return args
