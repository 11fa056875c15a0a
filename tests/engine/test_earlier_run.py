"""A folder that holds a run is not trained into by accident."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tcm_d2.config.run import open_config, run_from_cfg
from tcm_d2.engine import command, main
from tcm_d2.engine.loop import train
from tcm_d2.engine.run_folder import refuse_earlier_run, setup_run
from tests.engine.small_detector import small_config, write_config
from tests.engine.tiny_run import make_experiment


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    """It was: model_final.pth of the first run was gone."""
    train(make_experiment(tmp_path), resume=False)
    before = (tmp_path / "model_final.pth").read_bytes()
    with pytest.raises(ValueError, match=r"holds a run \(model_0000003\.pth.*--resume .*--overwr"):
        train(make_experiment(tmp_path, seed=4), resume=False)
    assert (tmp_path / "model_final.pth").read_bytes() == before


def test_overwrite_says_what_it_removes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(make_experiment(tmp_path, period=2), resume=False)
    for name in ("notes.txt", "inference/val/ap.json", "model_of_a_friend.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("kept")
    train(make_experiment(tmp_path, seed=4), resume=False, overwrite=True)
    for name in ("model_0000001.pth", "model_final.pth", "metrics.json", "events.out.tfevents"):
        assert f"--overwrite: removing {tmp_path / name}" in caplog.text
    for name in ("notes.txt", "inference/val/ap.json", "model_of_a_friend.pth"):
        assert (tmp_path / name).read_text() == "kept" and name not in caplog.text
    assert {p.name for p in tmp_path.glob("model_*.pth")} == {
        "model_of_a_friend.pth",
        "model_0000003.pth",
        "model_0000007.pth",
        "model_final.pth",
    }
    assert (tmp_path / "metrics.json").read_text().count("\n") == 8
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_nothing_is_removed_before_the_weights_are_read(tmp_path: Path) -> None:
    train(make_experiment(tmp_path), resume=False)
    final = tmp_path / "model_final.pth"
    for weights, error in (("nowhere.pth", FileNotFoundError), (str(final), ValueError)):
        with pytest.raises(error, match=weights):
            experiment = make_experiment(tmp_path, weights=weights)
            train(experiment, resume=False, overwrite=True)
        assert final.is_file() and (tmp_path / "metrics.json").is_file()


def test_what_is_not_a_run_is_no_obstacle(tmp_path: Path) -> None:
    for name in ("config.yaml", "log.txt", "model.pth", "events.out.tfevents.1"):
        (tmp_path / name).write_text("")
    refuse_earlier_run(tmp_path)
    refuse_earlier_run(tmp_path / "nowhere")


def test_the_command_refuses_before_it_builds_and_keeps_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = write_config(tmp_path), tmp_path / "out"
    out.mkdir()
    torch.save({}, out / "model_final.pth")
    (out / "config.yaml").write_text("of the first run")
    monkeypatch.setattr(command, "build_experiment", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(SystemExit, match=r"OUTPUT_DIR .* holds a run \(model_final\.pth\)"):
        main(["--config-file", str(config), "OUTPUT_DIR", str(out)])
    assert (out / "config.yaml").read_text() == "of the first run"


def test_an_evaluation_keeps_the_configuration_of_the_training(tmp_path: Path) -> None:
    """It replaced the copy in the folder of the run with its own."""
    first = run_from_cfg(small_config(tmp_path))
    copies = []
    for for_training, seed in ((True, 1), (False, 2), (True, 3)):
        train_settings = replace(first.train, seed=seed, output_dir=str(tmp_path / "out"))
        setup_run(replace(first, train=train_settings), "command", for_training=for_training)
        copies.append(open_config(tmp_path / "out/config.yaml").train.seed)
    assert copies == [1, 1, 3]
