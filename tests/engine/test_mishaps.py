"""What ends a run from outside: one sentence, what is kept, what to do; and one run a folder."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from tcm_d2.checkpoint.load import SafeCheckpointer
from tcm_d2.config import load_config
from tcm_d2.config.plain import TARGET_KEY, build
from tcm_d2.engine import command
from tcm_d2.engine.loop import train
from tcm_d2.engine.mishaps import EXIT_INTERRUPTED, WithoutTracebacks, explain
from tcm_d2.engine.non_finite import NonFiniteLossError
from tcm_d2.engine.options import parse_arguments
from tcm_d2.engine.run_folder import prepared_folder
from tcm_d2.files import LOCK_NAME, locked_folder
from tests.conftest import REPO_DIR
from tests.engine.small_detector import write_config
from tests.engine.tiny_run import TinyDetector, make_experiment, map_record

HOLDS_LOCK = """
import sys, time
from tcm_d2.files import locked_folder
with locked_folder(sys.argv[1], what="OUTPUT_DIR"):
    print("locked", flush=True)
    time.sleep(600)
"""


@contextmanager
def _largest_file(num_bytes: int) -> Iterator[None]:
    """Let writes fail as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_bytes", [100, 30_000, 199_000])
def test_disk_full_at_a_checkpoint(tmp_path: Path, num_bytes: int) -> None:
    """torch said "unexpected pos"; the checkpoint before it stays the last one."""
    model = nn.Linear(100, 500)
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000003")
    with (
        _largest_file(num_bytes),
        pytest.raises(OSError, match=r"model_0000007.pth': could not be written .*make room") as e,
    ):
        checkpointer.save("model_0000007")
    assert "unexpected" not in (explain(e.value) or "unexpected")
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000003.pth"]
    checkpointer.load(checkpointer.get_checkpoint_file())


def test_output_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    for name in ("out", "out/below"):
        with (
            pytest.raises(ValueError, match=r"OUTPUT_DIR '.*': expected a folder that this user"),
            prepared_folder(str(tmp_path / name), for_training=True),
        ):
            pass


def test_output_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: Any) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(ValueError, match=r"this user can write in .Permission denied"),
        prepared_folder(str(tmp_path), for_training=True),
    ):
        pass


def test_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    """Until the first one has ended, by kill -9 too."""
    environment = {**os.environ, "PYTHONPATH": str(REPO_DIR)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_LOCK, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == b"locked\n"
    try:
        with (
            pytest.raises(ValueError, match=rf"in use by process {process.pid} on "),
            prepared_folder(str(tmp_path), for_training=True),
        ):
            pass
        with prepared_folder(str(tmp_path), for_training=False):
            pass
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / LOCK_NAME).is_file()
    with prepared_folder(str(tmp_path), for_training=True):
        pass
    assert not (tmp_path / LOCK_NAME).exists()


def test_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked_folder(tmp_path, what="OUTPUT_DIR"):
        raise KeyError
    assert not os.listdir(tmp_path)


def test_resume_with_another_optimizer(tmp_path: Path) -> None:
    """It failed in the first step: KeyError 'momentum'."""
    train(make_experiment(tmp_path, max_iter=4), resume=False)
    experiment = make_experiment(tmp_path)
    assert experiment.training is not None
    groups = [{"params": g["params"]} for g in experiment.training.optimizer.param_groups]
    other = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    experiment = replace(experiment, training=replace(experiment.training, optimizer=other))
    with pytest.raises(ValueError, match=r"state does not fit this run .*another optimizer than"):
        train(experiment, resume=True)


def test_resume_with_another_number_of_classes(tmp_path: Path) -> None:
    train(make_experiment(tmp_path, max_iter=4), resume=False)
    model = TinyDetector()
    model.head = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"another shape there: .*head"):
        train(make_experiment(tmp_path, model=model), resume=True)


def test_resume_with_another_backbone(tmp_path: Path) -> None:
    train(make_experiment(tmp_path, max_iter=4), resume=False)
    model = TinyDetector()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match=r"another shape there: backbone"):
        train(make_experiment(tmp_path, model=model), resume=True)


def test_resume_after_the_clock_went_back(tmp_path: Path) -> None:
    """Checkpoints are told apart by their iteration, not by the time of their files."""
    train(make_experiment(tmp_path / "a", max_iter=8), resume=False)
    train(make_experiment(tmp_path / "b", max_iter=4), resume=False)
    for age, path in enumerate(sorted((tmp_path / "b").iterdir())):
        os.utime(path, (10**9 - age, 10**9 - age))
    (tmp_path / "b" / "model_final.pth").unlink()
    train(make_experiment(tmp_path / "b", max_iter=8), resume=True)
    first, second = (
        torch.load(tmp_path / run / "model_final.pth", weights_only=True)["model"] for run in "ab"
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def _map_and_die(record: dict[str, Any]) -> dict[str, Any] | None:
    if record["index"] == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return map_record(record)


def test_killed_loading_process(tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, ConnectionError, EOFError)) as error:
        train(make_experiment(tmp_path, mapper=_map_and_die, num_workers=1), resume=False)
    assert "a data-loading process was killed" in (explain(error.value) or "")


def test_configuration_without_an_argument() -> None:
    with pytest.raises(ValueError, match=r"configuration: .*missing 1 required .*'out_features'"):
        build({TARGET_KEY: nn.Linear, "in_features": 3})


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "stopped by Ctrl-C. No checkpoint had been"),
        (NonFiniteLossError("iteration 3: the loss"), 1, "error: iteration 3: the loss. No check"),
        (OSError(28, "No space left on device"), 1, "No space left on device. No checkpoint"),
        (ValueError("SEED: bad"), 1, "error: SEED: bad (--traceback"),
    ],
)
def test_exit_codes_and_sentences(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(command, "launch", fail)
    arguments = ["--config-file", str(write_config(tmp_path)), "OUTPUT_DIR", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        command.run_command(parse_arguments(arguments))
    # sys.exit with a text prints it and exits with 1.
    text = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert words in text
    assert ended.value.code == code or (code == 1 and isinstance(ended.value.code, str))


def test_one_of_two_processes_ends_in_a_sentence_too(tmp_path: Path) -> None:
    """It ended in the traceback of both."""
    (tmp_path / "out").write_text("")
    arguments = ["--config-file", str(write_config(tmp_path)), "--num-gpus", "2"]
    with pytest.raises(SystemExit, match=r"^error: OUTPUT_DIR '.*': expected a folder that") as end:
        command.run_command(parse_arguments([*arguments, "OUTPUT_DIR", str(tmp_path / "out")]))
    assert str(end.value).endswith("(--traceback shows where)") and "\n" not in str(end.value)


def test_a_bug_keeps_its_traceback() -> None:
    assert explain(RuntimeError("shape mismatch")) is None and explain(KeyError("x")) is None
    for error, shown in ((KeyError("x"), True), (OSError(28, "No space left"), False)):
        info = (type(error), error, None)
        record = logging.LogRecord("a", logging.ERROR, "", 1, "Exception:", None, info)
        assert WithoutTracebacks().filter(record) and bool(record.exc_info) == shown


def test_training_from_the_bundled_detector_says_what_is_missing(tmp_path: Path) -> None:
    """It said that there is no file of this name."""
    overrides = ["MODEL.WEIGHTS", "tcm_atss_embedded", "OUTPUT_DIR", str(tmp_path / "out")]
    cfg = load_config(REPO_DIR / "configs/embedded_tcm_atss.yaml", overrides)
    experiment = replace(
        make_experiment(tmp_path / "out", model=build_model(cfg)), weights="tcm_atss_embedded"
    )
    with pytest.raises(ValueError, match=r"text features as constants.*tools/demo_embedded\.py tr"):
        train(experiment, resume=False)
