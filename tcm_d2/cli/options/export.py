"""Write a detector as a file that other programs run: ONNX (.onnx) or torch.export (.pt2).

  %(prog)s --config-file configs/tcm_fcos.yaml --weights model_final.pth \\
      --output tcm_fcos.onnx
  %(prog)s --config-file configs/tcm_fcos.yaml --weights model_final.pth \\
      --output tcm_fcos.onnx --dynamic --size 512 512 --check

See docs/export.md for the inputs and outputs, and tcm_d2.export.running for what comes after them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, add_import_option, new_parser, parse_options


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add_import_option(parser)
    add("--config-file", required=True, metavar="FILE", help=".yaml or .py, see configs/")
    add("--weights", required=True, metavar="FILE", help="what MODEL.WEIGHTS takes")
    add("--output", required=True, type=Path, metavar="FILE", help="to write: .onnx or .pt2")
    add("--size", type=int, nargs=2, default=(1024, 1024), metavar=("H", "W"), help="in pixels")
    add("--batch-size", type=int, default=1, help="images at a time, where not --dynamic")
    add("--dynamic", action="store_true", help="any batch size and size from 160 px on")
    add(
        "--postprocess",
        action="store_true",
        help="choose the best candidates in the file; only NMS is left to do",
    )
    add("--opset", type=int, default=18, help="of ONNX (18)")
    add("--check", action="store_true", help="run the file and compare with the model")
    add_classes_option(parser, "of a detector with an open vocabulary: what the file finds")
    add("--overwrite", action="store_true", help="replace an existing output")
    add("opts", nargs=argparse.REMAINDER, metavar="OVERRIDE", help="of the configuration")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words={})
