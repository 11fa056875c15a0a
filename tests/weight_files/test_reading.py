"""Reading weight files: every format, every wrapper, and what the messages say of the others."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tcm_d2.weight_files.reading import read_weight_file
from tests.weight_files.foreign import RunsCommand, history_buffer_class

FORMATS = ["torch", "old torch", "safetensors", "torchscript"]


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(20, 30)
        self.head = nn.Linear(30, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def save(kind: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Write a model in one of the formats; return the file and its tensors."""
    model = _Model()
    path = folder / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    elif kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(model, torch.zeros(1, 20)), str(path))
    else:
        new = kind == "torch"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=new)
    return path, model.state_dict()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, expected = save(kind, tmp_path)
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("executes the archive"))
    file = read_weight_file(path)
    assert file.tensors.keys() == expected.keys()
    assert all(torch.equal(file.tensors[name], expected[name]) for name in expected)
    assert file.is_torchscript == (kind == "torchscript") and not file.skipped and not file.rest


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("keep", [0.0, 0.003, 0.4, 0.98])
def test_truncated_files_are_named_as_such(tmp_path: Path, kind: str, keep: float) -> None:
    path, _ = save(kind, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=rf"^weights '.*{path.name}': .*fetch it again$"):
        read_weight_file(path)


def test_flipped_bytes_in_an_archive(tmp_path: Path) -> None:
    """The archive's own checksums tell, before wrong weights are trained with."""
    path, _ = save("torchscript", tmp_path)
    with zipfile.ZipFile(path) as archive:
        (info,) = (i for i in archive.infolist() if i.filename.endswith("/data/0"))
    content = bytearray(path.read_bytes())
    middle = info.header_offset + 200 + info.file_size // 2
    content[middle : middle + 4] = bytes(255 - b for b in content[middle : middle + 4])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged.*Bad CRC"):
        read_weight_file(path)


@pytest.mark.parametrize(
    "wrap", ["plain", "model", "state_dict", "state_dict.model", "module.", "module._orig_mod."]
)
def test_state_dict_is_found_under_its_usual_keys(tmp_path: Path, wrap: str) -> None:
    state = _Model().state_dict()
    content: Any = dict(state)
    if wrap.endswith("."):
        content = {f"{wrap}{name}": tensor for name, tensor in state.items()}
    elif wrap != "plain":
        for key in reversed(wrap.split(".")):
            content = {key: content, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    file = read_weight_file(tmp_path / "w.pth")
    assert file.tensors.keys() == state.keys()
    assert file.rest.get("epoch") == (3 if wrap.startswith(("model", "state")) else None)


def test_prefix_of_some_names_only_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pth")
    assert set(read_weight_file(tmp_path / "w.pth").tensors) == {"module.a", "b"}


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle", "torchscript"])
def test_file_that_runs_code_is_refused(tmp_path: Path, kind: str) -> None:
    """A state dict with a malicious passenger; nothing of it runs."""
    path, marker = tmp_path / "w.pth", tmp_path / "executed"
    attack = RunsCommand(marker)
    content = {"model": _Model().state_dict(), "extra": attack}
    if kind == "torchscript":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/constants.pkl", pickle.dumps((), protocol=2))
            archive.writestr("w/data.pkl", pickle.dumps(attack, protocol=2))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(attack))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    expected = (
        r"w\.pth': refused, because reading it would run code: it asks for (posix|nt)\.system"
    )
    with pytest.raises(ValueError, match=expected):
        read_weight_file(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["builtins eval", "torch._utils _rebuild_wrapper_subclass"])
def test_torchscript_archives_need_no_foreign_names(tmp_path: Path, name: str) -> None:
    module, attribute = name.split()
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")
        archive.writestr("a/data.pkl", f"\x80\x02c{module}\n{attribute}\n.".encode("latin1"))
    with pytest.raises(ValueError, match=f"refused.*asks for {module}.{attribute}"):
        read_weight_file(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".PKL"])
def test_pickles_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(pickle.dumps({"a": [1.0]}))
    with pytest.raises(ValueError, match="refused"):
        read_weight_file(path)
    path.rename(tmp_path / "bare.pth")  # under an innocent name
    with pytest.raises(ValueError, match=r"not a weight file \(a bare pickle"):
        read_weight_file(tmp_path / "bare.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n not weights", "not a weight file"),
        (b"<html>Not found</html>", "not a weight file"),
        ([1, 2], "expected tensors by name, got one list"),
        ({"optimizer": {"lr": 1.0}}, "holds no tensors by name; its keys are: optimizer"),
        ({}, "its keys are: -"),
        (torch.zeros(3), "got one Tensor"),
    ],
)
def test_other_files_are_described(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_weight_file(path)


def test_a_pickled_model_is_named(tmp_path: Path) -> None:
    """torch.save(model): the class is not at hand, and its state dict is what was wanted."""
    with history_buffer_class() as make:
        torch.save(make(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"got one mmengine\.\S+HistoryBuffer; save its state"):
        read_weight_file(tmp_path / "w.pth")


def test_missing_remote_and_folder(tmp_path: Path) -> None:
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(FileNotFoundError, match=r"no such file; near matches: model_final\.pth"):
        read_weight_file(tmp_path / "model_fnal.pth")
    with pytest.raises(FileNotFoundError, match="got a folder"):
        read_weight_file(tmp_path)
    for address in ("https://host/w.pth", "detectron2://ImageNet/R-50.pkl"):
        with pytest.raises(ValueError, match="nothing else is downloaded"):
            read_weight_file(address)
