"""Read a weight file of any kind into tensors by name; nothing in it is run.

``.safetensors`` goes through safetensors, a TorchScript archive through our own unpickler, all
else through ``torch.load(weights_only=True)``. What that refuses (mmengine's checkpoints hold
objects of its own classes) is read again by our unpickler, which makes no objects. The checksums
of an archive are verified first.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from tcm_d2.messages import near_match_hint
from tcm_d2.weight_files.archive import check_archive, is_archive
from tcm_d2.weight_files.hub import local_weights
from tcm_d2.weight_files.unpickling import (
    RefusedGlobalError,
    StandIn,
    Unpickled,
    is_torchscript,
    read_archive,
    read_legacy_file,
    read_torchscript_tensors,
)

logger = logging.getLogger(__name__)

# Keys under which trainers put the state dict in their files: ours and Detectron2's, mmengine's
# and OpenCLIP's, pycls's.
STATE_DICT_KEYS = ("model", "state_dict", "model_state")
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".pyth")
# What DataParallel, DistributedDataParallel and torch.compile put before every name.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
_ZIP_START = b"PK\x03\x04"
# Names shown in messages.
_MAX_NAMES_SHOWN = 8


class WeightFile(NamedTuple):
    """The content of a weight file, on the CPU.

    Attributes:
        tensors: {name: tensor}, names without the prefixes of wrappers.
        rest: what else the file holds, by its keys; empty where objects had to be skipped.
        skipped: dotted names of classes and functions that the file asks for and that were
            neither imported nor called, with how often.
        config_text: the configuration that mmcv and mmengine store beside the tensors, a Python
            text; "" where there is none.
        class_names: those that they store, in label order; empty where there are none.
        is_torchscript: whether it is a TorchScript archive, as OpenAI's CLIP weights are.
    """

    tensors: dict[str, Tensor]
    rest: dict[str, Any]
    skipped: dict[str, int]
    config_text: str
    class_names: tuple[str, ...]
    is_torchscript: bool


def read_weight_file(path: str | os.PathLike[str]) -> WeightFile:
    """Read a local ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file or TorchScript archive.

    Args:
        path: of the file; or ``hf://...``, see `tcm_d2.weight_files.hub`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is remote, a bare pickle, truncated, damaged, asks for code to be run,
            or holds no tensors by name.
    """
    path = local_weights(path)
    if "://" in path:
        raise ValueError(
            f"weights '{path}': expected a local file or hf://...; nothing else is downloaded, so "
            "fetch it yourself and give its path"
        )
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(_missing_message(path))
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ValueError(
            f"weights '{path}': refused, because reading a {path.suffix} pickle can run any code; "
            "expected .pth, .pt, .bin or .safetensors"
        )
    scripted = is_torchscript(path)
    unpickled = _read_content(path, scripted)
    _log_skipped(path, unpickled.skipped)
    tensors, rest = _find_tensors(unpickled.content, path)
    return WeightFile(
        tensors=tensors,
        rest={} if unpickled.skipped else rest,
        skipped=unpickled.skipped,
        config_text=_config_text(rest.get("meta")),
        class_names=_class_names(rest.get("meta")),
        is_torchscript=scripted,
    )


def _config_text(meta: Any) -> str:
    """Return what mmengine stores as ``cfg``, mmcv as ``config``."""
    if not isinstance(meta, Mapping):
        return ""
    texts = (meta.get(key) for key in ("cfg", "config"))
    return next((text for text in texts if isinstance(text, str)), "")


def _class_names(meta: Any) -> tuple[str, ...]:
    """Return what mmengine stores in ``dataset_meta``, mmcv as ``CLASSES``."""
    if not isinstance(meta, Mapping):
        return ()
    sections = (meta.get("dataset_meta"), meta)
    mappings = [section for section in sections if isinstance(section, Mapping)]
    for names in [section.get(key) for section in mappings for key in ("classes", "CLASSES")]:
        if isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names):
            return tuple(names)
    return ()


def _missing_message(path: Path) -> str:
    if path.is_dir():
        return f"weights '{path}': expected a file, got a folder; name one of the .pth files in it"
    if path.exists():
        return f"weights '{path}': expected a file, got a pipe or device"
    message = f"weights '{path}': no such file"
    if path.parent.is_dir():
        names = [p.name for p in path.parent.iterdir() if p.is_file()]
        message += near_match_hint(path.name, names)
    return message


def _read_content(path: Path, scripted: bool) -> Unpickled:
    """Return what is in an existing file; see the module's docstring for how."""
    if path.stat().st_size == 0:
        raise ValueError(f"weights '{path}': the file is empty; fetch it again")
    if _is_archive_without_end(path):
        raise ValueError(f"weights '{path}': truncated, its end is missing; {_advice(path)}")
    try:
        if path.suffix.lower() == ".safetensors":
            return Unpickled(_read_safetensors(path), {})
        if is_archive(path):
            check_archive(path)
        if scripted:
            return Unpickled(read_torchscript_tensors(path), {})
        try:
            return Unpickled(torch.load(path, map_location="cpu", weights_only=True), {})
        except pickle.UnpicklingError:
            if is_archive(path):
                return read_archive(path, refuse_unknown=False)
            return read_legacy_file(path)
    except RefusedGlobalError as error:
        raise ValueError(
            f"weights '{path}': refused, because reading it would run code: it asks for {error}. "
            "Where the file is trusted, save its state dict alone, in the environment that made it"
        ) from None
    except SafetensorError as error:
        raise ValueError(
            f"weights '{path}': no whole safetensors file ({_first_line(error)}); {_advice(path)}"
        ) from None
    except Exception as error:  # a broken pickle or archive can raise nearly anything
        raise ValueError(
            f"weights '{path}': truncated, damaged or not a weight file ({_first_line(error)}); "
            f"{_advice(path)}"
        ) from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Return {"model": tensors, "metadata": {name: text}}, the latter where there is any."""
    tensors = load_file(path, device="cpu")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return {"model": tensors, **({"metadata": metadata} if metadata else {})}


def _is_archive_without_end(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == _ZIP_START and not is_archive(path)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _advice(path: Path) -> str:
    return f"it has {path.stat().st_size:,} bytes, fetch it again"


def _log_skipped(path: Path, skipped: Mapping[str, int]) -> None:
    if skipped:
        shown = ", ".join(f"{name} ({n})" for name, n in list(skipped.items())[:_MAX_NAMES_SHOWN])
        more = ", ..." if len(skipped) > _MAX_NAMES_SHOWN else ""
        logger.info("weights '%s': objects skipped, not run: %s%s", path, shown, more)


def _find_tensors(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict in ``content`` without wrappers' prefixes, and what is beside it."""
    rest: dict[str, Any] = {}
    named, seen = content, set[int]()
    # A pickle can make a dict that holds itself.
    while isinstance(named, Mapping) and id(named) not in seen:
        seen.add(id(named))
        key = next((k for k in STATE_DICT_KEYS if isinstance(named.get(k), Mapping)), None)
        if key is None:
            break
        rest.update((str(k), value) for k, value in named.items() if k != key)
        named = named[key]
    if not isinstance(named, Mapping):
        got = named.origin if isinstance(named, StandIn) else type(named).__name__
        raise ValueError(
            f"weights '{path}': expected tensors by name, got one {got}; save its state dict"
        )
    tensors = {str(name): value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(str(k) for k in list(content)[:_MAX_NAMES_SHOWN])
        raise ValueError(f"weights '{path}': holds no tensors by name; its keys are: {keys or '-'}")
    while prefix := next(
        (p for p in _WRAPPER_PREFIXES if all(n.startswith(p) for n in tensors)), ""
    ):
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    return tensors, rest
