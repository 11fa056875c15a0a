"""The command tcm-d2 completion."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from tcm_d2.cli.main import COMMANDS


def run(args: argparse.Namespace) -> int:
    """Print the shell's script; return 2 after a message where shtab is missing."""
    try:
        import shtab
    except ImportError:
        print("error: this needs shtab: pip install 'tcm_d2[completion]'", file=sys.stderr)
        return 2
    print(shtab.complete(whole_parser(files=shtab.FILE), shell=args.shell))
    return 0


def whole_parser(*, files: dict[str, str]) -> argparse.ArgumentParser:
    """Return one parser of all commands.

    Args:
        files: what completes file names, after every option that takes no number and no choice.
    """
    parser = argparse.ArgumentParser("tcm-d2")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        options = importlib.import_module(f"tcm_d2.cli.options.{command.module}")
        parent = options.make_parser(f"tcm-d2 {name}")
        for action in parent._actions:
            if action.nargs != 0 and action.choices is None and action.type in (None, Path):
                action.complete = files
        commands.add_parser(name, help=command.summary, parents=[parent], add_help=False)
    return parser
