from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.data.dota.manifest import read_manifest
from tests.conftest import REPO_DIR

TOOL = REPO_DIR / "tools" / "split_dota.py"


def _command(*arguments: object) -> list[str]:
    return [sys.executable, str(TOOL), *map(str, arguments)]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPO_DIR)}
    return subprocess.run(_command(*arguments), capture_output=True, text=True, env=environment)


def _write_scene(root: Path, num_images: int, size_px: int) -> list[object]:
    for folder in ("images", "labelTxt"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (size_px, size_px, 3), dtype=np.uint8)
    for index in range(num_images):
        assert cv2.imwrite(str(root / "images" / f"P{index:04d}.png"), image)
        line = f"{index + 1} 5 60 5 60 40 {index + 1} 40 ship 0\n"
        (root / "labelTxt" / f"P{index:04d}.txt").write_text(line)
    return ["--images", root / "images", "--labels", root / "labelTxt"]


def _tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_splits_counts_and_goes_on(tmp_path: Path) -> None:
    source = _write_scene(tmp_path / "source", 3, 150)
    options = ["--size", 100, "--gap", 20, "--output", tmp_path / "out", "--workers", 1]
    planned = _run(*source, *options, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "would make 12 patches of 3 images" in planned.stdout
    assert not (tmp_path / "out").exists()
    assert "made 12 patches of 3 images (0 were" in _run(*source, *options).stdout
    assert "made 12 patches of 3 images (3 were" in _run(*source, *options).stdout
    refused = _run(*source, *options, "--rates", 1, 2)
    assert refused.returncode == 1
    assert "other settings (rates [1.0] -> [1.0, 2.0])" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --labels, or --no-labels"),
        (["--labels", "a", "b"], "expected 1 folders, one for each of --images, got 2"),
        (["--no-labels", "--labels", "a"], "give --labels, or --no-labels"),
        (["--no-labels", "--gap", "2000"], "gap_px: expected 0 <= gap < patch size 1024, got 2000"),
        (["--no-labels"], "image folder nowhere: expected a folder with images"),
    ],
)
def test_wrong_command_lines_get_one_sentence(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = _run("--images", "nowhere", "--output", tmp_path / "out", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_killed_split_goes_on_with_the_same_command(tmp_path: Path) -> None:
    source = _write_scene(tmp_path / "source", 24, 700)
    options = ["--size", 200, "--gap", 20, "--workers", 2, "--quiet"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert _run(*source, *options, "--output", whole).returncode == 0
    process = subprocess.Popen(
        _command(*source, *options, "--output", out),
        env={**os.environ, "PYTHONPATH": str(REPO_DIR)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    partial = out / "manifest.partial.jsonl"
    deadline = time.monotonic() + 60
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):  # already done
        os.killpg(process.pid, signal.SIGKILL)  # the workers, too
    process.wait()
    if (out / "manifest.jsonl").exists():
        pytest.skip("the split was done before it could be killed")
    result = _run(*source, *options, "--output", out)
    assert result.returncode == 0, result.stderr
    resumed = int(result.stdout.split("(")[1].split()[0])
    assert 0 < resumed < 24
    assert _tree(out) == _tree(whole)
    assert len(read_manifest(out / "manifest.jsonl")) == 24 * 16


def test_bad_files_are_named(tmp_path: Path) -> None:
    source = _write_scene(tmp_path / "source", 3, 64)
    (tmp_path / "source" / "labelTxt" / "P0001.txt").write_text("1 2 3 4 5 6 7 ship 0\n")
    (tmp_path / "source" / "images" / "P0002.png").write_bytes(b"\x89PNG")
    options = ["--output", tmp_path / "out", "--quiet", "--workers", 2]
    result = _run(*source, *options)
    assert result.returncode == 1
    assert "P0001.txt:1: expected 8 numbers" in result.stderr or "P0002.png" in result.stderr
    result = _run(*source, *options, "--on-error", "skip", "--on-bad-image", "skip")
    assert result.returncode == 0, result.stderr
    assert "left out: 1 x unreadable image" in result.stdout
    assert "1 x not a number" in result.stdout
    settings = json.loads((tmp_path / "out" / "split_settings.json").read_text())
    assert settings["patch_size_px"] == 1024
