"""Print versions, the extension's state and devices; a bug report should hold it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tcm_d2.command_line import new_parser


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    return new_parser(__doc__, prog)


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return make_parser(prog).parse_args(arguments)
