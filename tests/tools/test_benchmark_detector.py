"""The parts of the detector's benchmark that need no large model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

TOOLS_DIR = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(autouse=True)
def _tools_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(TOOLS_DIR), *sys.path])


def test_operations_are_counted() -> None:
    from benchmarks._detectors import make_detector
    from benchmarks._limits import count_operations

    model = make_detector("embedded_tcm_fcos", torch.device("cpu"))
    count = count_operations(model, 256)
    assert next(model.parameters()).device.type == "cpu"
    places = sum((256 // stride_px) ** 2 for stride_px in model.head.strides_px)
    towers, outputs = 2 * 2 * 64 * 64, 64 * (15 + 4 + 1 + 1)
    assert count["head"] == 9 * places * (towers + outputs)
    assert set(count) == {"backbone", "attention_pool", "text_encoder", "tcm", "neck", "head"}
    # Four times the area, four times the work, but attention grows with the square of the places.
    larger = count_operations(model, 512)
    assert larger["backbone"] == 4 * count["backbone"]
    assert larger["attention_pool"] > 4 * count["attention_pool"]
    assert larger["text_encoder"] == count["text_encoder"]


def test_candidates_are_given_and_inputs_fit() -> None:
    from benchmarks._detectors import give_candidates, make_detector, make_inputs

    model = make_detector("embedded_tcm_fcos", torch.device("cpu"))
    inputs = make_inputs(2, 128, num_objects=5)
    losses = model.train()(inputs)
    assert all(torch.isfinite(value) for value in losses.values()) and losses["loss_box"] > 0
    give_candidates(model, inputs, 0.1)
    with torch.no_grad():
        assert len(model.eval()(inputs)[0]["instances"]) > 0


def test_race_takes_turns_and_keeps_the_best() -> None:
    from benchmarks._measuring import Times, race

    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    times = race(calls, device=torch.device("cpu"), repeats=2)
    assert order == ["a", "b"] * 3
    assert set(times) == {"a", "b"} and all(time.wall > 0 for time in times.values())
    assert Times(6.0, 2.0).over(Times(3.0, 4.0)) == (2.0, 0.5)
