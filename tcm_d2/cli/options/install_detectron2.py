"""Install Detectron2 0.6 from the package registry, for machines without a compiler or GitHub.

The registry has no distribution called `detectron2`. It has a source package of upstream's v0.6
without the C++ files, `pb1-detectron2`, whose own build fails. This tool downloads that file (pip
checks its SHA-256 before anything in it runs), applies the edits listed in
tcm_d2/cli/detectron2_edits.py, packs the Python files as a wheel `detectron2` 0.6 and installs it
together with its run-time requirements. A Detectron2 that can be imported already, from whatever
source, is left alone.

    %(prog)s            # install where missing, then self-check
    %(prog)s --check    # self-check only
    %(prog)s --list-edits
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import new_parser


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    parser.add_argument("--force", action="store_true", help="replace an installed Detectron2")
    parser.add_argument("--sdist", type=Path, help="a downloaded source package (hash-checked too)")
    parser.add_argument("--check", action="store_true", help="only run the self-check")
    parser.add_argument("--list-edits", action="store_true", help="print the edits and exit")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return make_parser(prog).parse_args(arguments)
