"""The files of docs/extend.md, as they stand there: one run of all, and a format that is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, read_blocks

PARTS = ("my_head.py", "my_loss.py", "my_backbone.py", "my_data.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every file that the document shows, by the name in its first line."""
    for block in read_blocks(ROOT / "docs" / "extend.md"):
        if block.text.startswith("# my_"):
            (tmp_path / block.text.splitlines()[0][2:]).write_text(block.text + "\n")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_parts_train_together_and_open_again(folder: Path) -> None:
    imports = [word for part in PARTS for word in ("--import", part)]
    train = (str(ROOT / "tools" / "train_net.py"), *imports)
    output = run(folder, *train, "--config-file", "my_run.yaml")
    assert "SharedTowerHead" in output and "AP of my_rectangles" in output
    copy = (folder / "my_output" / "config.yaml").read_text()
    assert "my_head.SharedTowerHead" in copy and "power: 1.5" in copy
    weights = ("MODEL.WEIGHTS", "my_output/model_final.pth")
    run(folder, *train, "--config-file", "my_run.yaml", "--eval-only", *weights)


def test_the_format_is_found_by_its_content(folder: Path) -> None:
    (folder / "a.pipes").write_text("pipes 1\nship|0|0|40|0|40|20|0|20\n")
    code = (
        "import my_format\n"
        "from tcm_d2.data.formats.content import FileContent\n"
        "from tcm_d2.data.formats.contract import detect_format\n"
        "print(detect_format(FileContent('a.pipes')).name)\n"
    )
    assert run(folder, "-c", code).strip() == "pipes"
