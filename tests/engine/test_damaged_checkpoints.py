"""Checkpoints are verified before use; a resumed run falls back to the newest whole one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tcm_d2.engine.loop import train
from tests.engine.tiny_run import DiesAt, make_experiment


def _break(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(content)


def test_damaged_checkpoint_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest whole one is taken; a final model with NaN came of the damaged one."""
    train(make_experiment(tmp_path / "whole"), resume=False)
    with pytest.raises(KeyboardInterrupt):
        train(make_experiment(tmp_path / "cut", period=2, mapper=DiesAt(26)), resume=False)
    assert (tmp_path / "cut/last_checkpoint").read_text() == "model_0000005.pth"
    _break(tmp_path / "cut/model_0000005.pth")
    # Of an earlier run in this folder, newer than the last checkpoint of this one.
    shutil.copy(tmp_path / "whole/model_final.pth", tmp_path / "cut/model_0000099.pth")
    train(make_experiment(tmp_path / "cut", period=2), resume=True)
    assert "checkpoint passed over: weights" in caplog.text
    assert "model_0000003.pth, the newest whole checkpoint" in caplog.text
    whole, cut = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"]
        for name in ("whole", "cut")
    )
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_no_whole_checkpoint_stops_the_run(tmp_path: Path) -> None:
    train(make_experiment(tmp_path), resume=False)
    for path in tmp_path.glob("model_*.pth"):
        _break(path)
    with pytest.raises(ValueError, match=r"no whole checkpoint to resume from .*--resume"):
        train(make_experiment(tmp_path), resume=True)


@pytest.mark.parametrize(
    "name", ["../model_0000001.pth", "/etc/passwd", "a\0b", "model_0000009.pth"]
)
def test_last_checkpoint_does_not_lead_out_of_its_folder(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that leads out, or of a file that is gone: the newest checkpoint of the folder."""
    train(make_experiment(tmp_path), resume=False)
    (tmp_path / "last_checkpoint").write_text(name)
    train(make_experiment(tmp_path, max_iter=9), resume=True)
    assert "model_0000007.pth" in caplog.text or "names no checkpoint" in caplog.text


def test_weights_with_nan_are_refused(tmp_path: Path) -> None:
    state = make_experiment(tmp_path).model.state_dict()
    state["head.weight"][0, 0] = float("nan")
    torch.save({"model": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 tensors hold NaN, like head\.weight"):
        train(make_experiment(tmp_path, weights=str(tmp_path / "w.pth")), resume=False)


def test_killed_just_before_the_final_model(tmp_path: Path) -> None:
    """After the checkpoint of the last iteration nothing was left to do, and no final written."""
    train(make_experiment(tmp_path), resume=False)
    expected = torch.load(tmp_path / "model_final.pth", weights_only=True)
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    train(make_experiment(tmp_path), resume=True)
    got = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert expected.keys() == got.keys() and got["iteration"] == 7
    assert all(torch.equal(value, got["model"][name]) for name, value in expected["model"].items())
