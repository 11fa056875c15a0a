"""Several passes per iteration make the same step as one; the learning rate of large batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tcm_d2.engine.loop import train
from tcm_d2.engine.optim import scale_learning_rate
from tcm_d2.engine.sample_stream import check_batch_size
from tests.engine.tiny_run import TinyDetector, make_experiment


def _losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line)["total_loss"] for line in lines]


@pytest.mark.parametrize("passes", [2, 4])
def test_passes_make_the_step_of_the_whole_batch(tmp_path: Path, passes: int) -> None:
    """Without dropout and batch statistics, which are drawn and taken per pass."""
    finals = []
    for folder, accumulation_steps in ((tmp_path / "whole", 1), (tmp_path / "parts", passes)):
        torch.manual_seed(0)
        model = TinyDetector(dropout=0.0)
        model.backbone[1] = nn.Identity()
        train(
            make_experiment(folder, model=model, accumulation_steps=accumulation_steps),
            resume=False,
        )
        finals.append(model.state_dict())
    assert _losses(tmp_path / "parts") == pytest.approx(_losses(tmp_path / "whole"), rel=1e-5)
    for name, value in finals[0].items():
        # AdamW divides by the gradient's size, which lifts rounding where it is small.
        torch.testing.assert_close(finals[1][name], value, rtol=1e-3, atol=1e-5)


def test_passes_that_do_not_divide_the_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ACCUMULATION_STEPS: expected a divisor of the 4 images"):
        train(make_experiment(tmp_path, accumulation_steps=3), resume=False)
    check_batch_size(12, world_size=2, accumulation_steps=3)
    with pytest.raises(ValueError, match=r"multiple of 2 processes x 4 passes.*got 12"):
        check_batch_size(12, world_size=2, accumulation_steps=4)
    with pytest.raises(ValueError, match=r"ACCUMULATION_STEPS: expected at least 1 pass, got 0"):
        check_batch_size(12, world_size=2, accumulation_steps=0)


def test_learning_rate_follows_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="tcm_d2")
    assert scale_learning_rate(1e-4, batch_size=16, reference_batch_size=0) == 1e-4
    assert scale_learning_rate(1e-4, batch_size=4, reference_batch_size=4) == 1e-4
    assert not caplog.records
    assert scale_learning_rate(1e-4, batch_size=16, reference_batch_size=4) == 4e-4
    assert "0.0001 for batches of 4 becomes 0.0004 for batches of 16" in caplog.text
    with pytest.raises(ValueError, match="REFERENCE_BATCH_SIZE: expected a number of images"):
        scale_learning_rate(1e-4, batch_size=16, reference_batch_size=-4)
