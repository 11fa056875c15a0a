"""Cut DOTA images and labels into patches.

Examples:
    # the published single-scale training patches
    %(prog)s --images datasets/DOTA/train/images datasets/DOTA/val/images \\
        --labels datasets/DOTA/train/labelTxt datasets/DOTA/val/labelTxt \\
        --output datasets/DOTA_split/trainval
    # the test images, which have no labels
    %(prog)s --images datasets/DOTA/test/images --no-labels \\
        --output datasets/DOTA_split/test
    # multi-scale: rates 0.5, 1.0 and 1.5 with gap 500
    %(prog)s --multi-scale --images ... --labels ... --output ...

The same command goes on where an interrupted one stopped. --dry-run only counts.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, new_parser, parse_options
from tcm_d2.data.dota.classes import CLASS_LISTS

# Of earlier releases.
OLD_WORDS = {"--image-dirs": "--images", "--label-dirs": "--labels", "--out": "--output"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--images", nargs="+", required=True, type=Path, metavar="DIR", help="image folders")
    add("--labels", nargs="+", type=Path, metavar="DIR", help="their labelTxt folders")
    add("--no-labels", action="store_true", help="the images have no labels (test split)")
    add(
        "--output", required=True, type=Path, metavar="DIR", help="new folder, or one to go on with"
    )
    add("--multi-scale", action="store_true", help="rates 0.5 1.0 1.5 and gap 500")
    add("--size", type=int, metavar="PX", help="patch side (1024)")
    add("--gap", type=int, metavar="PX", help="overlap of patches (200)")
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
    add_classes_option(
        parser,
        f"names to accept, or one of {', '.join(CLASS_LISTS)}, any (dota-v1.0)",
        default=["dota-v1.0"],
    )
    add(
        "--on-error",
        choices=("raise", "skip", "repair"),
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
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = make_parser(prog)
    args = parse_options(parser, arguments, old_words=OLD_WORDS)
    if args.no_labels == bool(args.labels):
        parser.error("give --labels, or --no-labels for images without labels")
    if args.labels and len(args.labels) != len(args.images):
        parser.error(
            f"--labels: expected {len(args.images)} folders, one for each of --images, "
            f"got {len(args.labels)}"
        )
    return args
