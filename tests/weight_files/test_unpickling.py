"""Nothing that a file names is imported or called, whatever opcode asks for it."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tcm_d2.weight_files.reading import read_weight_file
from tcm_d2.weight_files.unpickling import (
    RefusedGlobalError,
    StandIn,
    TensorUnpickler,
    read_archive,
)
from tests.weight_files.foreign import (
    BUFFER_MODULE,
    RunsCommand,
    history_buffer_class,
    save_as_mmengine,
)


def unpickle(data: bytes) -> tuple[Any, TensorUnpickler]:
    def no_storage(*_: Any) -> torch.Tensor:
        raise AssertionError("no tensors in here")

    unpickler = TensorUnpickler(io.BytesIO(data), no_storage, refuse_unknown=False)
    return unpickler.load(), unpickler


@pytest.fixture
def traitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable module ``traitor`` that leaves a mark when imported; return the mark."""
    mark = tmp_path / "imported"
    source = f"open({str(mark)!r}, 'w').close()\ndef run(*_): pass\nclass Thing: pass\n"
    (tmp_path / "traitor.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("traitor", None)


# One way to make an object each: REDUCE, NEWOBJ, NEWOBJ_EX, INST, OBJ; then state and items.
@pytest.mark.parametrize(
    "program",
    [
        b"ctraitor\nrun\n)R.",
        b"ctraitor\nThing\n)\x81.",
        b"\x80\x04ctraitor\nThing\n)}\x92.",
        b"(itraitor\nThing\n.",
        b"(ctraitor\nThing\no.",
        b"ctraitor\nThing\n)\x81}X\x01\x00\x00\x00aK\x01sb.",
        b"ctraitor\nrun\n)R(K\x01K\x02e.",
        b"ctraitor\nrun\n)RK\x01a.",
        b"ctraitor\nrun\n)R(K\x01K\x02u.",
        b"ctraitor\nrun\n)R)R.",
        b"\x80\x04X\x07\x00\x00\x00traitorX\x03\x00\x00\x00run\x93)R.",
    ],
)
def test_unknown_objects_are_swallowed(traitor: Path, program: bytes) -> None:
    thing, unpickler = unpickle(program)
    assert isinstance(thing, StandIn) and thing.origin.startswith("traitor.")
    assert sum(unpickler.skipped.values()) == 1
    assert not traitor.exists() and "traitor" not in sys.modules
    # The program is a real one: an ordinary unpickling imports the module.
    if b"(K\x01K\x02" not in program and b"K\x01a" not in program and b")R)R" not in program:
        pickle.loads(program)
        assert traitor.exists()


@pytest.mark.parametrize(
    "name",
    [
        "posix system",
        "os system",
        "nt system",
        "builtins eval",
        "builtins exec",
        "builtins __import__",
        "__builtin__ open",
        "subprocess Popen",
        "importlib import_module",
        "runpy run_path",
        "pickle loads",
        "ctypes.util find_library",
    ],
)
@pytest.mark.parametrize("protocol", [0, 4])
def test_what_only_an_attack_needs_is_refused(name: str, protocol: int) -> None:
    module, attribute = name.split()
    if protocol == 0:
        program = f"c{module}\n{attribute}\n.".encode()
    else:
        program = b"\x80\x04" + b"".join(
            b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)
        )
        program += b"\x93."
    with pytest.raises(RefusedGlobalError, match=f"{module}.{attribute}"):
        unpickle(program)


@pytest.mark.parametrize("protocol", range(6))
def test_a_command_never_runs(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps({"a": [RunsCommand(marker)]}, protocol=protocol)
    with pytest.raises(RefusedGlobalError, match=r"(posix|nt)\.system"):
        unpickle(data)
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()


def test_getattr_chains_reach_nothing() -> None:
    """getattr is asked for by mmengine's buffers; here it is empty like the rest."""
    program = b"cbuiltins\ngetattr\n(cbuiltins\nobject\nX\x0e\x00\x00\x00__subclasses__tR)R."
    chained, unpickler = unpickle(program)
    assert isinstance(chained, StandIn)
    assert unpickler.skipped == {"builtins.getattr": 1, "builtins.object": 1}


def test_attributes_of_a_dict_cannot_be_overwritten() -> None:
    program = b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."
    made, _ = unpickle(program)
    assert dict(made.items()) == {}


def test_builders_of_tensors_cannot_be_changed_for_the_next_call() -> None:
    """BUILD on a function sets its attributes; each file gets functions of its own."""
    program = b"ctorch._utils\n_rebuild_parameter\n}X\x01\x00\x00\x00aK\x01sb."
    changed, _ = unpickle(program)
    fresh, _ = unpickle(b"ctorch._utils\n_rebuild_parameter\n.")
    assert changed.a == 1 and not hasattr(fresh, "a")


@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "legacy"])
def test_mmengine_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old_format: bool
) -> None:
    """Tensors come out, log buffers, numpy scalars and dates stay in; one line says so."""
    parameter = torch.nn.Parameter(torch.randn(2, 3))
    base = torch.arange(12.0)
    state = {
        "a.weight": parameter,
        "a.view": base[2:8].view(2, 3).t(),  # strided, in a shared storage
        "a.whole": base,
        "b.half": torch.randn(4).half(),
        "b.count": torch.tensor(7),
        "b.empty": torch.zeros(0, 3),
    }
    save_as_mmengine(state, tmp_path / "epoch_12.pth", old_format=old_format)
    with caplog.at_level("INFO"):
        file = read_weight_file(tmp_path / "epoch_12.pth")
    assert file.tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(file.tensors[name], tensor) and file.tensors[name].dtype == tensor.dtype
    assert file.skipped[f"{BUFFER_MODULE}.HistoryBuffer"] >= 1
    assert any(name.startswith("numpy.") for name in file.skipped)
    assert file.rest == {}
    assert not any(name.partition(".")[0] == "mmengine" for name in sys.modules)
    lines = [r.getMessage() for r in caplog.records if "skipped, not run" in r.getMessage()]
    assert len(lines) == 1 and "HistoryBuffer" in lines[0]


def test_installed_packages_are_not_imported(traitor: Path, tmp_path: Path) -> None:
    """An object of an installed package: the package stays unimported, the tensors load."""
    with history_buffer_class() as make:
        make.__module__ = BUFFER_MODULE
        torch.save({"state_dict": {"a": torch.ones(2)}, "b": make()}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as source:
        content = {name: source.read(name) for name in source.namelist()}
    (key,) = (name for name in content if name.endswith("data.pkl"))
    content[key] = content[key].replace(f"c{BUFFER_MODULE}\n".encode(), b"ctraitor\n")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as target:
        for name, data in content.items():
            target.writestr(name, data)
    file = read_weight_file(tmp_path / "w.pth")
    assert torch.equal(file.tensors["a"], torch.ones(2))
    assert "traitor.HistoryBuffer" in file.skipped and not traitor.exists()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000tQ.", "unknown record"),
        (b"K\x01Q.", "unknown record"),
        (b"(X\x07\x00\x00\x00storageK\x05X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.", "unkn"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(cfoo\nbar\nK\x00)))NtR.", "without storage"),
    ],
)
def test_broken_tensor_records(record: bytes, message: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        unpickle(record)


@pytest.mark.parametrize(("offset", "size"), [(0, 5), (3, 2), (10**9, 1), (0, 10**12), (-1, 1)])
def test_views_beyond_the_storage_are_refused(tmp_path: Path, offset: int, size: int) -> None:
    """A view past the end would read foreign memory."""
    program = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
        + f"L{offset}L\n(L{size}L\nt(K\x01tNNtR.".encode("latin1")
    )
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w/data.pkl", program)
        archive.writestr("w/data/0", torch.arange(4.0).numpy().tobytes())
    with pytest.raises(RuntimeError, match=r"out of bounds|negative|storage"):
        read_archive(tmp_path / "w.pth", refuse_unknown=False)
