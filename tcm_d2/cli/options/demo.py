"""Make the embedded data set, train a small detector on it, evaluate, and draw what it found.

Every step is a command that works alone; each is printed before it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import new_parser, parse_options


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--model", default="tcm_fcos", help="stem of configs/embedded_*.yaml")
    add("--output", type=Path, default=Path("output/demo"))
    add("--seed", type=int, default=1)
    add("--num-train", type=int, default=96, help="scenes to train on")
    add("--fresh", action="store_true", help="delete the output and start again")
    add("overrides", nargs="*", help="KEY VALUE pairs for the training")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words={})
