"""Read the tensors of a TorchScript archive without running anything in it.

OpenAI publishes CLIP as TorchScript. ``torch.jit.load`` would compile and could run the archive's
code; here only its module tree (``data.pkl``) and its tensor bytes (``data/*``) are read, with an
unpickler that knows how to make tensors, containers and empty stand-ins for modules, and refuses
anything else.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

# Storage classes by the name that the pickle gives them.
_STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Functions that TorchScript wraps typed lists and tags with; the value itself is all we need.
_TYPED_LIST_BUILDERS = (
    "build_intlist",
    "build_tensorlist",
    "build_doublelist",
    "build_boollist",
    "restore_type_tag",
)


class _ScriptModule:
    """Stands in for a scripted class: holds the attributes that the pickle sets."""


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive (a zip with a ``constants.pkl``)."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(n).name == "constants.pkl" for n in archive.namelist())


def read_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a TorchScript archive by its dotted name.

    Args:
        path: a zip archive with ``data.pkl`` and ``data/*`` below one folder.

    Raises:
        pickle.UnpicklingError: the module tree asks for something that is no tensor, container or
            scripted class.
        zipfile.BadZipFile: the archive is damaged.
        KeyError, RuntimeError: a tensor's bytes are missing or too few.
    """
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if PurePosixPath(n).name == "data.pkl"]
        if not names:
            raise KeyError("data.pkl")
        root = str(PurePosixPath(names[0]).parent)
        unpickler = _TensorUnpickler(archive, root)
        tree = unpickler.load()
    tensors: dict[str, Tensor] = {}
    _collect_tensors(tree, "", tensors, set())
    return tensors


def _collect_tensors(node: Any, prefix: str, tensors: dict[str, Tensor], visited: set[int]) -> None:
    """Add the tensors below ``node`` to ``tensors``; a module met twice counts once."""
    if not isinstance(node, _ScriptModule) or id(node) in visited:
        return
    visited.add(id(node))
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        else:
            _collect_tensors(value, f"{prefix}{name}.", tensors, visited)


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles a TorchScript module tree; every global outside a short list is refused."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive = archive
        self._root = root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the harmless counterpart of a global, or refuse it."""
        # Made anew at each call: a pickle may set attributes on what it gets.
        if module == "__torch__" or module.startswith("__torch__."):
            return type("ScriptModule", (_ScriptModule,), {})
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        if module == "torch._utils" and name in _TENSOR_BUILDERS:
            build = _TENSOR_BUILDERS[name]
            return lambda *args: build(*args)
        if module == "torch.jit._pickle" and name in _TYPED_LIST_BUILDERS:
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"the archive asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the flat tensor that a storage's record stands for."""
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError(f"unknown record {pid!r}")
        dtype, key = _STORAGE_DTYPES.get(pid[1]), str(pid[2])
        if dtype is None:
            raise pickle.UnpicklingError(f"unknown storage {pid[1]!r}")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else empty
        return self._storages[key]


def _rebuild_tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    """Return the tensor that a view of a storage describes; torch checks the bounds."""
    if not isinstance(storage, Tensor):
        raise pickle.UnpicklingError("a tensor without storage")
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _rebuild_parameter(tensor: Tensor, *_: Any) -> Tensor:
    """Return the tensor of a parameter."""
    return tensor


_TENSOR_BUILDERS: Mapping[str, Callable[..., Tensor]] = {
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_parameter": _rebuild_parameter,
}
