"""What to compile, and with which CUDA toolkit: decided from the machine, in one place.

setup.py loads this file by its path, before the package can be imported, so it needs the standard
library only. The switch is the environment variable TCM_D2_CUDA:

    auto (default)  CUDA kernels when a toolkit that matches torch is found, else a message
    0               CPU kernels only
    1               CUDA kernels, or an error

TCM_D2_BUILD=none compiles nothing and needs no torch: the wheel is py3-none-any, for every platform
and torch, and runs the plain-torch operators.

A toolkit decides, never a visible GPU: kernels can be built on a machine that has none.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

SWITCH = "TCM_D2_CUDA"
BUILD_SWITCH = "TCM_D2_BUILD"
SYSTEM_ROOT = Path("/usr/local")
CXX_NAMES = ("c++", "g++", "clang++")

# One architecture keeps the build short; its PTX runs on later GPUs too. torch 2.6 and later and
# CUDA 13 all know it.
DEFAULT_ARCHITECTURES = "8.0+PTX"

# nvcc with each source at -O3 needs about 1.5 GB of memory per job.
DEFAULT_MAX_JOBS = "2"


class BuildConfigError(RuntimeError):
    """The build was asked for something this machine cannot do; the message says what to change."""


class Toolkit(NamedTuple):
    """A CUDA toolkit: its folder and version."""

    path: Path
    version: tuple[int, int]

    def __str__(self) -> str:
        return f"CUDA toolkit {self.version[0]}.{self.version[1]} in {self.path}"


class CudaDecision(NamedTuple):
    """The toolkit to compile CUDA kernels with (None: CPU only), and why."""

    toolkit: Toolkit | None
    reason: str
    is_warning: bool  # the user may have expected CUDA kernels


def wants_kernels(environment: Mapping[str, str]) -> bool:
    """Return whether anything is compiled: not where TCM_D2_BUILD is "none".

    Raises:
        BuildConfigError: Another value than that or "auto".
    """
    value = environment.get(BUILD_SWITCH, "").strip().lower() or "auto"
    if value not in ("auto", "none"):
        raise BuildConfigError(f"{BUILD_SWITCH}: expected auto or none, got {value!r}")
    return value == "auto"


def read_switch(environment: Mapping[str, str]) -> str:
    """Return TCM_D2_CUDA: "auto", "0" or "1".

    Raises:
        BuildConfigError: Another value.
    """
    value = environment.get(SWITCH, "").strip().lower() or "auto"
    if value not in ("auto", "0", "1"):
        raise BuildConfigError(f"{SWITCH}: expected auto, 0 or 1, got {value!r}")
    return value


def read_toolkit(folder: Path) -> Toolkit | None:
    """Return the toolkit in `folder`, or None unless it holds nvcc, nvvm/ and include/cuda.h."""
    header = folder / "include" / "cuda.h"
    has_nvcc = (folder / "bin" / "nvcc").is_file() or (folder / "bin" / "nvcc.exe").is_file()
    if not (header.is_file() and (folder / "nvvm").is_dir() and has_nvcc):
        return None
    match = re.search(
        r"^#define\s+CUDA_VERSION\s+(\d+)", header.read_text(errors="replace"), re.MULTILINE
    )
    if match is None:
        return None
    number = int(match.group(1))  # 13000 is 13.0, 12040 is 12.4
    return Toolkit(folder, (number // 1000, number % 1000 // 10))


def ask_nvcc(nvcc: str) -> Path | None:
    """Return the folder nvcc itself says it works from; it may be a wrapper script elsewhere."""
    command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"^#\$ TOP=(.+)$", result.stdout + result.stderr, re.MULTILINE)
    return Path(match.group(1).strip()) if match else None


def candidate_folders(
    environment: Mapping[str, str], *, system_root: Path = SYSTEM_ROOT
) -> list[Path]:
    """Return the folders that may hold a toolkit, the user's own choice first."""
    folders = [
        Path(environment[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environment.get(name)
    ]
    nvcc = shutil.which("nvcc", path=environment.get("PATH", ""))
    if nvcc is not None:
        folders += list(Path(nvcc).resolve().parents)[1:3]
        told = ask_nvcc(nvcc)
        folders += [told] if told is not None else []
    folders.append(system_root / "cuda")
    folders += sorted(system_root.glob("cuda-*"), key=_version_key, reverse=True)
    return folders


def _version_key(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def find_toolkits(
    environment: Mapping[str, str], *, system_root: Path = SYSTEM_ROOT
) -> list[Toolkit]:
    """Return all toolkits found, each folder once, the user's own choice first."""
    toolkits: dict[Path, Toolkit] = {}
    for folder in candidate_folders(environment, system_root=system_root):
        resolved = folder.resolve()
        toolkit = read_toolkit(resolved) if resolved.is_dir() else None
        if toolkit is not None:
            toolkits.setdefault(resolved, toolkit)
    return list(toolkits.values())


def decide_cuda(
    switch: str, toolkits: Iterable[Toolkit], *, torch_cuda: str | None
) -> CudaDecision:
    """Decide whether CUDA kernels are compiled, and with which toolkit.

    Args:
        switch: What `read_switch` returns.
        toolkits: What `find_toolkits` returns; the first that matches torch is taken.
        torch_cuda: `torch.version.cuda`, None for a torch without CUDA.

    Raises:
        BuildConfigError: The switch is "1" and no CUDA kernels can be built.
    """
    if switch == "0":
        return CudaDecision(None, f"{SWITCH}=0", False)
    found = list(toolkits)
    major = int(torch_cuda.split(".")[0]) if torch_cuda else None
    matching = [toolkit for toolkit in found if toolkit.version[0] == major]
    if matching:
        return CudaDecision(matching[0], str(matching[0]), False)
    if not found:
        reason = (
            "no CUDA toolkit found (a folder with bin/nvcc, nvvm/ and include/cuda.h); if there "
            "is one, set CUDA_HOME to it"
        )
    elif major is None:
        reason = f"this torch has no CUDA support, though there is a {found[0]}"
    else:
        reason = (
            f"torch was built for CUDA {torch_cuda}, and that needs a toolkit {major}.x; found: "
            + ", ".join(map(str, found))
        )
    if switch == "1":
        raise BuildConfigError(f"{SWITCH}=1, but {reason}")
    return CudaDecision(None, reason, bool(found))


def find_compiler(environment: Mapping[str, str]) -> str | None:
    """Return the path of the C++ compiler: $CXX, else the first of c++, g++, clang++; or None."""
    chosen = shlex.split(environment.get("CXX", ""))
    for name in chosen[:1] or CXX_NAMES:
        path = shutil.which(name, path=environment.get("PATH", ""))
        if path is not None:
            return path
    return None


def choose_architectures(
    environment: Mapping[str, str], capabilities: Callable[[], list[tuple[int, int]]]
) -> str:
    """Return the value for TORCH_CUDA_ARCH_LIST: the user's, else the visible GPUs', else one.

    Args:
        environment: Environment variables.
        capabilities: Returns the compute capability of each visible GPU; called where needed.
    """
    if environment.get("TORCH_CUDA_ARCH_LIST"):
        return environment["TORCH_CUDA_ARCH_LIST"]
    visible = sorted(set(capabilities()))
    if not visible:
        return DEFAULT_ARCHITECTURES
    return ";".join(f"{major}.{minor}" for major, minor in visible) + "+PTX"
