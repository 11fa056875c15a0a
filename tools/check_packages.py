#!/usr/bin/env python3
"""Build the source package and the wheels, install one in a clean environment, and use it there.

  tools/check_packages.py --output dist
  tools/check_packages.py --wheel dist/tcm_d2-0.1.0-py3-none-any.whl --transcript transcript.txt

The wheels are built from the unpacked source package: the one of plain torch for every platform
(py3-none-any), and the compiled one. The environment sees the packages of this Python but neither
this checkout nor the tcm_d2 installed here; it stands in a temporary folder, and so do all files.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parents[1]
# Files that each wheel must hold; a package was once built without its configurations.
NEEDED = (
    "configs/Base-DOTA.yaml",
    "configs/embedded_tcm_fcos.yaml",
    "configs/lazy/common/model.py",
    "pretrained/tcm_atss_embedded.safetensors",
    "report/assets/page.html",
    "py.typed",
)
MAX_HELP_S = 0.3
# What a newcomer types in the first minutes; docs/command.md shows the transcript.
FIRST_COMMANDS = (
    "tcm-d2 --version",
    "tcm-d2 train --help",
    "tcm-d2 predict --images example.jpg --output look",
    "tcm-d2 make-synthetic --preset demo --num-train 8 --num-val 2 --output data",
    "tcm-d2 validate --root data/train --classes dota-v1.0",
    "tcm-d2 split --images data/train/images --labels data/train/labelTxt --size 256 --gap 64"
    " --output patches/train",
    "tcm-d2 split --images data/val/images --labels data/val/labelTxt --size 384 --gap 256"
    " --output patches/val",
    "tcm-d2 train --config-file embedded_tcm_fcos.yaml"
    " DATASETS.PATCH_DIRS \"['mine=patches/train', 'held_out=patches/val=data/val/labelTxt']\""
    " DATASETS.TRAIN \"('mine',)\" DATASETS.TEST \"('held_out',)\" SOLVER.MAX_ITER 10"
    ' SOLVER.STEPS "()" OUTPUT_DIR run',
    "tcm-d2 predict --weights run --images data/val/images --output found",
    "tcm-d2 report --run run/inference/held_out --labels data/val/labelTxt"
    " --images data/val/images --output report.html",
    "tcm-d2 analyze --config-file lazy/tcm_fcos.py --size 256",
)
# What they must leave.
RESULTS = ("look/geojson/example.geojson", "run/model_final.pth", "found/coco.json", "report.html")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; return 0, or 1 after a message on standard error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the packages there")
    parser.add_argument("--pure-only", action="store_true", help="do not compile")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="build nothing, try this one")
    parser.add_argument("--transcript", type=Path, metavar="FILE", help="what the commands printed")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tcm_d2_packages_") as name:
        folder = Path(name)
        try:
            packages = [args.wheel]
            if args.wheel is None:
                packages = build_packages(folder, compile_one=not args.pure_only)
            text = try_wheel(packages[-1], folder / "elsewhere")
        except (CheckError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if args.transcript is not None:
            args.transcript.write_text(text, encoding="utf-8")
        if args.output is not None and args.wheel is None:
            args.output.mkdir(parents=True, exist_ok=True)
            for package in packages:
                shutil.copy(package, args.output)
    print("the packages are fit for use")
    return 0


class CheckError(RuntimeError):
    """A package is not as it should be."""


def build_packages(folder: Path, *, compile_one: bool) -> list[Path]:
    """Return the source package and the wheels made from it, the compiled one last."""
    checkout = folder / "checkout"
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    build = "import setuptools.build_meta as backend; backend.build_sdist({!r})"
    packages = folder / "packages"
    run(sys.executable, "-c", build.format(str(packages)), cwd=checkout, TCM_D2_BUILD="none")
    (source,) = packages.glob("*.tar.gz")
    report(source)
    with tarfile.open(source) as archive:
        archive.extractall(folder / "source", filter="data")
    (unpacked,) = (folder / "source").iterdir()
    wheels = [build_wheel(unpacked, packages, TCM_D2_BUILD="none")]
    if not wheels[0].name.endswith("-py3-none-any.whl"):
        raise CheckError(f"{wheels[0].name}: expected a wheel for every platform")
    if compile_one:
        wheels.append(build_wheel(unpacked, packages))
        with zipfile.ZipFile(wheels[1]) as archive:
            if not any(name.startswith("tcm_d2/_C.") for name in archive.namelist()):
                raise CheckError(f"{wheels[1].name}: holds no compiled extension")
    return [source, *wheels]


def build_wheel(source: Path, packages: Path, **switches: str) -> Path:
    """Return a wheel built from an unpacked source package."""
    before = set(packages.glob("*.whl"))
    options = ("--no-build-isolation", "--no-deps", "--quiet", "--wheel-dir", str(packages))
    run(sys.executable, "-m", "pip", "wheel", *options, str(source), cwd=source, **switches)
    (wheel,) = set(packages.glob("*.whl")) - before
    report(wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        Metadata.from_email(archive.read(metadata))  # what an index would refuse is an error
    missing = [name for name in NEEDED if f"tcm_d2/{name}" not in names]
    if missing:
        raise CheckError(f"{wheel.name}: without {', '.join(missing)}")
    stray = sorted(n for n in names if "__pycache__" in n or "/csrc/" in n or n.startswith("tests"))
    if stray:
        raise CheckError(f"{wheel.name}: holds {', '.join(stray[:3])}")
    return wheel


def try_wheel(wheel: Path, folder: Path) -> str:
    """Install a wheel and run the first commands; return the transcript.

    Raises:
        CheckError: a command fails, a help is slow, or a result is missing.
    """
    environment, place = folder / "environment", folder / "work"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A path file in there is not followed: an editable tcm_d2 of this Python stays unseen.
    (Path(site) / "all_but_tcm_d2.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--ignore-installed", str(wheel))
    place.mkdir()
    where = run(str(python), "-c", "import tcm_d2; print(tcm_d2.__file__)", cwd=place).strip()
    if not Path(where).is_relative_to(environment):
        raise CheckError(f"tcm_d2 is taken from {where}")
    shutil.copy(ROOT / "docs" / "example.jpg", place)
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    parts = []
    for command in FIRST_COMMANDS:
        started = time.perf_counter()
        printed = run(*shlex.split(command), cwd=place, PATH=path)
        seconds = time.perf_counter() - started
        if "--help" in command and seconds > MAX_HELP_S:
            raise CheckError(f"{command}: {seconds:.2f} s, at most {MAX_HELP_S} s")
        parts.append(f"$ {command}\n{shortened(printed)}\n[{seconds:.2f} s]\n")
        print(parts[-1], flush=True)
    missing = [name for name in RESULTS if not (place / name).is_file()]
    if missing:
        raise CheckError(f"the commands left no {', '.join(missing)}")
    return "\n".join(parts)


def shortened(printed: str, num_lines: int = 8) -> str:
    """Return the last lines of a command's output."""
    lines = [line for line in printed.strip().split("\n") if line.strip()]
    return "\n".join(lines if len(lines) <= num_lines else ["...", *lines[-num_lines:]])


def report(package: Path) -> None:
    """Print a package's name and size."""
    print(f"{package.name}  {package.stat().st_size / 1e6:.1f} MB", flush=True)


def run(*command: str, cwd: Path | None = None, **variables: str) -> str:
    """Return what a command printed.

    Raises:
        CheckError: it failed; the end of its output is in the message.
    """
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TCM_D2_BUILD")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    # Of a progress bar what it showed last.
    lines = [line.rpartition("\r")[2] for line in done.stdout.decode(errors="replace").split("\n")]
    if done.returncode:
        tail = "\n".join(lines[-25:])
        raise CheckError(f"{shlex.join(command)} failed ({done.returncode}):\n{tail}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
