"""Draw the curves of one or several training runs from their metrics.json, as a PNG.

  %(prog)s output/tcm_fcos --output curves.png
  %(prog)s with=output/tcm_fcos without=output/fcos_no_tcm --keys total_loss "*AP50"

A run is the output folder of tcm-d2 train or a metrics.json, with a name of its own before "=".
Where a run was resumed, the later of two values of an iteration counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import new_parser, parse_options

# Of earlier releases.
OLD_WORDS = {"--out": "--output"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("runs", nargs="+", metavar="[NAME=]RUN", help="output folder or metrics.json")
    add(
        "--output", type=Path, default=Path("curves.png"), metavar="FILE", help=".png, .svg or .pdf"
    )
    add(
        "--keys",
        nargs="+",
        default=["total_loss", "loss_*", "*AP50", "lr", "grad_norm"],
        metavar="PATTERN",
        help="* and ? allowed",
    )
    add("--smooth", type=int, default=9, metavar="N", help="running median of N values; 1: none")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words=OLD_WORDS)
