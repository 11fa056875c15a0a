"""Serve a page to try a detector on: drop a picture, look at what is found, take it along.

  %(prog)s
  %(prog)s --weights output/tcm_fcos --port 8080

Only this machine can reach the page unless --host says otherwise; then anyone in the network may
use it. Pictures are deleted as soon as they are looked at; the last results stay in memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tcm_d2.command_line import add_classes_option, add_import_option, new_parser, parse_options


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    model = parser.add_argument_group("detector")
    model.add_argument(
        "--weights",
        help="output folder of a training, .pth or .safetensors beside config.yaml, or a published "
        "detector of mmrotate; default: the small one in the package",
    )
    model.add_argument("--config-file", help="where it does not lie beside the weights")
    model.add_argument("--device", help="cuda, cuda:1, cpu; default: CUDA where there is one")
    add_classes_option(model, "names in label order; with an open vocabulary what to find")
    model.add_argument("--score-threshold", type=float, help="the page starts with; default 0.3")
    model.add_argument("--window", type=int, help="side in px; default: as the model was trained")
    add_import_option(parser)
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    server.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    server.add_argument("--max-upload-mb", type=int, default=256, help="MiB of a file")
    server.add_argument("--max-megapixels", type=int, default=400, help="of a picture")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words={})
