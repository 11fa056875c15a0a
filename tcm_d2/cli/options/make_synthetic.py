"""Make the embedded data set: rendered aerial-like scenes in DOTA's format."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, new_parser, parse_options


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    parser.add_argument("--output", type=Path, required=True, help="gets train/ and val/")
    parser.add_argument(
        "--preset",
        choices=("demo", "dota", "photo", "landmarks"),
        default="dota",
        help="dota: DOTA's size statistics, 1024 px (default); "
        "demo: larger objects and clearer pictures for a tiny detector, 512 px; "
        "photo: photo-like scenes of many kinds, objects of true size, 384 px; "
        "landmarks: such scenes of what is rare or large there: fields, bridges, roundabouts, "
        "piers, long ships, tanks, helicopters",
    )
    parser.add_argument(
        "--num-train", type=int, help="training images (demo: 96, dota: 120, others: 400)"
    )
    parser.add_argument(
        "--num-val", type=int, help="validation images (demo: 24, dota: 36, others: 40)"
    )
    parser.add_argument(
        "--image-size", type=int, help="side in px (demo: 512, dota: 1024, photo: 384)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objects-scale", type=float, help="factor on all object sizes")
    add_classes_option(parser, "draw only these classes")
    parser.add_argument("--num-workers", type=int, help="processes (default: all cores)")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words={})
