#!/usr/bin/env python3
"""Check everything that needs a GPU, in at most six minutes, from a plain checkout.

    python tools/check_gpu.py --output output/check_gpu
    python tools/check_gpu.py --steps operators speed-inference

Builds the CUDA kernels for the GPU that is there (with this Python and its torch), runs the CUDA
tests, compares operators and detectors with the CPU, with plain torch and with torchvision, tries
mixed precision, compiled graphs and NCCL, then measures. Each step is a process with a time limit
of its own; a failed one does not stop the next. Results are in OUTPUT/gpu.json and, as a page with
the device's name, in OUTPUT/gpu.md.

Exit status: 0 all passed, 1 a step failed, 3 there is no GPU here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
NO_GPU = 3
OUTPUT_TAIL = 4000


class Step(NamedTuple):
    """One step: its name, seconds at most, and its command."""

    name: str
    limit_s: int
    command: tuple[str, ...]


def _own(name: str, limit_s: int, *options: str) -> Step:
    return Step(name, limit_s, (sys.executable, "-m", "benchmarks.gpu", name, *options))


STEPS = (
    Step("build", 170, (sys.executable, "setup.py", "-q", "build_ext", "--inplace")),
    Step("tests", 60, (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests")),
    _own("operators", 40),
    _own("training", 30),
    _own("precision", 30),
    _own("waiting", 20),
    _own("nccl", 20),
    _own("scene", 30),
    _own("speed-operators", 20),
    _own("speed-inference", 30),
    _own("speed-training", 40),
    _own("compiled", 90),
    Step(
        "sanitizer",
        60,
        (
            *("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9"),
            *(sys.executable, "-m", "pytest", "-q", "-x", "tests/ops/test_cuda.py", "-k"),
            "points or quads or layouts",
        ),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    facts = device_facts()
    print(f"device: {facts['device'] or 'no GPU'}, torch {facts['torch']}", flush=True)
    started = time.monotonic()
    results = []
    for step in STEPS:
        if args.steps and step.name not in args.steps:
            continue
        left_s = args.limit_s - (time.monotonic() - started)
        result = run_step(step, facts, left_s)
        results.append(result)
        print(f"{step.name:16} {result['outcome']:10} {result['seconds']:6.1f} s", flush=True)
        write(args.output, facts, results)
    if facts["device"] is None:
        return NO_GPU
    return int(any(result["outcome"] not in ("passed", "missing") for result in results))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/check_gpu"))
    parser.add_argument("--steps", nargs="+", choices=[step.name for step in STEPS])
    parser.add_argument("--limit-s", type=float, default=360.0, help="for all steps together")
    return parser.parse_args(argv)


def device_facts() -> dict[str, Any]:
    """Return what is known of the device, asked in another process."""
    code = (
        "import json, torch; there = torch.cuda.is_available(); print(json.dumps({"
        "'torch': torch.__version__, 'cuda': torch.version.cuda,"
        "'device': torch.cuda.get_device_name() if there else None,"
        "'capability': '.'.join(map(str, torch.cuda.get_device_capability())) if there else None,"
        "'memory_gb': torch.cuda.get_device_properties(0).total_memory / 1e9 if there else None}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: torch cannot be imported: {done.stderr[-500:]}")
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**facts, "python": sys.version.split()[0]}


def run_step(step: Step, facts: dict[str, Any], left_s: float) -> dict[str, Any]:
    """Run one step; its outcome is passed, failed, timeout, no time, missing or no GPU."""
    result: dict[str, Any] = {"name": step.name, "seconds": 0.0, "found": None, "output": ""}
    if facts["device"] is None:
        return {**result, "outcome": "no GPU"}
    if shutil.which(step.command[0]) is None:
        return {**result, "outcome": "missing", "output": f"{step.command[0]} is not installed"}
    if left_s < 5:
        return {**result, "outcome": "no time"}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "TCM_D2_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": facts["capability"],
        "PYTHONUNBUFFERED": "1",
    }
    started = time.monotonic()
    try:
        done = subprocess.run(
            step.command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=min(step.limit_s, left_s),
            check=False,
        )
    except subprocess.TimeoutExpired as stopped:
        text = stopped.stdout or b""
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        seconds = time.monotonic() - started
        return {**result, "outcome": "timeout", "seconds": seconds, "output": text[-OUTPUT_TAIL:]}
    return {
        **result,
        "outcome": "passed" if done.returncode == 0 else "failed",
        "seconds": time.monotonic() - started,
        "found": last_object(done.stdout),
        "output": done.stdout[-OUTPUT_TAIL:],
    }


def last_object(text: str) -> Any:
    """Return the JSON object in the last line of a step's output, or None."""
    lines = text.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
    except json.JSONDecodeError:
        return None


def write(folder: Path, facts: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Write the results of the steps so far as JSON and as a page."""
    text = json.dumps({"facts": facts, "steps": results}, indent=1)
    (folder / "gpu.json").write_text(text, encoding="utf-8")
    (folder / "gpu.md").write_text(page(facts, results), encoding="utf-8")


def page(facts: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"# {facts['device'] or 'No GPU'}",
        "",
        f"`python tools/check_gpu.py`, torch {facts['torch']}, CUDA {facts['cuda']}, "
        f"Python {facts['python']}.",
        "",
        "| step | outcome | s | figures |",
        "|---|---|---|---|",
    ]
    for result in results:
        figures = "; ".join(flatten(result["found"] or {}))
        lines.append(
            f"| {result['name']} | {result['outcome']} | {result['seconds']:.1f} | {figures} |"
        )
    for result in results:
        if result["outcome"] in ("failed", "timeout"):
            lines += ["", f"## {result['name']}", "", "```", result["output"], "```"]
    return "\n".join(lines) + "\n"


def flatten(node: dict[str, Any], prefix: str = "") -> list[str]:
    """Return nested figures as "name: value" texts."""
    texts = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            texts += flatten(value, f"{name}, ")
        elif value != []:
            texts.append(f"{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return texts


if __name__ == "__main__":
    raise SystemExit(main())
