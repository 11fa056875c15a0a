"""A scene of 30,000 x 20,000 px, killed in the middle and resumed, as TIFF and as PNG.

    python -m tests.faults.large_scene [--size 30000 20000] [--layouts tiled png]

Each run is a process of its own, with a stub in the model's place that answers with 100 boxes per
window: the figures are those of reading, cutting, saving and merging. The killed run gets SIGKILL
when two fifths of the windows are done; the next one goes on, and both must find the same to the
bit. Exit status 1 where they do not. Needs rasterio (tcm_d2[geo]).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.large_image import LAYOUTS, peak_mb, stub_windows, write_scene
from tcm_d2.inference import large_image
from tcm_d2.inference.large_image import ResumeFile, WindowConfig, detect_scene, make_windows
from tcm_d2.inference.rasters import open_scene

CONFIG = WindowConfig(
    window_px=1024,
    overlap_px=256,
    batch_size=4,
    score_threshold=0.1,
    nms_iou_threshold=0.1,
    seam_rule="whole",
)
KILLED_AT = 0.4
SAVE_EVERY_S = 0.2


def detect(path: Path, resume: Path) -> None:
    """Detect in a scene, print a line for each batch, and at the end the figures."""
    large_image.SAVE_EVERY_S = SAVE_EVERY_S
    before_mb, started, num_seen = peak_mb(), time.perf_counter(), 0

    def counting(windows: Any) -> Any:
        nonlocal num_seen
        num_seen += len(windows)
        print(f"windows {num_seen}", flush=True)
        return stub_windows(windows)

    with open_scene(path) as scene:
        num_windows = len(make_windows(scene.size_hw, CONFIG))
        print(f"of {num_windows}", flush=True)
        found = detect_scene(counting, scene, CONFIG, resume=ResumeFile(resume, "the same"))
        scene.read_overview(4096)
    content = b"".join(part.tobytes() for part in (found.boxes, found.scores, found.class_ids))
    figures = {
        "windows": num_windows,
        "seen": num_seen,
        "detections": len(found.scores),
        "hash": hashlib.sha256(content).hexdigest(),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time(),
        "extra_mb": peak_mb() - before_mb,
    }
    print(json.dumps(figures), flush=True)


def run_apart(path: Path, resume: Path, *, kill_at: float | None = None) -> dict[str, Any]:
    """Return the figures of one run; of a killed one the windows that it had seen."""
    command = [sys.executable, "-m", "tests.faults.large_scene", "--one", str(path), str(resume)]
    num_windows, num_seen, last = 0, 0, ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            last = line
            if line.startswith("of "):
                num_windows = int(line.split()[1])
            elif line.startswith("windows "):
                num_seen = int(line.split()[1])
                if kill_at is not None and num_seen >= kill_at * num_windows:
                    child.send_signal(signal.SIGKILL)
                    break
    if kill_at is not None:
        return {"windows": num_windows, "seen": num_seen}
    figures: dict[str, Any] = json.loads(last)
    return figures


def main() -> int:
    """Run the layouts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[30_000, 20_000], metavar=("W", "H"))
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=["tiled", "png"])
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        detect(*args.one)
        return 0
    width, height = args.size
    is_equal = True
    print("| layout | file (MB) | run | windows seen | time (s) | CPU (s) | memory (MB) |")
    print("|---|---|---|---|---|---|---|")
    for layout in args.layouts:
        with tempfile.TemporaryDirectory() as folder:
            scene = Path(folder) / f"scene.{'png' if layout == 'png' else 'tif'}"
            write_scene(scene, (height, width), layout)
            resume = Path(folder) / "partial.npz"
            whole = run_apart(scene, Path(folder) / "none.npz")
            killed = run_apart(scene, resume, kill_at=KILLED_AT)
            resumed = run_apart(scene, resume)
            for name, row in (("whole", whole), ("resumed", resumed)):
                print(
                    f"| {layout} | {scene.stat().st_size / 2**20:.0f} | {name} | {row['seen']} of "
                    f"{row['windows']} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} "
                    f"| {row['extra_mb']:.0f} |",
                    flush=True,
                )
            same = whole["hash"] == resumed["hash"] and resumed["seen"] < whole["seen"]
            is_equal &= same
            print(
                f"{layout}: killed after {killed['seen']} windows; the same {whole['detections']} "
                f"detections to the bit: {same}",
                flush=True,
            )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
