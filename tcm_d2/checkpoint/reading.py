"""Read weight files as tensors and plain containers; refuse whatever would run code.

``.pth``/``.pt`` go through ``torch.load(weights_only=True)``, ``.safetensors`` through safetensors.
Nothing is downloaded.
"""

from __future__ import annotations

import difflib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Keys under which trainers put the state dict in their files: ours and Detectron2's, mmrotate's
# and OpenCLIP's, pycls's.
STATE_DICT_KEYS = ("model", "state_dict", "model_state")
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pyth")
# What DataParallel and DistributedDataParallel put before every name.
_WRAPPER_PREFIX = "module."


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a weight file with its tensors, on the CPU, under the key "model".

    Args:
        path: a local ``.pth``, ``.pt`` or ``.safetensors`` file.

    Returns:
        "model" -> {name: tensor}; whatever else the file holds stays under its own keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is remote, a pickle, truncated, needs code to be run, or holds no
            tensors by name.
    """
    if "://" in str(path):
        raise ValueError(
            f"weights '{path}': expected a local file; nothing is downloaded, so fetch it yourself "
            "and give its path"
        )
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(_missing_message(path))
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ValueError(
            f"weights '{path}': refused, because reading a {path.suffix} pickle can run any code; "
            "expected .pth, .pt or .safetensors"
        )
    if path.suffix.lower() == ".safetensors":
        return {"model": _read_safetensors(path)}
    return _with_state_dict(_read_torch(path), path)


def _missing_message(path: Path) -> str:
    if path.is_dir():
        return f"weights '{path}': expected a file, got a folder; name one of the .pth files in it"
    message = f"weights '{path}': no such file"
    if path.parent.is_dir():
        names = [p.name for p in path.parent.iterdir() if p.is_file()]
        near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
        if near:
            message += f"; near it: {', '.join(near)}"
    return message


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"weights '{path}': reading it needs the package safetensors") from None
    try:
        tensors: dict[str, Tensor] = load_file(str(path), device="cpu")
    except SafetensorError as error:
        raise ValueError(
            f"weights '{path}': no whole safetensors file ({error}); {_size(path)}, fetch it again"
        ) from None
    return tensors


def _read_torch(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise ValueError(f"weights '{path}': the file is empty; fetch it again")
    if _is_torchscript(path):
        raise ValueError(
            f"weights '{path}': this is a TorchScript archive, as OpenAI's CLIP weights are; it "
            "holds a program besides the tensors. Give CLIP weights as MODEL.CLIP.WEIGHTS"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_pickled(path):
            raise ValueError(
                f"weights '{path}': refused, because reading it would run code: "
                f"{_unsafe_names(path) or _first_line(error)}. Where the file is trusted, save its "
                "state dict alone, in the environment that made it"
            ) from None
        raise ValueError(_broken_message(path, error)) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        raise ValueError(_broken_message(path, error)) from None


def _is_pickled(path: Path) -> bool:
    """Tell torch's archives and pickles of protocol 2 and later from anything else."""
    with open(path, "rb") as stream:
        return zipfile.is_zipfile(path) or stream.read(1) == pickle.PROTO


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _unsafe_names(path: Path) -> str:
    """Return the names of what the pickle asks to import; "" where that cannot be told."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # the old file format and broken pickles are not supported there
        return ""
    return ", ".join(sorted(names)[:5])


def _broken_message(path: Path, error: Exception) -> str:
    return (
        f"weights '{path}': truncated, or not a weight file ({_first_line(error)}); {_size(path)}, "
        "fetch it again"
    )


def _first_line(error: Exception) -> str:
    text = str(error)
    # torch puts its reason behind advice to load the file unsafely.
    _, marker, reason = text.partition("WeightsUnpickler error: ")
    lines = (reason if marker else text).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _size(path: Path) -> str:
    return f"it has {path.stat().st_size:,} bytes"


def _with_state_dict(content: Any, path: Path) -> dict[str, Any]:
    """Return ``content`` with its state dict under "model", names without DataParallel's prefix."""
    if not isinstance(content, Mapping):
        raise ValueError(
            f"weights '{path}': expected tensors by name, got a {type(content).__name__}"
        )
    rest = dict(content)
    key = next((k for k in STATE_DICT_KEYS if isinstance(rest.get(k), Mapping)), None)
    named = rest.pop(key) if key is not None else rest
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(str(k) for k in list(content)[:8])
        raise ValueError(f"weights '{path}': holds no tensors by name; its keys are: {keys or '-'}")
    if all(name.startswith(_WRAPPER_PREFIX) for name in tensors):
        tensors = {name.removeprefix(_WRAPPER_PREFIX): t for name, t in tensors.items()}
    return {**(rest if key is not None else {}), "model": tensors}
