"""Count a detector's parameters, multiply-adds and activations, part by part.

  %(prog)s --config-file configs/tcm_fcos.yaml
  %(prog)s --config-file configs/lazy/tcm_atss.py --size 800x1333 --depth 2
  %(prog)s --config-file configs/tcm_fcos.yaml --json x.json MODEL.CLIP.NAME RN101

Counted by fvcore on one image, from the input to the head's dense outputs; decoding and NMS depend
on what is found and are left out. "GFLOPs" are fused multiply-adds, as in most papers; activations
are the outputs of convolutions and matrix products. In evaluation the text encoder's result is
kept until a weight changes, so that its row is spent once and not per image, unless the prompts
depend on the image. A convolution that evaluation folds with its BatchNorm counts for the module
that calls it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_import_option, new_parser, parse_options


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add_import_option(parser)
    add("--config-file", required=True, type=Path, help=".yaml or .py, see configs/")
    add("--size", type=_size_hw, default=(1024, 1024), metavar="PX", help="side, or HEIGHTxWIDTH")
    add("--depth", type=int, default=1, help="how far into the parts to look (default: 1)")
    add("--format", choices=["simple", "github"], default="simple", help="of the table")
    add("--json", type=Path, metavar="FILE", help="write the counts there, too")
    add("opts", nargs=argparse.REMAINDER, metavar="OVERRIDE", help="as for tcm-d2 train")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = make_parser(prog)
    args = parse_options(parser, arguments, old_words={})
    if args.depth < 1:
        parser.error(f"--depth: expected at least 1, got {args.depth}")
    return args


def _size_hw(text: str) -> tuple[int, int]:
    """Return (height, width) of "1024" or "800x1333"."""
    sides = [int(part) for part in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError(text)
    return sides[0], sides[-1]
