"""hf:// names, on a fake of huggingface_hub: what is fetched when, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tcm_d2 import Detector
from tcm_d2.weight_files.hub import SWITCH, local_weights, parse_name
from tcm_d2.weight_files.reading import read_weight_file
from tests.inference.small_run import write_run


class _Hub(ModuleType):
    """A hub with one file, and a cache that is empty at first."""

    def __init__(self, file: Path) -> None:
        super().__init__("huggingface_hub")
        self.file, self.is_cached, self.calls = file, False, list[dict[str, Any]]()

    def hf_hub_download(self, **options: Any) -> str:
        self.calls.append(options)
        if options.pop("local_files_only", False) and not self.is_cached:
            raise FileNotFoundError("not in the cache")
        if options["filename"] != self.file.name:
            raise OSError("404 Client Error.\nmore lines")
        self.is_cached = True
        return str(self.file)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Hub:
    file = tmp_path / "model.pth"
    torch.save({"model": {"a": torch.arange(3.0)}}, file)
    fake = _Hub(file)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.delenv(SWITCH, raising=False)
    return fake


def _name(hub: _Hub, *, file: str = "model.pth", sha256: str | None = None) -> str:
    sha256 = sha256 or hashlib.sha256(hub.file.read_bytes()).hexdigest()
    return f"hf://owner/name@0123abc/{file}#sha256={sha256}"


def test_only_the_switch_allows_a_download(hub: _Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=f"nothing is downloaded unless {SWITCH}=1"):
        read_weight_file(_name(hub))
    assert [call.get("local_files_only") for call in hub.calls] == [None]  # popped: one look
    monkeypatch.setenv(SWITCH, "1")
    assert read_weight_file(_name(hub)).tensors["a"].tolist() == [0, 1, 2]
    assert hub.calls[-1] == {
        "repo_id": "owner/name",
        "filename": "model.pth",
        "revision": "0123abc",
    }


def test_a_cached_file_needs_neither_switch_nor_network(hub: _Hub) -> None:
    hub.is_cached = True
    assert local_weights(_name(hub)) == str(hub.file)
    assert len(hub.calls) == 1


def test_another_content_is_refused(hub: _Hub) -> None:
    hub.is_cached = True
    with pytest.raises(ValueError, match=r"has the SHA-256 [0-9a-f]{64}, not the one in its name"):
        read_weight_file(_name(hub, sha256="0" * 64))


def test_what_cannot_be_fetched_is_one_line(hub: _Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded: 404 Client Error\.$"):
        local_weights(_name(hub, file="other.pth"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://owner/name@main/model.pth", "expected the SHA-256 of the file behind it"),
        ("hf://owner/name/model.pth#sha256=" + "0" * 64, "expected hf://owner/name@revision"),
        ("hf://owner/name@main/../x#sha256=" + "0" * 64, "expected hf://owner/name@revision"),
        ("hf://owner/name@main/a.pth#sha256=12", "expected hf://owner/name@revision"),
    ],
)
def test_names_of_another_form(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_name(text)
    with pytest.raises(ValueError, match=message):
        Detector.from_pretrained(text)


def test_other_names_are_left_alone() -> None:
    assert local_weights("model.pth") == "model.pth"
    with pytest.raises(ValueError, match=r"expected a local file or hf://\.\.\."):
        read_weight_file("https://example.org/model.pth")


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModuleNotFoundError, match="pip install huggingface_hub"):
        local_weights("hf://owner/name@main/a.pth#sha256=" + "0" * 64)


def test_a_detector_by_its_name(hub: _Hub, tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    hub.file, hub.is_cached = run_dir / "model_final.pth", True
    found = Detector.from_pretrained(_name(hub, file="model_final.pth"), device="cpu")
    assert found.classes == ("plane", "ship")


def test_importing_it_does_not_import_the_hub() -> None:
    code = "import sys, tcm_d2.weight_files.hub; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
