"""Time the rotated operators beside their peers, in one run.

    python tools/benchmark.py ops
    python tools/benchmark.py ops --mmcv-source onedl_mmcv-2.3.6 --json ops.json

Peers: mmcv (installed, or the CPU files of its unpacked source distribution, which are compiled in
a minute), shapely with an STRtree, OpenCV, torchvision, and our own in plain torch. One that is not
there is left out. The calls of a row take turns; the times are medians, after a first call that
also tells the peak of the memory. "limit" is what the machine would need at the least: the
arithmetic at the rate of its float64 matrix product, or the bytes at the rate of a copy, whichever
is longer. "x limit" is how far away the measured time is.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import _mmcv, _rotated_cases
from tcm_d2.ops import extension_status

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


class Rates(NamedTuple):
    """What the machine reaches: float64 operations and bytes a second."""

    operations: float
    bytes: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's setting")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="which time is measured")
    parser.add_argument("--repeats", type=int, default=9, help="calls of each function at most")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="a function that has taken so long is not called"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the boxes of each row")
    parser.add_argument("--only", default="", help="only the rows whose name contains this")
    parser.add_argument("--mmcv-source", type=Path, help="folder of an unpacked source of mmcv")
    parser.add_argument("--json", type=Path, help="also write all times here")


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its tables and return the exit status."""
    device = torch.device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.clock == "cpu" and (device.type != "cpu" or torch.get_num_threads() > 1):
        raise SystemExit("error: --clock cpu counts the time of all threads; add --threads 1")
    clock = CLOCKS[args.clock]
    mmcv = _mmcv.find_mmcv(args.mmcv_source) if device.type == "cpu" else None
    status = extension_status()
    kernels = status.cuda if device.type == "cuda" else status.cpu
    print(f"device {device}, {platform.machine()}, {torch.get_num_threads()} CPU threads")
    print(f"{args.clock} time, medians of at most {args.repeats} calls")
    print(f"torch {torch.__version__}, mmcv: {mmcv.name if mmcv else 'not there, left out'}")
    print(f"compiled kernels: {'yes' if kernels else 'no, ' + status.reason}")
    rates = measure_rates(device, clock)
    print(f"{rates.operations / 1e9:.1f} GFLOP/s (float64), {rates.bytes / 1e9:.1f} GB/s\n")
    print("| work | ms | limit, ms | x limit | memory, MB | peer | ms | ratio | goal |")
    print("|---|---|---|---|---|---|---|---|---|")
    results = []
    for case in _rotated_cases.make_cases(device, mmcv, share=args.share):
        if args.only not in case.name:
            continue
        result = measure_case(case, device, clock, args.repeats, args.seconds)
        results.append(result)
        print_rows(case, result, rates)
    notes = [note for case in results for note in case["notes"]]
    if notes:
        print("\n" + "\n".join(notes))
    if args.json is not None:
        report = {"device": str(device), "rates": rates._asdict(), "results": results}
        args.json.write_text(json.dumps(report, indent=2))
    return 0


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_s(
    function: Callable[[], object], device: torch.device, clock: Callable[[], float]
) -> float:
    """Return the seconds that a call takes by the clock."""
    synchronize(device)
    start = clock()
    function()
    synchronize(device)
    return clock() - start


def measure_rates(device: torch.device, clock: Callable[[], float]) -> Rates:
    """Return the best of many short matrix products and of some copies."""
    size = 512 if device.type == "cpu" else 8192
    matrix = torch.rand(size, size, dtype=torch.float64, device=device)
    source = torch.zeros(1 << 24, dtype=torch.float64, device=device)  # beyond most caches
    target = torch.zeros_like(source)
    product_s = min(time_s(lambda: matrix @ matrix, device, clock) for _ in range(50))
    copy_s = min(time_s(lambda: target.copy_(source), device, clock) for _ in range(10))
    return Rates(2 * size**3 / product_s, 2 * 8 * source.numel() / copy_s)


def measure_peak(function: Callable[[], object], device: torch.device) -> tuple[Any, int | None]:
    """Return what a call returns and by how many bytes memory grew; None where not told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = function()
        return result, torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
        CLEAR_REFS.write_text("5")  # the peak starts anew
        before = read_status("VmRSS")
        result = function()
        return result, max(0, read_status("VmHWM") - before)
    except (OSError, AttributeError):  # not Linux, or another C library
        return function(), None


def read_status(field: str) -> int:
    """Return a field of the process's status, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{STATUS}: no field {field}")


def measure_case(
    case: _rotated_cases.Case,
    device: torch.device,
    clock: Callable[[], float],
    repeats: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the times of all functions of a case, which take turns."""
    ours, memory = measure_peak(case.ours, device)
    functions = {"ours": case.ours, **case.peers}
    times: dict[str, list[float]] = {name: [] for name in functions}
    notes = []
    for name, function in case.peers.items():  # the first call, which is not counted
        start = clock()
        theirs = function()
        if clock() - start > seconds:
            times[name].append(clock() - start)  # one call has to do
        if case.compare is not None:
            notes.append(f"{case.name}, {name}: {case.compare(ours, theirs)}")
    for _ in range(repeats):
        for name, function in functions.items():
            if sum(times[name]) < seconds:
                times[name].append(time_s(function, device, clock))
    return {
        "name": case.name,
        "times_s": times,
        "memory_bytes": memory,
        "operations": case.operations,
        "bytes": case.bytes,
        "notes": notes,
    }


def print_rows(case: _rotated_cases.Case, result: dict[str, Any], rates: Rates) -> None:
    """Print a row for each peer, or one without."""
    medians_ms = {name: 1e3 * statistics.median(t) for name, t in result["times_s"].items()}
    limit_ms = 1e3 * max(case.operations / rates.operations, case.bytes / rates.bytes)
    memory = result["memory_bytes"]
    megabytes = "-" if memory is None else f"{memory / 1e6:.1f}"
    ours_ms = medians_ms.pop("ours")
    first = (
        f"| {case.name} | {ours_ms:.2f} | {limit_ms:.3f} | {ours_ms / limit_ms:.1f} | {megabytes} |"
    )
    for name, peer_ms in medians_ms.items() or [("-", None)]:
        if peer_ms is None:
            print(f"{first} - | - | - | {case.goals.get('', '-')} |", flush=True)
            continue
        goal = case.goals.get(name.split()[0], "-")
        print(f"{first} {name} | {peer_ms:.1f} | {peer_ms / ours_ms:.1f} | {goal} |", flush=True)
        first = "| | | | | |"
