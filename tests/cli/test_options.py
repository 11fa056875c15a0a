"""Options of all tools: one vocabulary, and old words that no help shows."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest

from tcm_d2.cli.options import parse_options

TOOLS_DIR = Path(__file__).resolve().parents[2] / "tools"
OLD_WORDS = {"--out": "--output", "--iou": "--iou-threshold"}
# Each tool's command of earlier releases, and options that its help must not show any more.
OLD_COMMANDS = {
    "evaluate_dota": "--detections a --annotations b --iou 0.7 --output-dir c",
    "merge_results": "--detections a --output-dir b --nms-iou 0.3",
    "lint_submission": "--results a",
    "report": "--results a --labels b --out c --iou 0.7 --score 0.2",
    "visualize_predictions": "--images a --results b --out c --iou 0.7 --score 0.2",
    "visualize_data": "--image-dir a --label-dir b --out c",
    "plot_metrics": "a --out b",
    "validate_dataset": "--image-dir a --label-dir b --out c",
    "split_dota": "--image-dirs a --label-dirs b --out c",
    "convert_checkpoint": "--input a --output b",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--output", required=True)
    made.add_argument("--iou-threshold", type=float)
    made.add_argument("rest", nargs="*")
    return made


def test_old_words_mean_the_new_ones() -> None:
    args = parse_options(parser(), ["--out", "a", "--iou=0.7"], old_words=OLD_WORDS)
    assert args.output == "a" and args.iou_threshold == 0.7


def test_what_stands_behind_two_dashes_is_no_option() -> None:
    args = parse_options(parser(), ["--output", "a", "--", "--out"], old_words=OLD_WORDS)
    assert args.rest == ["--out"]


def test_messages_and_help_know_the_new_words_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(parser(), ["--iou", "x"], old_words=OLD_WORDS)
    assert "argument --iou-threshold: invalid float value" in capsys.readouterr().err
    assert "--out " not in parser().format_help()


@pytest.mark.parametrize("name", OLD_COMMANDS)
def test_commands_of_earlier_releases_work(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location(name, TOOLS_DIR / f"{name}.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    words = OLD_COMMANDS[name].split()
    assert tool.parse_arguments(words) == tool.parse_arguments(
        [tool._OLD_WORDS.get(word, word) for word in words]
    )
    with pytest.raises(SystemExit):
        tool.parse_arguments(["--help"])
    shown = capsys.readouterr().out.replace(",", " ").replace("]", " ").split()
    assert not set(tool._OLD_WORDS) & set(shown)
