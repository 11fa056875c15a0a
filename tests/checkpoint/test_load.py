"""Reading weight files: what loads, what is refused, what the messages say; atomic writing."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tcm_d2.checkpoint.load import SafeCheckpointer, load_weights, write_atomically
from tcm_d2.checkpoint.reading import read_checkpoint


class _RunsCode:
    """Unpickling this calls os.mkdir."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)


def _state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {k: torch.full_like(v, value) for k, v in _Model().state_dict().items()}


@pytest.mark.parametrize("wrap", ["plain", "model", "state_dict", "module."])
def test_state_dict_is_found_under_its_usual_keys(tmp_path: Path, wrap: str) -> None:
    state = _state()
    content: Any = state if wrap == "plain" else {wrap: state, "epoch": 3}
    if wrap == "module.":
        content = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(content, tmp_path / "w.pth")
    read = read_checkpoint(tmp_path / "w.pth")
    assert read["model"].keys() == state.keys()
    assert read.get("epoch") == (3 if wrap in ("model", "state_dict") else None)


def test_old_format_and_safetensors_load(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    torch.save(_state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.save_file(_state(), tmp_path / "w.safetensors")
    for name in ("old.pt", "w.safetensors"):
        model = _Model()
        load_weights(model, read_checkpoint(tmp_path / name)["model"], source=name)
        assert model.head.weight.eq(1).all()


@pytest.mark.parametrize("old_format", [True, False])
def test_file_that_runs_code_is_refused(tmp_path: Path, old_format: bool) -> None:
    """A state dict with a malicious passenger, as .pth; nothing of it runs."""
    content = {"model": _state(), "extra": _RunsCode(tmp_path / "owned")}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ValueError, match=r"w\.pth': refused, because reading it would run code"):
        read_checkpoint(tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".PKL"])
def test_pickles_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(pickle.dumps(_RunsCode(tmp_path / "owned")))
    with pytest.raises(ValueError, match="refused"):
        read_checkpoint(path)
    path.rename(tmp_path / "bare.pth")  # a bare pickle under an innocent name
    with pytest.raises(ValueError, match="refused"):
        read_checkpoint(tmp_path / "bare.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.4, 0.98])
def test_truncated_files_are_named_as_such(tmp_path: Path, suffix: str, keep: float) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(_state(), path)
    else:
        safetensors.save_file(_state(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=rf"w\{suffix}'.*fetch it again"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n not weights", "not a weight file"),
        ([1, 2], "expected tensors by name, got a list"),
        ({"optimizer": {"lr": 1.0}}, "holds no tensors by name; its keys are: optimizer"),
        (torch.zeros(3), "got a Tensor"),
    ],
)
def test_other_files_are_described(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_torchscript_archive_is_pointed_to_its_key(tmp_path: Path) -> None:
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(traced, tmp_path / "RN50.pt")
    with pytest.raises(ValueError, match=r"TorchScript archive.*MODEL\.CLIP\.WEIGHTS"):
        read_checkpoint(tmp_path / "RN50.pt")


def test_missing_remote_and_folder(tmp_path: Path) -> None:
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(FileNotFoundError, match=r"no such file; near it: model_final\.pth"):
        read_checkpoint(tmp_path / "model_fnal.pth")
    with pytest.raises(FileNotFoundError, match="got a folder"):
        read_checkpoint(tmp_path)
    for address in ("https://host/w.pth", "detectron2://ImageNet/R-50.pkl"):
        with pytest.raises(ValueError, match="nothing is downloaded"):
            read_checkpoint(address)


def test_report_of_a_partial_fit(caplog: pytest.LogCaptureFixture) -> None:
    state = {**_state(), "head.bias": torch.zeros(7), "extra.weight": torch.zeros(1)}
    del state["backbone.bias"]
    model = _Model()
    before = model.head.bias.detach().clone()
    report = load_weights(model, state, source="w.pth")
    assert report.loaded == ["backbone.weight", "head.weight"]
    assert report.missing == ["backbone.bias"]
    assert report.unexpected == ["extra.weight"]
    assert report.mismatched == [("head.bias", (7,), (1,))]
    assert model.head.weight.eq(1).all() and torch.equal(model.head.bias, before)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "head.bias (7,) -> (1,)" in record.getMessage()


def test_weights_of_another_model_are_refused() -> None:
    other = {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}
    with pytest.raises(ValueError, match=r"fits nothing.*layer1\.0\.conv1.*a bare ResNet"):
        load_weights(_Model(), other, source="r50.pth")
    clip = {"visual.conv1.weight": torch.zeros(2), "logit_scale": torch.zeros(())}
    with pytest.raises(ValueError, match=r"whole CLIP model: give it as MODEL\.CLIP\.WEIGHTS"):
        load_weights(_Model(), clip, source="RN50.pth")


def test_mmrotate_names_are_translated(caplog: pytest.LogCaptureFixture) -> None:
    class Neck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neck = nn.ModuleDict({"lateral_convs": nn.ModuleList([nn.Conv2d(2, 2, 1)])})

    theirs = {
        "neck.lateral_convs.0.conv.weight": torch.ones(2, 2, 1, 1),
        "neck.lateral_convs.0.conv.bias": torch.ones(2),
        "prompt_generator.0.weight": torch.ones(3),
    }
    model = Neck()
    with caplog.at_level(logging.INFO):
        report = load_weights(model, theirs, source="m.pth")
    assert report.converted_from == "mmrotate" and not report.unexpected and not report.missing
    assert model.neck["lateral_convs"][0].weight.eq(1).all()
    assert "never uses: prompt_generator.0.weight" in caplog.text


def test_checkpointer_round_trip_is_plain(tmp_path: Path) -> None:
    model = _Model()
    optimizer = torch.optim.AdamW(model.parameters())
    model.head(model.backbone(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_0000001", iteration=1)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert torch.load(tmp_path / "model_0000001.pth", weights_only=True)["iteration"] == 1
    fresh = _Model()
    fresh_optimizer = torch.optim.AdamW(fresh.parameters())
    checkpointer = SafeCheckpointer(fresh, str(tmp_path), optimizer=fresh_optimizer)
    assert checkpointer.load(checkpointer.get_checkpoint_file())["iteration"] == 1
    assert torch.equal(fresh.head.weight, model.head.weight)
    assert fresh_optimizer.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """A full disk or a kill in the middle of writing: the old checkpoint stays whole."""
    path = tmp_path / "model_final.pth"
    write_atomically(path, lambda stream: stream.write(b"old"))

    def write_half(stream: Any) -> None:
        stream.write(b"ne")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_atomically(path, write_half)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model_final.pth"]


def test_without_weights_the_model_stays(tmp_path: Path) -> None:
    model = _Model()
    before = model.head.weight.detach().clone()
    assert SafeCheckpointer(model, str(tmp_path)).load("") == {}
    assert torch.equal(model.head.weight, before)
