"""Unpickle tensors and containers without importing or calling anything that a file names.

A pickle is a program: it names functions and classes and has them called. Here every name that is
not a tensor's is answered with an empty class that swallows whatever is done to it (a stand-in),
so that the numbers of a checkpoint can be read past the logs and settings pickled beside them. The
same unpickler reads TorchScript archives, whose scripted classes become stand-ins that hold the
module's attributes; ``torch.jit.load`` would compile the archive's code.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

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
# Weights that ask for these are an attack and get refused. A courtesy only: stand-ins would
# swallow them as they swallow the rest.
_SYSTEM_MODULES = frozenset(
    "_pickle __builtin__ builtins code commands ctypes importlib marshal nt os pickle posix pty "
    "runpy shutil socket subprocess sys webbrowser".split()
)
_HARMLESS_BUILTINS = frozenset(
    "bool bytearray bytes complex dict float frozenset getattr int list object range set slice str "
    "tuple".split()
)
# The first pickle of a file in torch's format from before its zip archives.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

LoadStorage = Callable[[torch.dtype, str, int], Tensor]


class RefusedGlobalError(pickle.UnpicklingError):
    """The pickle names what no weight file needs."""


class StandIn:
    """Takes the place of an object that is not made: swallows calls, items and state.

    Attributes:
        origin: the dotted name that the pickle gave.
        state: what the object's attributes were to be set from, or None.
    """

    origin = ""
    state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        """Ignore all arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Ignore all arguments."""

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        """Return another one."""
        return type(self)()

    def __setstate__(self, state: Any) -> None:
        """Keep the state as it comes."""
        self.state = state

    def _swallow(self, *_: Any) -> None:
        """Ignore the items of a list, set or dict."""

    append = extend = add = __setitem__ = _swallow


class _PlainDict(dict[Any, Any]):
    """An OrderedDict that has no attributes for a pickle to overwrite."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Ignore attributes, such as the versions that a state dict carries."""


class Unpickled(NamedTuple):
    """The object in a file, and how often each name was answered with a stand-in."""

    content: Any
    skipped: dict[str, int]


class TensorUnpickler(pickle._Unpickler):
    """Unpickles tensors, containers and stand-ins; see the module's docstring.

    Python's own unpickler, not the one in C: that one makes room for any number that a pickle gives
    to an object, so that five damaged bytes cost 30 GB.
    """

    def __init__(
        self, stream: IO[bytes], load_storage: LoadStorage, *, refuse_unknown: bool
    ) -> None:
        """Args:
        stream: the pickle.
        load_storage: (dtype, key, number of elements) -> flat tensor.
        refuse_unknown: raise on names that are neither tensors' nor scripted classes'.
        """
        super().__init__(stream)
        self._load_storage = load_storage
        self._refuse_unknown = refuse_unknown
        self.skipped: Counter[str] = Counter()

    def find_class(self, module: str, name: str) -> Any:
        """Return the harmless counterpart of a global.

        Raises:
            RefusedGlobalError: it is one of the system's, or unknown where those are refused.
        """
        # Made anew at each call: a pickle may set attributes on what it gets.
        if module == "__torch__" or module.startswith("__torch__."):
            return _stand_in_class(f"{module}.{name}")
        if module == "collections" and name == "OrderedDict":
            return type("PlainDict", (_PlainDict,), {"__slots__": ()})
        if module == "torch" and name in _STORAGE_DTYPES:
            return name
        if module == "torch._utils" and name in _TENSOR_BUILDERS:
            build = _TENSOR_BUILDERS[name]
            return lambda *args: build(*args)
        if module == "torch.jit._pickle" and name in _TYPED_LIST_BUILDERS:
            return lambda value, *_: value
        root = module.partition(".")[0]
        harmless = root in ("builtins", "__builtin__") and name in _HARMLESS_BUILTINS
        if self._refuse_unknown or (root in _SYSTEM_MODULES and not harmless):
            raise RefusedGlobalError(f"{module}.{name}")
        self.skipped[f"{module}.{name}"] += 1
        return _stand_in_class(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Return the flat tensor that a storage's record stands for."""
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError(f"unknown record, a {type(pid).__name__}")
        dtype = _STORAGE_DTYPES.get(pid[1]) if isinstance(pid[1], str) else None
        if dtype is None or not isinstance(pid[2], str):
            raise pickle.UnpicklingError("unknown kind or name of a storage")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a view of a storage, as torch wrote them before 1.0")
        return self._load_storage(dtype, pid[2], int(pid[4]))


def _refuse_bytearray(_: Any) -> None:
    raise pickle.UnpicklingError("a bytearray, which no weight file holds")


# Room for it would be made before its bytes are read.
_DISPATCH = dict(pickle._Unpickler.dispatch)
_DISPATCH[pickle.BYTEARRAY8[0]] = _refuse_bytearray
TensorUnpickler.dispatch = _DISPATCH


def _stand_in_class(origin: str) -> type[StandIn]:
    return type("StandIn", (StandIn,), {"origin": origin})


def _rebuild_tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    """Return the view of a storage that a tensor is; torch checks the bounds."""
    if not isinstance(storage, Tensor):
        raise pickle.UnpicklingError("a tensor without storage")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _rebuild_parameter(tensor: Tensor, *_: Any) -> Tensor:
    """Return the tensor of a parameter."""
    return tensor


_TENSOR_BUILDERS: Mapping[str, Callable[..., Tensor]] = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_parameter": _rebuild_parameter,
}


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive (a zip with a ``constants.pkl``).

    A damaged archive is none; who reads it says what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(n).name == "constants.pkl" for n in archive.namelist())
    except Exception:  # a broken archive can raise nearly anything
        return False


def read_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Return every tensor of a TorchScript archive by its dotted name.

    Raises:
        RefusedGlobalError: the module tree names what is no tensor, container or scripted class.
        Exception: as `read_archive`.
    """
    tensors: dict[str, Tensor] = {}
    tree = read_archive(path, refuse_unknown=True).content
    _collect_tensors(tree, "", tensors, set())
    return tensors


def _collect_tensors(node: Any, prefix: str, tensors: dict[str, Tensor], visited: set[int]) -> None:
    """Add the tensors below ``node`` to ``tensors``; a module met twice counts once."""
    if not isinstance(node, StandIn) or id(node) in visited or not isinstance(node.state, Mapping):
        return
    visited.add(id(node))
    for name, value in node.state.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value
        else:
            _collect_tensors(value, f"{prefix}{name}.", tensors, visited)


def read_archive(path: Path, *, refuse_unknown: bool) -> Unpickled:
    """Return the object in a zip archive of torch's: ``data.pkl`` and ``data/*`` in one folder.

    Args:
        path: the archive.
        refuse_unknown: see `TensorUnpickler`.

    Raises:
        pickle.UnpicklingError: the pickle is broken or asks for what it must not.
        zipfile.BadZipFile: the archive is damaged.
        Exception: nearly any other; a broken pickle or archive can raise what it likes.
    """
    storages: dict[str, Tensor] = {}
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if PurePosixPath(n).name == "data.pkl"]
        if not names:
            raise KeyError("data.pkl")
        root = PurePosixPath(names[0]).parent

        def load_storage(dtype: torch.dtype, key: str, num_elements: int) -> Tensor:
            if key not in storages:
                storages[key] = _from_bytes(bytearray(archive.read(f"{root}/data/{key}")), dtype)
            return storages[key]

        with archive.open(names[0]) as stream:
            unpickler = TensorUnpickler(stream, load_storage, refuse_unknown=refuse_unknown)
            return Unpickled(unpickler.load(), dict(unpickler.skipped))


def read_legacy_file(path: Path) -> Unpickled:
    """Return the object in a file of torch's format from before its zip archives.

    It is a row of pickles (a magic number, a version, facts about the machine, the object, the keys
    of the storages) and then each storage: its number of elements and its bytes.

    Raises:
        pickle.UnpicklingError: the file is of another format, or asks for what it must not.
        Exception: as `read_archive`.
    """
    storages: dict[str, Tensor] = {}

    def load_storage(dtype: torch.dtype, key: str, num_elements: int) -> Tensor:
        # Filled below; until then no memory is touched.
        return storages.setdefault(key, torch.empty(num_elements, dtype=dtype))

    with path.open("rb") as stream:

        def load() -> Unpickled:
            unpickler = TensorUnpickler(stream, load_storage, refuse_unknown=False)
            return Unpickled(unpickler.load(), dict(unpickler.skipped))

        if load().content != _LEGACY_MAGIC:
            raise pickle.UnpicklingError("a bare pickle, not written by torch")
        load(), load()
        result = load()
        for key in load().content:
            storage = storages[key]
            (num_elements,) = struct.unpack("<q", stream.read(8))
            if num_elements != storage.numel():
                raise pickle.UnpicklingError(f"storage {key} has {num_elements} elements")
            content = bytearray(stream.read(num_elements * storage.element_size()))
            storage.copy_(_from_bytes(content, storage.dtype))
    return result


def _from_bytes(content: bytearray, dtype: torch.dtype) -> Tensor:
    """Return a flat tensor over ``content``."""
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
