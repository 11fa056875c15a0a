"""The evaluation suite runs on a tiny set: both ways agree, and the set is the same each time."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPO_DIR

SIZES = {"images": 6, "objects": 90, "detections": 240, "patch-detections": 200}


def test_suite_runs_and_agrees_with_its_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(REPO_DIR / "tools"))
    suite = importlib.import_module("benchmarks.evaluation")
    parser = argparse.ArgumentParser()
    suite.add_arguments(parser)
    out = tmp_path / "times.json"
    sizes = [text for name, size in SIZES.items() for text in (f"--{name}", str(size))]
    more = ["--repeats", "1", "--threads", "1", "--clock", "cpu", "--json", str(out)]
    assert suite.run(parser.parse_args([*sizes, *more])) == 0
    printed = capsys.readouterr().out
    counts = printed.split("rows after merging ")[1].split(" and ")
    assert int(counts[0]) == int(counts[1]) > 50
    times = json.loads(out.read_text())["times"]
    assert all(entry["ours_s"] >= 0 for entry in times.values()) and len(times) == 7


def test_sets_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO_DIR / "tools"))
    make = importlib.import_module("benchmarks._evaluation_set").make_evaluation_set
    sizes = {f"num_{name.replace('-', '_')}": size for name, size in SIZES.items()}
    one, two, other = (make(**sizes, seed=seed) for seed in (0, 0, 1))
    for first, second, third in zip(one.detections, two.detections, other.detections):
        np.testing.assert_array_equal(first.quads, second.quads)
        assert not np.array_equal(first.quads, third.quads)
    assert sum(len(part.scores) for part in one.detections) == SIZES["detections"]
    assert sum(len(part.difficult) for part in one.ground_truths) == SIZES["objects"]
    assert len(one.patch_detections.found) == SIZES["patch-detections"]
