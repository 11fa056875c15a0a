"""What the documents say can be done: links lead somewhere, commands parse, examples import."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tcm_d2.cli.main import main
from tcm_d2.config.lazy import load_lazy_config
from tcm_d2.config.loader import load_config
from tests.docs.blocks import ROOT, Block, Command, list_documents, read_blocks, read_commands
from tests.docs.blocks import tool_call as split_tool_call

COMMANDS = [command for path in list_documents() for command in read_commands(path)]
TOOL_CALLS = [(command, call) for command in COMMANDS if (call := split_tool_call(command))]
PYTHON_BLOCKS = [
    block for path in list_documents() for block in read_blocks(path) if block.language == "python"
]
# What examples import that this project neither needs nor installs.
FOREIGN_PACKAGES = {"mlflow", "supervision", "wandb"}


class Parsed(Exception):
    """The tool's arguments were accepted."""


def name_of(value: object) -> str | None:
    if isinstance(value, Command):
        return f"{value.place} {' '.join(value.words)[:60]}"
    return value.place if isinstance(value, Block) else None


@pytest.mark.parametrize("path", list_documents(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [
        target
        for target in targets
        if not re.match(r"\w+:", target) and not (path.parent / target).exists()
    ]
    assert missing == []


def test_documents_have_commands() -> None:
    assert len(TOOL_CALLS) > 20 and len(PYTHON_BLOCKS) > 3


@pytest.mark.parametrize(
    "command, call", TOOL_CALLS, ids=[name_of(command) for command, _ in TOOL_CALLS]
)
def test_tool_accepts_documented_arguments(
    command: Command, call: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, arguments = call
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        parsed = parse(self, *args, **kwargs)
        if getattr(parsed, "suite", None) is not None and script == "benchmark.py":
            return parsed  # type: ignore[return-value]
        raise Parsed(parsed)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    try:
        if script == "tcm-d2":
            assert main(arguments) == 0, f"tcm-d2 refuses {arguments}"
        else:
            runpy.run_path(str(ROOT / "tools" / script), run_name="__main__")
    except Parsed as result:
        check_configuration(vars(result.args[0]))
    except SystemExit as end:
        asked_for_help = {"-h", "--help"} & set(arguments)
        assert asked_for_help and end.code in (0, None), f"{script} refuses {arguments}"


def check_configuration(options: dict[str, Any]) -> None:
    """Read the configuration that a command names, with its overrides."""
    config = options.get("config_file")
    if config is None or not str(config).startswith("configs/"):
        return
    overrides = [word for word in options.get("opts") or [] if word != "--"]
    load = load_lazy_config if str(config).endswith(".py") else load_config
    load(str(ROOT / config), overrides)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {
        word
        for command in COMMANDS
        if command.words[0] == "make"
        for word in command.words[1:]
        if "=" not in word and not word.startswith("-")
    }
    assert asked and asked <= targets


def test_extras_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    words = " ".join(word for command in COMMANDS for word in command.words)
    text = "".join(path.read_text(encoding="utf-8") for path in list_documents()) + words
    extras = set(re.findall(r"(?:\.|tcm_d2)\[([a-z]+)\]", text))
    assert extras <= set(re.findall(r"^(\w+) = \[", table, re.MULTILINE))


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=name_of)
def test_python_example_imports_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in FOREIGN_PACKAGES:
                    importlib.import_module(alias.name)
