"""Run one step and print what it found as JSON."""

from __future__ import annotations

import argparse
import json

import torch

from benchmarks.gpu import agreement, runs, speed

STEPS = {**agreement.STEPS, **runs.STEPS, **speed.STEPS}


def main() -> int:
    """Run the command line and return the exit status: 1 where the step found problems."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--device", default="cuda", help="cpu tries the step's code only")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    args = parser.parse_args()
    found = STEPS[args.step](torch.device(args.device), args.size == "tiny")
    print(json.dumps(found))
    return int(bool(found["problems"]))


if __name__ == "__main__":
    raise SystemExit(main())
