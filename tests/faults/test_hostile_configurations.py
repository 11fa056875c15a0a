"""Configurations of strangers: what would unfold without end is refused at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tcm_d2.config import load_config
from tests.faults.hostile_rasters import measure


def _read(path: Path) -> str:
    try:
        load_config(path)
    except (ValueError, FileNotFoundError) as error:
        assert path.name in str(error), error
        return str(error)
    return "read"


def _aliases(template: str, *, levels: int = 9, width: int = 9) -> str:
    """Return lines that each name the line before several times: width ** levels values."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        names = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} " + template.format(names))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_aliases("[{}]"), "unfold to more than"),
        (_aliases("{{<<: [{}]}}"), "unfold to more than"),
        ("MODEL: &a [*a]", "inside its own anchor"),
        ("MODEL: " + "[" * 5000, "not a YAML file"),
        ("MODEL: " + "[" * 150 + "]" * 150, "levels of values"),
        ("A: 2001-99-99", "not a YAML file"),
        ("A: " + "1" * 5000, "not a YAML file"),
        ("A: \x00", "not a YAML file"),
        ("#" * (2**20 + 1), "bytes"),
    ],
    ids=["aliases", "merged", "itself", "open", "deep", "date", "number", "zero", "long"],
)
def test_texts_that_unfold_are_refused_soon(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    outcome, seconds, memory_mb = measure(path, _read)
    assert message in outcome and seconds < 10 and memory_mb < 100


def test_fan_of_bases_is_refused_soon(tmp_path: Path) -> None:
    """Each of 12 files names the next one ten times."""
    for level in range(12):
        base = "" if level == 11 else f"_BASE_: [{', '.join([f'c{level + 1}.yaml'] * 10)}]"
        (tmp_path / f"c{level}.yaml").write_text(base)
    outcome, seconds, _ = measure(tmp_path / "c0.yaml", _read)
    assert "expected at most 64 files" in outcome and seconds < 10


def test_pipe_and_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    for path in (tmp_path / "c.yaml", Path("/dev/zero")):
        with pytest.raises(FileNotFoundError, match="expected a file, got a folder, pipe or"):
            load_config(path)


def test_ordinary_aliases_and_bases_work(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {BASE_LR: 0.5}")
    (tmp_path / "c.yaml").write_text(
        "_BASE_: [base.yaml, base.yaml]\nDATASETS: {TRAIN: &names [a, b], TEST: *names}"
    )
    cfg = load_config(tmp_path / "c.yaml")
    assert cfg.SOLVER.BASE_LR == 0.5 and cfg.DATASETS.TRAIN == cfg.DATASETS.TEST == ("a", "b")
