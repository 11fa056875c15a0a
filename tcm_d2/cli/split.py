"""The command tcm-d2 split."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys

from tcm_d2.data.dota.split import (
    MULTI_SCALE,
    SINGLE_SCALE,
    SplitConfig,
    SplitSource,
    SplitSummary,
    split_dataset,
)

ANY_CLASS = "any"


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


def run(args: argparse.Namespace) -> int:
    """Run the command line and return its exit status."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    label_dirs = args.labels or [None] * len(args.images)
    try:
        summary = split_dataset(
            [SplitSource(*pair) for pair in zip(args.images, label_dirs)],
            args.output,
            config=build_config(args),
            classes=None if args.classes == [ANY_CLASS] else args.classes,
            num_workers=args.workers,
            dry_run=args.dry_run,
            show_progress=not args.quiet,
        )
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(describe(summary, args.dry_run))
    return 0
