"""List the configurations that come with tcm_d2, or copy them to change one.

%(prog)s                     all names; --config-file takes them as they are
%(prog)s tcm_fcos            only names that contain this
%(prog)s --copy-to configs   all of them into a new folder: most are based on others
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import new_parser


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    parser.add_argument("part", nargs="?", default="", help="only names that contain this")
    parser.add_argument("--copy-to", type=Path, metavar="DIR", help="copy all into this new folder")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return make_parser(prog).parse_args(arguments)
