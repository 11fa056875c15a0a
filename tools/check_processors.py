#!/usr/bin/env python3
"""Run tests as on processors with other instruction sets, with one thread and with two.

    python tools/check_processors.py                                 all sets, 1 and 2 threads
    python tools/check_processors.py --instructions avx2 --threads 2 -- tests/parity

torch, oneDNN and MKL round differently by instruction set and by number of threads. No test may
depend on it: what is compared near a cut, a threshold or a tie is compared beyond rounding.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/parity", "tests/ops", "tests/modeling", "tests/inference")
# What torch, oneDNN, MKL and the kernels of this package may use. A processor without an
# instruction set ignores the wish for it, see `can_run`.
INSTRUCTIONS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "TCM_D2_CPU_KERNELS": "plain",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "TCM_D2_CPU_KERNELS": "avx2",
    },
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
}
CAPABILITIES = {"DEFAULT": 0, "AVX2": 1, "AVX512": 2}


def can_run(instructions: str) -> bool:
    """Return whether this processor has an instruction set."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    environment = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    here = CAPABILITIES.get(done.stdout.strip(), 0)
    return CAPABILITIES[instructions.upper()] <= here


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instructions", nargs="+", choices=INSTRUCTIONS, default=[*INSTRUCTIONS])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("tests", nargs="*", help=f"for pytest (default: {' '.join(TESTS)})")
    args = parser.parse_args(argv)
    lines = []
    for instructions in args.instructions:
        for threads in args.threads if can_run(instructions) else []:
            environment = {
                # Idle threads that spin slow everything down where other work runs.
                "OMP_WAIT_POLICY": "PASSIVE",
                **os.environ,
                **INSTRUCTIONS[instructions],
                "TCM_D2_TEST_THREADS": str(threads),
            }
            command = [sys.executable, "-m", "pytest", "-q", "-rf", *(args.tests or TESTS)]
            print(f"==> {instructions}, {threads} threads", flush=True)
            status = subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode
            lines.append((instructions, threads, "passed" if status == 0 else "FAILED"))
        if not can_run(instructions):
            lines.append((instructions, 0, "not on this processor"))
    for instructions, threads, outcome in lines:
        print(f"{instructions:8} {threads or '-'} threads: {outcome}")
    return int(any(outcome == "FAILED" for _, _, outcome in lines))


if __name__ == "__main__":
    raise SystemExit(main())
