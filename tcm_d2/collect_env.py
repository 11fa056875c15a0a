"""Describe the installation: versions, the extension's state, devices. For bug reports.

python -m tcm_d2.collect_env
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import warnings
from pathlib import Path

from tcm_d2 import __version__, build_config

# Distributions whose versions matter, as the registry names them.
DISTRIBUTIONS = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "opencv-python",
    "shapely",
    "pycocotools",
    "open_clip_torch",
    "timm",
    "fvcore",
    "iopath",
    "omegaconf",
    "safetensors",
    "setuptools",
)


def collect_env() -> list[tuple[str, str]]:
    """Return (name, value) pairs; a part that cannot be examined says why in its value."""
    rows = [
        ("tcm_d2", f"{__version__} in {Path(__file__).resolve().parent}"),
        ("Python", f"{platform.python_version()} in {sys.executable}"),
        ("platform", platform.platform()),
    ]
    for name in DISTRIBUTIONS:
        version = _distribution_version(name)
        if version is not None:
            rows.append((name, version))
    rows.append(("Detectron2", _describe_detectron2()))
    rows.append(("extension tcm_d2._C", _describe_extension()))
    rows += _describe_compilers()
    rows += _describe_devices()
    return rows


def format_env(rows: list[tuple[str, str]]) -> str:
    """Return the pairs as an aligned two-column table."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _distribution_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _describe_detectron2() -> str:
    try:
        module = importlib.import_module("detectron2")
    except Exception as error:  # a report must not die of what it reports
        return f"cannot be imported ({_describe_error(error)}); run tcm-d2 install-detectron2"
    folder = Path(module.__file__ or "?").parent
    compiled = importlib.util.find_spec("detectron2._C") is not None
    return (
        f"{getattr(module, '__version__', 'unknown version')} in {folder}, "
        f"compiled _C {'present' if compiled else 'absent (not needed)'}"
    )


def _describe_extension() -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is not built is said below
            from tcm_d2.ops import extension_status

            status = extension_status()
    except Exception as error:
        return f"tcm_d2.ops cannot be imported ({_describe_error(error)})"
    if not status.loaded:
        return f"{status.reason}; the plain-torch operators run instead"
    kernels = [name for name, built in (("CPU", status.cpu), ("CUDA", status.cuda)) if built]
    return f"{' and '.join(kernels) or 'no'} kernels ({status.reason}) in {status.path}"


def _describe_compilers() -> list[tuple[str, str]]:
    compiler = build_config.find_compiler(os.environ)
    toolkits = build_config.find_toolkits(os.environ)
    return [
        ("C++ compiler", compiler or "none found"),
        ("CUDA toolkits", "; ".join(map(str, toolkits)) or "none found"),
        (build_config.SWITCH, os.environ.get(build_config.SWITCH, "not set (auto)")),
        ("TORCH_CUDA_ARCH_LIST", os.environ.get("TORCH_CUDA_ARCH_LIST", "not set")),
    ]


def _describe_devices() -> list[tuple[str, str]]:
    try:
        import torch
    except Exception as error:
        return [("torch", f"cannot be imported ({_describe_error(error)})")]
    rows = [
        ("CUDA of torch", torch.version.cuda or "none (a build for the CPU)"),
        ("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"),
    ]
    if not torch.cuda.is_available():
        return [*rows, ("GPUs", "none usable")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        rows.append(
            (
                f"GPU {index}",
                f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
                f"{properties.total_memory / 2**30:.1f} GiB",
            )
        )
    return rows


def main() -> None:
    """Print the table."""
    print(format_env(collect_env()))


if __name__ == "__main__":
    main()
