#!/usr/bin/env python3
"""Run a benchmark suite on this machine and print its table.

    python tools/benchmark.py ops --help
    python tools/benchmark.py --list

A suite is a module of `benchmarks`. Each compares with a peer in the same run; the recorded
tables are in BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import benchmarks


def list_suites() -> list[str]:
    """Return the names of the suites."""
    names = (m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.ispkg)
    return sorted(name for name in names if not name.startswith("_"))


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the suites and stop")
    parser.add_argument("suite", nargs="?", choices=list_suites())
    args = parser.parse_args(argv[:1])
    if args.suite is None:
        print("\n".join(list_suites()))
        return 0 if args.list else 2
    suite = importlib.import_module(f"benchmarks.{args.suite}")
    suite_parser = argparse.ArgumentParser(
        prog=f"benchmark.py {args.suite}",
        description=suite.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    suite.add_arguments(suite_parser)
    return int(suite.run(suite_parser.parse_args(argv[1:])))


if __name__ == "__main__":
    raise SystemExit(main())
