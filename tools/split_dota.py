#!/usr/bin/env python
"""Cut DOTA images and labels into patches.

Examples:
    # the published single-scale training patches
    python tools/split_dota.py --images datasets/DOTA/train/images datasets/DOTA/val/images \\
        --labels datasets/DOTA/train/labelTxt datasets/DOTA/val/labelTxt \\
        --output datasets/DOTA_split/trainval
    # the test images, which have no labels
    python tools/split_dota.py --images datasets/DOTA/test/images --no-labels \\
        --output datasets/DOTA_split/test
    # multi-scale: rates 0.5, 1.0 and 1.5 with gap 500
    python tools/split_dota.py --multi-scale --images ... --labels ... --output ...

The same command goes on where an interrupted one stopped. --dry-run only counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.cli.options import parse_options
from tcm_d2.data.dota.classes import CLASS_LISTS, expand_class_names
from tcm_d2.data.dota.labels import ON_ERROR_CHOICES
from tcm_d2.data.dota.split import (
    MULTI_SCALE,
    SINGLE_SCALE,
    SplitConfig,
    SplitSource,
    SplitSummary,
    split_dataset,
)

ANY_CLASS = "any"

# Of earlier releases.
_OLD_WORDS = {"--image-dirs": "--images", "--label-dirs": "--labels", "--out": "--output"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line; exits with a message when it contradicts itself."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", nargs="+", required=True, type=Path, metavar="DIR", help="image folders")
    add("--labels", nargs="+", type=Path, metavar="DIR", help="their labelTxt folders")
    add("--no-labels", action="store_true", help="the images have no labels (test split)")
    add(
        "--output", required=True, type=Path, metavar="DIR", help="new folder, or one to go on with"
    )
    add("--multi-scale", action="store_true", help="rates 0.5 1.0 1.5 and gap 500")
    add("--size", type=int, metavar="PX", help=f"patch side ({SINGLE_SCALE.patch_size_px})")
    add("--gap", type=int, metavar="PX", help=f"overlap of patches ({SINGLE_SCALE.gap_px})")
    add("--rates", nargs="+", type=float, metavar="R", help="a rate r cuts windows of size / r (1)")
    add("--object-iof", type=float, metavar="X", help="share of an object that keeps it (0.7)")
    add("--image-rate", type=float, metavar="X", help="share of a window inside the image (0.6)")
    add(
        "--keep-window-size",
        action="store_true",
        help="save windows of other rates unresized, as mmrotate does",
    )
    add("--drop-empty", action="store_true", help="leave out patches without objects")
    add(
        "--truncated",
        choices=["whole", "clip"],
        default="whole",
        help="objects cut by the patch border: whole as in mmrotate, or their part inside",
    )
    add(
        "--mark-truncated",
        action="store_true",
        help="difficulty 2 for objects cut by the patch border, as mmrotate writes it",
    )
    add(
        "--format",
        choices=["png", "jpg", "bmp", "tif"],
        default="png",
        help="of the patches; bmp is the fastest to write and to train on, at twice the size",
    )
    add(
        "--classes",
        nargs="+",
        default=["dota-v1.0"],
        metavar="NAME",
        help=f"names to accept, or one of {', '.join(CLASS_LISTS)}, {ANY_CLASS} (dota-v1.0)",
    )
    add(
        "--on-error",
        choices=ON_ERROR_CHOICES,
        default="raise",
        help="bad label lines: stop, leave out and count, or also repair self-crossing quads",
    )
    add(
        "--on-missing",
        choices=["raise", "skip"],
        default="raise",
        help="images without label, labels without image",
    )
    add("--on-bad-image", choices=["raise", "skip"], default="raise", help="unreadable images")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    add("--dry-run", action="store_true", help="count only, write nothing")
    add("--quiet", action="store_true", help="no progress bar")
    args = parse_options(parser, arguments, old_words=_OLD_WORDS)
    if args.no_labels == bool(args.labels):
        parser.error("give --labels, or --no-labels for images without labels")
    if args.labels and len(args.labels) != len(args.images):
        parser.error(
            f"--labels: expected {len(args.images)} folders, one for each of --images, "
            f"got {len(args.labels)}"
        )
    return args


def build_config(args: argparse.Namespace) -> SplitConfig:
    """Return the split's rules: the preset, and what the command line changes in it."""
    changes = {
        "patch_size_px": args.size,
        "gap_px": args.gap,
        "rates": None if args.rates is None else tuple(args.rates),
        "min_object_iof": args.object_iof,
        "min_image_rate": args.image_rate,
    }
    return dataclasses.replace(
        MULTI_SCALE if args.multi_scale else SINGLE_SCALE,
        resize_patches=not args.keep_window_size,
        keep_empty=not args.drop_empty,
        truncated=args.truncated,
        mark_truncated=args.mark_truncated,
        image_suffix=f".{args.format}",
        on_error=args.on_error,
        on_missing=args.on_missing,
        on_bad_image=args.on_bad_image,
        **{name: value for name, value in changes.items() if value is not None},
    )


def describe(summary: SplitSummary, dry_run: bool) -> str:
    """Return the counts in a few lines."""
    lines = [
        f"{'would make' if dry_run else 'made'} {summary.num_patches} patches of "
        f"{summary.num_images} images ({summary.num_resumed} were already done); "
        f"{summary.num_empty_patches} patches without objects",
        f"{summary.num_patch_objects} objects in the patches; {summary.num_source_objects} in the "
        "label files read now (objects in overlaps count more than once)",
    ]
    lines.extend(f"left out: {num} x {reason}" for reason, num in summary.skipped.items())
    if summary.label_problems.counts:
        lines.append(f"label lines left out or repaired: {summary.label_problems.summary()}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    label_dirs = args.labels or [None] * len(args.images)
    try:
        summary = split_dataset(
            [SplitSource(*pair) for pair in zip(args.images, label_dirs)],
            args.output,
            config=build_config(args),
            classes=None if args.classes == [ANY_CLASS] else expand_class_names(args.classes),
            num_workers=args.workers,
            dry_run=args.dry_run,
            show_progress=not args.quiet,
        )
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(describe(summary, args.dry_run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
