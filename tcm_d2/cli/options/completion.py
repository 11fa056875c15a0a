"""Print what makes a shell complete commands and options with the Tab key.

  bash: %(prog)s bash > ~/.local/share/bash-completion/completions/tcm-d2
  zsh:  %(prog)s zsh > ~/.zfunc/_tcm-d2    (a folder of $fpath)

Needs the package shtab: pip install 'tcm_d2[completion]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tcm_d2.command_line import new_parser


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    parser.add_argument("shell", choices=("bash", "zsh"))
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return make_parser(prog).parse_args(arguments)
