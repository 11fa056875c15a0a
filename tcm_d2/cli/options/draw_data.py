"""Draw a data set's annotations, or what the loader really feeds after augmentation.

Examples:
    %(prog)s --patch-dir datasets/DOTA_split/val --output output/pictures
    %(prog)s --patch-dir ... --source loader --config-file configs/x.yaml
    %(prog)s --images IMAGES --labels LABELTXT --output output/pictures
    %(prog)s --dataset dota_v1_train --output output/pictures
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, new_parser, parse_options
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES

# Of earlier releases.
OLD_WORDS = {"--image-dir": "--images", "--label-dir": "--labels", "--out": "--output"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dataset", help="a known name, e.g. dota_v1_train, hrsc2016_test")
    where.add_argument("--patch-dir", type=Path, metavar="DIR", help="made by tcm-d2 split")
    where.add_argument("--images", type=Path, metavar="DIR", help="whole images")
    add("--labels", type=Path, metavar="DIR", help="labels of --images")
    add_classes_option(parser, "class names", default=DOTA_V1_CLASSES)
    add("--on-error", choices=("raise", "skip", "repair"), default="raise", help="bad label lines")
    add("--source", choices=["annotations", "loader"], default="annotations", help="what to draw")
    add("--config-file", type=Path, metavar="YAML", help="augmentations of --source loader")
    add(
        "--output",
        type=Path,
        default=Path("output/pictures"),
        metavar="DIR",
        help="for the pictures",
    )
    add("--num", type=int, default=10, metavar="N", help="pictures to draw")
    add("--seed", type=int, default=0, help="chooses the pictures and the augmentations")
    add("--class-masks", action="store_true", help="shade the auxiliary target (--source loader)")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words=OLD_WORDS)
