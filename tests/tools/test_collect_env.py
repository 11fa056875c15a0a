"""The report on the installation: complete, and alive when something is broken."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch

from tcm_d2 import __version__, collect_env


def test_report_names_versions_extension_and_devices() -> None:
    rows = dict(collect_env.collect_env())
    assert rows["tcm_d2"].startswith(__version__)
    assert torch.__version__.startswith(rows["torch"])
    for name in ("Python", "numpy", "Detectron2", "extension tcm_d2._C", "C++ compiler", "CPU"):
        assert rows[name]
    assert f"{torch.get_num_threads()} torch threads" in rows["CPU"]


def test_a_detectron2_that_cannot_be_imported_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> ModuleType:
        raise AttributeError("module 'PIL.Image' has no attribute 'LINEAR'")

    monkeypatch.setattr(importlib, "import_module", refuse)
    rows = dict(collect_env.collect_env())
    assert "AttributeError: module 'PIL.Image'" in rows["Detectron2"]
    assert "tcm-d2 install-detectron2" in rows["Detectron2"]


def test_report_is_printed_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    collect_env.main()
    lines = capsys.readouterr().out.splitlines()
    column = lines[0].index(__version__)
    assert all(line[column - 2 : column] == "  " for line in lines)
