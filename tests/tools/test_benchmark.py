"""The benchmark runs and reports a time for each operator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark.py"


def test_benchmark_reports_every_operator(tmp_path: Path) -> None:
    output = tmp_path / "times.json"
    arguments = ["ops", "--share", "0.001", "--repeats", "1", "--device", "cpu"]
    result = subprocess.run(
        [sys.executable, str(TOOL), *arguments, "--json", str(output)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(output.read_text())["results"]
    names = " ".join(row["name"] for row in rows)
    assert all(work in names for work in ("IoU 40 x 40", "pairs", "gradient", "NMS 200 boxes"))
    assert all(min(times) > 0 for row in rows for times in row["times_s"].values())
    # What all find in common is told below the table.
    assert "a call an image: the same" in result.stdout
