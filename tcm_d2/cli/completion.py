"""The command tcm-d2 completion."""

from __future__ import annotations

import argparse
import importlib
import sys

from tcm_d2.cli.main import COMMANDS


def run(args: argparse.Namespace) -> int:
    """Print the shell's script; return 2 after a message where shtab is missing."""
    try:
        import shtab
    except ImportError:
        print("error: this needs shtab: pip install 'tcm_d2[completion]'", file=sys.stderr)
        return 2
    print(shtab.complete(whole_parser(), shell=args.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of all commands."""
    parser = argparse.ArgumentParser("tcm-d2")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        options = importlib.import_module(f"tcm_d2.cli.options.{command.module}")
        parent = options.make_parser(f"tcm-d2 {name}")
        commands.add_parser(name, help=command.summary, parents=[parent], add_help=False)
    return parser
