"""The benchmark runs and reports a time for each operator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"


def test_benchmark_reports_every_operator(tmp_path: Path) -> None:
    output = tmp_path / "times.json"
    arguments = [
        "ops",
        "--num-boxes",
        "20",
        "--repeats",
        "1",
        "--device",
        "cpu",
        "--json",
        str(output),
    ]
    result = subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    times = json.loads(output.read_text())["times_ms"]["20"]
    assert {"box_iou_rotated", "paired_iou_rotated", "nms_rotated"} <= set(times)
    assert all(milliseconds > 0 for milliseconds in times.values())
