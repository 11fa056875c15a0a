#!/usr/bin/env python
"""Convert annotations to DOTA's label files, which the other tools and the loader read.

Examples:
    python tools/convert_annotations.py --annotations instances.json --output mine/labelTxt
    python tools/convert_annotations.py --format yolo-obb --annotations labels/train \\
        --images images/train --classes-file data.yaml --output mine/labelTxt
    python tools/convert_annotations.py --annotations mine/labelTxt --images mine/images \\
        --to cvat --output for_cvat

Without --format the format of each file is found by its content; --list-formats shows all. Nothing
is left out, changed or taken as upright without being counted in the summary. Then put (or link)
the images into mine/images and check: tools/validate_dataset.py --root mine.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tcm_d2.cli.options import parse_options
from tcm_d2.config.registries import add_import_option, import_user_parts
from tcm_d2.data.conversion import (
    TARGET_FORMAT,
    convert_annotations,
    describe_conversion,
    read_class_names,
)
from tcm_d2.data.formats.contract import AUTO, all_formats
from tcm_d2.data.formats.reading import AngleUnit, Bbox5, OnError, Polygons, ReadOptions

_OLD_WORDS = {"--image-dir": "--images", "--out": "--output"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--format", default=AUTO, metavar="NAME", help=f"of the annotations ({AUTO})")
    add("--annotations", type=Path, metavar="PATH", help="file or folder")
    add("--output", type=Path, metavar="DIR", help="for the files written")
    add("--to", default=TARGET_FORMAT, metavar="NAME", help=f"format to write ({TARGET_FORMAT})")
    add("--images", type=Path, metavar="DIR", help="the images, for their sizes")
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--classes", nargs="+", metavar="NAME", help="in the order of the indices, from 0"
    )
    names.add_argument("--classes-file", type=Path, metavar="FILE", help="text or data.yaml")
    add(
        "--on-error",
        choices=get_args(OnError),
        default="stop",
        help="objects that cannot be used: stop, skip and count them, or repair what can be",
    )
    add("--strict", action="store_true", help="stop where anything is upright, repaired, left out")
    add(
        "--polygons",
        choices=get_args(Polygons),
        help="of other than four corners, and masks: take the smallest rectangle, or refuse them",
    )
    add("--angle-unit", choices=get_args(AngleUnit), help="where it is not the format's own")
    add("--bbox5", choices=get_args(Bbox5), help="what a COCO bbox of five values means")
    add_import_option(parser)
    add("--list-formats", action="store_true", help="show all formats and end")
    args = parse_options(parser, arguments, old_words=_OLD_WORDS)
    if not args.list_formats and (args.annotations is None or args.output is None):
        parser.error("give --annotations and --output")
    return args


def list_formats() -> str:
    """Return a line for each format."""
    rows = []
    for name, item in all_formats().items():
        written = ", is written" if item.is_written() else ""
        rows.append(f"{name:16} {item.title} ({', '.join(item.suffixes)}{written})")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        import_user_parts(args.imports)
        if args.list_formats:
            print(list_formats())
            return 0
        classes = None if args.classes is None else dict(enumerate(args.classes))
        if args.classes_file is not None:
            classes = read_class_names(args.classes_file)
        summary = convert_annotations(
            args.annotations,
            args.output,
            source_format=args.format,
            target_format=args.to,
            image_dir=args.images,
            options=ReadOptions(
                classes=classes,
                on_error=args.on_error,
                strict=args.strict,
                polygons=args.polygons,
                angle_unit=args.angle_unit,
                bbox5=args.bbox5,
            ),
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(describe_conversion(summary, args.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
