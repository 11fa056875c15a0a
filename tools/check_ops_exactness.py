#!/usr/bin/env python3
"""Compare the operators with exact values on ten million pairs, and print the errors by family.

    python tools/check_ops_exactness.py [--pairs 10000000] [--output docs/benchmarks/exactness.md]

The exact values come from an oracle of its own, in extended precision; see tests/ops/exactness. The
exit status is 1 when an error exceeds its limit or a promise is broken. Ten million pairs take
about twenty minutes on one core; `--pairs 200000` takes half a minute.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from tcm_d2.files import write_bytes_atomically
from tcm_d2.ops import extension_status
from tests.ops.exactness import families, oracle, peers, quads
from tests.ops.exactness.checks import Tally, check_family

# Largest error allowed by column. A border at 1e5 px is known to 1e-11 px in float64, which is 1e-8
# of a side of 1e-3 px: that is what iof and the hull may lose where such boxes meet.
LIMITS = {
    "IoU fp32": 1e-4,
    "IoU fp64": 1e-9,
    "iof fp32": 1e-4,
    "iof fp64": 1e-8,
    "GIoU fp32": 1e-4,
    "GIoU fp64": 1e-8,
    "DIoU fp32": 1e-4,
    "DIoU fp64": 1e-9,
}
QUAD_LIMITS = {
    "quad IoU fp64": 1e-9,
    "quad IoU, exchanged": 1e-9,
    "corner outside its box, px": 1e-9,
    "area - OpenCV's / size^2": 1e-4,  # OpenCV computes in float32
    "area - GEOS's / size^2": 1e-9,
}
# Quads cost as much as several pairs of boxes, peers are no faster: a share of the pairs each.
QUAD_SHARE = 20
PEER_SHARE = 50


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10_000_000, help="of boxes, in all families")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", action="store_true", help="other libraries on the same pairs")
    parser.add_argument("--recorded", type=Path, help="archive of other libraries' values")
    parser.add_argument("--output", type=Path, help="also write the tables here (Markdown)")
    args = parser.parse_args(argv)
    if args.pairs < 1:
        parser.error(f"--pairs: expected at least 1, got {args.pairs}")
    return args


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def tally_table(tallies: dict[str, Tally], limits: dict[str, float]) -> str:
    """Return the table of the largest errors, with the limits in the last row."""
    rows = []
    for family, tally in tallies.items():
        errors = [f"{tally.errors.get(column, 0.0):.1e}" for column in limits]
        rows.append([family, f"{tally.num_pairs:,}", *errors, str(sum(tally.broken.values()))])
    rows.append(["**limit**", "", *(f"{limit:.0e}" for limit in limits.values()), "0"])
    return table(["family", "pairs", *limits, "broken promises"], rows)


def complaints(tallies: dict[str, Tally], limits: dict[str, float]) -> list[str]:
    """Return a line for each error above its limit and each broken promise."""
    found = []
    for family, tally in tallies.items():
        for column, limit in limits.items():
            error = tally.errors.get(column, 0.0)
            if not error <= limit:
                found.append(f"{family}: {column} is off by {error:.3e}, limit {limit:.0e}")
        found += [f"{family}: {name}: {count}" for name, count in tally.broken.items() if count]
    return found


def run_families(num_pairs: int, seed: int) -> dict[str, Tally]:
    """Check the operators on boxes, family by family."""
    tallies = {}
    each = -(-num_pairs // len(families.FAMILIES))
    for family in families.FAMILIES:
        start = time.perf_counter()
        tallies[family] = check_family(family, each, seed)
        print(f"{family}: {each:,} pairs, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return tallies


def run_quads(num_pairs: int, seed: int) -> dict[str, Tally]:
    """Check the operators on quadrilaterals, family by family."""
    each = -(-num_pairs // len(quads.FAMILIES))
    return {family: quads.check_quads(family, each, seed) for family in quads.FAMILIES}


def peer_table(num_pairs: int, seed: int) -> str:
    """Return the table of other libraries' errors on the families."""
    found = peers.find_peers()
    each = -(-num_pairs // len(families.FAMILIES))
    rows = []
    for family in families.FAMILIES:
        cells = []
        for peer in found.values():
            largest, share = peers.peer_errors(peer, family, each, seed)
            cells.append(f"{largest:.1e} ({100 * share:.2g}%)")
        rows.append([family, f"{each:,}", *cells])
    return table(["family", "pairs", *found], rows)


def recorded_table(file: Path) -> str:
    """Return the table of recorded errors of other libraries."""
    found = peers.recorded_errors(file)
    categories = list(next(iter(found.values())))
    rows = []
    for category in categories:
        errors = [by_category[category] for by_category in found.values()]
        rows.append([category, *(f"{error:.1e} ({100 * share:.2g}%)" for error, share in errors)])
    return table(["category", *found], rows)


def report(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Run everything; return the report and the complaints."""
    boxes = run_families(args.pairs, args.seed)
    quad_tallies = run_quads(-(-args.pairs // QUAD_SHARE), args.seed)
    bits = np.finfo(oracle.Real).nmant + 1
    kernels = (
        "compiled kernels" if extension_status().cpu else "reference implementations in plain torch"
    )
    promises = sorted({name for tally in boxes.values() for name in tally.broken})
    parts = [
        f"Operators: {kernels}, torch {torch.__version__}. Oracle: clipping of vertex lists in "
        f"numpy's long double, {bits} bits of mantissa here.",
        "## Boxes\n\nLargest absolute errors:",
        tally_table(boxes, LIMITS),
        "The last column counts, in both dtypes: " + "; ".join(promises) + ".",
        "## Quadrilaterals\n\n" + tally_table(quad_tallies, QUAD_LIMITS),
    ]
    if args.peers:
        parts.append(
            "## Other libraries on the same pairs\n\nLargest absolute error of the IoU of float32 "
            f"boxes, and the share of pairs with an error above {peers.LARGE_ERROR:g}.\n\n"
            + peer_table(-(-args.pairs // PEER_SHARE), args.seed)
        )
    if args.recorded is not None:
        parts.append(
            "## Recorded values of other libraries\n\nThe same measure, of their CPU operators in "
            "float32, on recorded pairs.\n\n" + recorded_table(args.recorded)
        )
    found = complaints(boxes, LIMITS) + complaints(quad_tallies, QUAD_LIMITS)
    return "\n\n".join(parts) + "\n", found


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = parse_arguments(argv)
    text, found = report(args)
    print(text)
    for line in found:
        print(f"NOT EXACT: {line}")
    if args.output is not None:
        head = (
            "# Exactness of the operators\n\n`python tools/check_ops_exactness.py "
            f"--pairs {args.pairs}{' --peers' if args.peers else ''}"
            f"{' --recorded ' + args.recorded.name if args.recorded else ''}`, seed {args.seed}, "
            f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPU cores, no GPU.\n\n"
        )
        write_bytes_atomically(args.output, (head + text).encode("ascii"))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
