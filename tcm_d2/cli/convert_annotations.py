"""The command tcm-d2 convert-annotations."""

from __future__ import annotations

import argparse
import logging
import sys

from tcm_d2.config.registries import import_user_parts
from tcm_d2.data.conversion import (
    convert_annotations,
    describe_conversion,
    read_class_names,
)
from tcm_d2.data.formats.contract import all_formats
from tcm_d2.data.formats.reading import ReadOptions


def list_formats() -> str:
    """Return a line for each format."""
    rows = []
    for name, item in all_formats().items():
        written = ", is written" if item.is_written() else ""
        rows.append(f"{name:16} {item.title} ({', '.join(item.suffixes)}{written})")
    return "\n".join(rows)


def run(args: argparse.Namespace) -> int:
    """Run the command line and return its exit status."""
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
