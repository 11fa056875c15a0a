"""Merge patch-level detections into whole images, write result files, pack and lint them.

Examples:
    %(prog)s --detections patch_results --output merged --iou-threshold 0.1
    %(prog)s --detections output/inference/dota_v1_test/patch_detections.npz \\
        --output merged --iou-threshold 0.3 --image-list test_images.txt

The input is a folder or zip of Task1_<class>.txt files whose rows name patches, or the
patch_detections.npz that an evaluation leaves. A patch is named `P0001__1__824___0` (the middle
field is the rate by which the image was resized: devkit) or `P0001__1024__824___0` (the size of the
patch: mmrotate). `--patch-names auto` takes whole numbers from 16 on as sizes and all else as
rates. The output is Task1/Task1_<class>.txt and Task1.zip in the output folder (Task2 likewise).

The zip is written last and an old one is removed first: where there is a zip, the run was finished.
What the server would reject is reported with file, line and what to do; with --strict it is an
error.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, new_parser, parse_options
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES

# Of earlier releases.
OLD_WORDS = {"--output-dir": "--output", "--nms-iou": "--iou-threshold"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add(
        "--detections",
        required=True,
        type=Path,
        metavar="DIR_ZIP_or_NPZ",
        help="patch-level rows, or patch_detections.npz",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="made where missing")
    add(
        "--iou-threshold",
        type=float,
        default=0.1,
        help="suppress above this IoU (default: 0.1 as mmrotate; the devkit takes 0.3)",
    )
    add(
        "--patch-names",
        choices=("auto", "rate", "size"),
        default="auto",
        help="what the middle field of a patch name is (default: auto, see above)",
    )
    add("--task", type=int, choices=(1, 2), default=1, help="1 corners, 2 their upright bounds")
    add_classes_option(
        parser,
        "classes to write (default: the 15 of DOTA-v1.0); absent ones get an empty file. For an "
        "npz: the names of its labels, in order",
        default=DOTA_V1_CLASSES,
    )
    add("--image-list", type=Path, metavar="FILE", help="image ids of the task, for the lint")
    add("--strict", action="store_true", help="problems of the lint make the run fail")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words=OLD_WORDS)
