from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from tcm_d2.engine.trained import load_trained
from tests.engine.small_detector import small_config, write_config


def test_model_gets_the_file_s_weights(tmp_path: Path) -> None:
    source = build_model(small_config(tmp_path))
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    model, plan = load_trained(tmp_path / "small.yaml", tmp_path / "w.pth", ["SEED", "3"])
    assert not model.training and plan.seed == 3
    mine, theirs = model.state_dict(), source.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_files_that_lack_parameters_are_refused(tmp_path: Path) -> None:
    state = build_model(small_config(tmp_path)).state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("head.")}
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="head"):
        load_trained(write_config(tmp_path), tmp_path / "w.pth", [])
