#!/usr/bin/env python3
"""Run the tests of the operators on kernels compiled with AddressSanitizer and UBSan.

    python tests/ops/check_sanitizers.py                  # mistakes planted first, then the tests
    python tests/ops/check_sanitizers.py tests/ops/test_nms.py -x

A copy of the checkout's Python and C++ is compiled in a temporary folder (GCC on Linux). Before the
tests run, mistakes are planted in that copy, one for each sanitizer, to see that they are reported.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torch.utils import cpp_extension

REPO_DIR = Path(__file__).resolve().parents[2]
COPIED = ("tcm_d2", "tests", "tools", "benchmarks", "configs", "pyproject.toml")
FLAGS = "-O1 -g -fPIC -std=c++20 -ffp-contract=off -Wno-psabi -fopenmp".split()
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# Allocations have other sizes, and the emulation of CUDA moves between stacks.
LEFT_OUT = ("test_memory.py", "test_cuda_emulation.py")
DEFAULT_TESTS = ["tests/ops", "tests/cpu/test_operators.py", "tests/cpu/test_packed.py"]


class Mistake(NamedTuple):
    """A wrong line, what runs it, and what the report of it says."""

    source: str
    right: str
    wrong: str
    test: str
    report: str


MISTAKES = (
    Mistake(
        "boxes/points_cpu.cpp",
        "j < num_boxes; ++j",
        "j <= num_boxes; ++j",
        "tests/ops/test_points.py",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    Mistake(
        "boxes/iou_cpu.cpp",
        "const int64_t size = num1 * num2;",
        "const int64_t size = num1 * num2 * INT64_MAX;",
        "tests/ops/test_iou.py",
        "runtime error: signed integer overflow",
    ),
)


def build(copy: Path) -> None:
    """Compile the CPU kernels of the copy that are older than their sources, and link them."""
    csrc, objects = copy / "tcm_d2" / "csrc", copy / "objects"
    objects.mkdir(exist_ok=True)
    include = [
        f"-I{path}" for path in (*cpp_extension.include_paths(), sysconfig.get_path("include"))
    ]

    def compile_one(source: Path) -> Path:
        target = objects / f"{source.parent.name}_{source.stem}.o"
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            call(["g++", *FLAGS, *SANITIZE, *include, "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
        targets = [str(path) for path in pool.map(compile_one, sorted(csrc.rglob("*.cpp")))]
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    name = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    call(
        ["g++", "-shared", "-fopenmp", *SANITIZE, *targets, *libraries, "-ltorch_cpu", "-lc10"]
        + ["-o", str(copy / "tcm_d2" / name)]
    )


def call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def run_tests(copy: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run pytest in the copy, with the sanitizers' libraries loaded first."""
    preloaded = [
        subprocess.run(
            ["g++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preloaded),
        # Python and torch never free some of their memory.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(copy),
    }
    # What pytest captures is lost when the process is ended by a report.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=no"]
    command += arguments
    for name in LEFT_OUT:
        command.append(f"--ignore=tests/ops/{name}")
    return subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )


def check_reports(copy: Path) -> None:
    """Plant each mistake, and exit unless its report comes."""
    for mistake in MISTAKES:
        path = copy / "tcm_d2" / "csrc" / mistake.source
        text = path.read_text(encoding="utf-8")
        if text.count(mistake.right) != 1:
            sys.exit(f"{mistake.source}: expected one {mistake.right!r} to plant a mistake at")
        path.write_text(text.replace(mistake.right, mistake.wrong), encoding="utf-8")
        build(copy)
        done = run_tests(copy, ["-x", mistake.test])
        lines = (done.stdout + done.stderr).splitlines()
        reports = [line[line.index(mistake.report) :] for line in lines if mistake.report in line]
        if done.returncode == 0 or not reports:
            sys.exit(f"{mistake.wrong!r} was not reported:\n" + "\n".join(lines[-40:]))
        print(f"planted {mistake.wrong!r}: {reports[0]}", flush=True)
        path.write_text(text, encoding="utf-8")


def main() -> int:
    """Return pytest's exit status."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = REPO_DIR / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("*.so", "__pycache__")
                shutil.copytree(source, copy / name, ignore=ignore)
            else:
                shutil.copy(source, copy / name)
        check_reports(copy)
        build(copy)
        done = run_tests(copy, sys.argv[1:] or DEFAULT_TESTS)
        print(done.stdout[-3000:], done.stderr[-8000:], sep="\n")
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
