"""Options of all tools: one vocabulary, and old words that no help shows."""

from __future__ import annotations

import argparse
import importlib

import pytest

from tcm_d2.command_line import parse_options

OLD_WORDS = {"--out": "--output", "--iou": "--iou-threshold"}
# Each tool's command of earlier releases, and options that its help must not show any more.
OLD_COMMANDS = {
    "evaluate": "--detections a --annotations b --iou 0.7 --output-dir c",
    "merge": "--detections a --output-dir b --nms-iou 0.3",
    "lint": "--results a",
    "report": "--results a --labels b --out c --iou 0.7 --score 0.2",
    "draw": "--images a --results b --out c --iou 0.7 --score 0.2",
    "draw_data": "--image-dir a --label-dir b --out c",
    "plot_metrics": "a --out b",
    "validate": "--image-dir a --label-dir b --out c",
    "split": "--image-dirs a --label-dirs b --out c",
    "convert": "--input a --output b",
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
    tool = importlib.import_module(f"tcm_d2.cli.options.{name}")
    words = OLD_COMMANDS[name].split()
    assert tool.parse_arguments(words) == tool.parse_arguments(
        [tool.OLD_WORDS.get(word, word) for word in words]
    )
    with pytest.raises(SystemExit):
        tool.parse_arguments(["--help"])
    shown = capsys.readouterr().out.replace(",", " ").replace("]", " ").split()
    assert not set(tool.OLD_WORDS) & set(shown)
