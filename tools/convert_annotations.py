#!/usr/bin/env python
"""Convert annotations to DOTA's label files, which the other tools and the loader read.

Examples:
    python tools/convert_annotations.py --format coco --annotations instances.json \\
        --out mine/labelTxt
    python tools/convert_annotations.py --format yolo-obb --annotations labels/train \\
        --image-dir images/train --classes-file data.yaml --out mine/labelTxt
    python tools/convert_annotations.py --format rolabelimg --annotations xml --out mine/labelTxt

Then put (or link) the images into mine/images and check: tools/validate_dataset.py --root mine.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.data.conversion import (
    FORMATS,
    ConversionSummary,
    convert_to_dota,
    read_class_names,
)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--format", choices=FORMATS, required=True, help="what the annotations are")
    add("--annotations", type=Path, required=True, metavar="PATH", help="file (coco) or folder")
    add("--out", type=Path, required=True, metavar="DIR", help="for the label files")
    add("--image-dir", type=Path, metavar="DIR", help="the images (yolo-obb needs them)")
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--classes", nargs="+", metavar="NAME", help="in the order of the indices")
    names.add_argument("--classes-file", type=Path, metavar="FILE", help="text or data.yaml")
    return parser.parse_args(arguments)


def describe(summary: ConversionSummary, out: Path) -> str:
    """Return the counts in a few lines."""
    lines = [f"wrote {summary.num_files} label files with {summary.num_objects} objects to {out}"]
    lines += [f"  {name}: {count}" for name, count in summary.class_counts.most_common()]
    if summary.num_left_out:
        lines.append(f"left out: {summary.num_left_out} objects without an outline")
    if summary.images_without_labels:
        some = ", ".join(summary.images_without_labels[:3])
        lines.append(
            f"{len(summary.images_without_labels)} images have no annotations ({some}); where they "
            "hold no objects, give them empty label files"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        classes = args.classes
        if args.classes_file is not None:
            classes = read_class_names(args.classes_file)
        summary = convert_to_dota(
            args.format, args.annotations, args.out, image_dir=args.image_dir, classes=classes
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(describe(summary, args.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
