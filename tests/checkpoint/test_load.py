"""Loading into a model: what fits, what the report and the refusals say; atomic writing."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tcm_d2.checkpoint.load import SafeCheckpointer, load_weights


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)


def _state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {k: torch.full_like(v, value) for k, v in _Model().state_dict().items()}


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
    with pytest.raises(ValueError, match=r"fits nothing.*layer1\.0\.conv1.*an image ResNet"):
        load_weights(_Model(), other, source="r50.pth")


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
    assert report.dead == ["prompt_generator.0.weight"]
    assert "(names translated from mmrotate's)" in caplog.text
    assert re.search(r"dead +1 +prompt_generator\.0\.weight", caplog.text)


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


def test_without_weights_the_model_stays(tmp_path: Path) -> None:
    model = _Model()
    before = model.head.weight.detach().clone()
    assert SafeCheckpointer(model, str(tmp_path)).load("") == {}
    assert torch.equal(model.head.weight, before)
