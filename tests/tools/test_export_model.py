"""The command line of tools/export_model.py."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from tcm_d2.cli import export
from tcm_d2.cli.main import run_command
from tcm_d2.cli.options.export import parse_arguments
from tcm_d2.config.run import open_config
from tcm_d2.export.files import METADATA_FILE
from tests.conftest import REPO_DIR
from tests.engine.small_detector import write_config


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("export")
    config = str(write_config(folder))
    torch.save({"model": open_config(config).build_model().state_dict()}, folder / "w.pth")
    return ["--config-file", config, "--weights", str(folder / "w.pth")]


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2"])
def test_file_is_written_and_compared(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    if name.endswith(".onnx"):
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package, reason="the extra 'export' is not installed")
    output = tmp_path / name
    options = ["--output", str(output), "--size", "64", "96", "--batch-size", "2", "--check"]
    assert run_command("export", [*arguments, *options]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "largest difference from the model: corners" in printed
    assert f"{output}: " in printed and "outputs boxes, class_scores, centerness" in printed


def test_words_are_folded_into_the_file(tmp_path: Path) -> None:
    config, override = str(write_config(tmp_path)), ["MODEL.ROTATED_HEAD.CLASSIFIER", "text"]
    detector = open_config(config, override).build_model()
    torch.save({"model": detector.state_dict()}, tmp_path / "w.pth")
    words = ["wind-turbine", "bus", "plane"]
    arguments = ["--config-file", config, "--weights", str(tmp_path / "w.pth"), "--classes", *words]
    output = tmp_path / "m.pt2"
    assert (
        run_command(
            "export", [*arguments, "--output", str(output), "--size", "64", "64", *override]
        )
        == 0
    )
    extra = {METADATA_FILE: ""}
    program = torch.export.load(output, extra_files=extra).module()
    assert json.loads(extra[METADATA_FILE])["class_names"] == words
    assert program(torch.zeros(1, 3, 64, 64))[1].shape[2] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "m.tflite"], "expected .onnx or .pt2 at the end"),
        (["--output", "m.onnx", "--size", "100", "64"], "positive multiples of 32 px"),
        (["--output", "m.onnx", "MODEL.TCM.BIMODAL_MATCHING", "True"], "1 parameters of the model"),
    ],
)
def test_bad_input_is_answered_in_one_line(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command("export", [*arguments, *more]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_existing_file_is_kept(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"old")
    assert run_command("export", [*arguments, "--output", str(tmp_path / "m.onnx")]) == 1
    assert "exists; --overwrite replaces it" in capsys.readouterr().err
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_check_refuses_another_models_file(arguments: list[str], tmp_path: Path) -> None:
    output = tmp_path / "m.pt2"
    options = ["--output", str(output), "--size", "64", "96", "--batch-size", "2"]
    assert run_command("export", [*arguments, *options]) == 0
    other = open_config(arguments[1]).build_model()
    torch.nn.init.ones_(other.head.class_predictor.bias)
    with pytest.raises(ValueError, match=r"m\.pt2: largest difference .*; allowed are 0\.1 px"):
        export.check(export.DenseModel(other, kind="dense"), output, 2, (64, 96))


def test_commands_of_the_documentation_are_understood() -> None:
    lines = (REPO_DIR / "docs" / "export.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("python tools/export_model.py")]
    assert len(commands) >= 3
    for command in commands:
        args = parse_arguments(shlex.split(command)[2:])
        assert (REPO_DIR / args.config_file).is_file() and not args.opts
        assert args.output.suffix in (".onnx", ".pt2")
