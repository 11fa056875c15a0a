"""Measure time and memory of detection in large images, each in a process of its own.

    python tools/benchmark.py large_image [--sides 2000 5000 10000 20000] [--layouts tiled strips]

"Beside the model" is the peak of the process less what it held before the scene was opened (with
--model small: after a first batch). The stub answers with a hundred boxes per window and takes no
time and no memory, so that the figures are those of reading, cutting and merging alone, and of
reading the overview that the demo draws into (not in the times). Scenes are
written to a temporary folder and deleted. Needs rasterio (tcm_d2[geo]).
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

REPO_DIR = Path(__file__).resolve().parents[1]
CONFIG = REPO_DIR / "configs" / "embedded_tcm_atss.yaml"
LAYOUTS = ("tiled", "strips", "png")
BLOCK_PX = 256
# The stub's boxes are all kept, and few of an untrained head's.
SCORE_THRESHOLD = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 5000, 10000, 20000])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=["tiled"])
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--overlap", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument(
        "--model",
        choices=("small", "stub"),
        default="stub",
        help="the embedded data set's detector, or a stub that answers at once with as many boxes",
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--one", nargs=2, metavar=("FILE", "MODEL"), help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    if args.one is not None:
        print(json.dumps(measure(Path(args.one[0]), args)))
        return 0
    rows = []
    columns = ["side (px)", "layout", "file (MB)", "windows", "detections", "time (s)"]
    columns += ["CPU time (s)", "beside the model (MB)", "process (MB)"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for side in args.sides:
        for layout in args.layouts:
            with tempfile.TemporaryDirectory() as folder:
                scene = Path(folder) / f"scene.{'png' if layout == 'png' else 'tif'}"
                write_scene(scene, (side, side), layout)
                row = {"side_px": side, "layout": layout, **measure_apart(scene, args)}
                row["file_mb"] = scene.stat().st_size / 2**20
            rows.append(row)
            print(
                f"| {side} | {layout} | {row['file_mb']:.0f} | {row['windows']} "
                f"| {row['detections']} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} "
                f"| {row['extra_mb']:.0f} | {row['extra_mb'] + row['model_mb']:.0f} |",
                flush=True,
            )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2))
    return 0


def measure_apart(scene: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one scene, taken in a fresh process."""
    command = [sys.executable, str(REPO_DIR / "tools" / "benchmark.py"), "large_image"]
    command += ["--one", str(scene), args.model, "--window", str(args.window), "--overlap"]
    command += [str(args.overlap), "--batch-size", str(args.batch_size)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return windows, detections, seconds and memory of one scene, in this process."""
    from tcm_d2.inference.large_image import detect_scene, make_windows
    from tcm_d2.inference.rasters import open_scene
    from tcm_d2.inference.results import MAX_PICTURE_SIDE_PX

    detector = make_detector(args)
    detect = stub_windows
    if args.one[1] == "small":
        detect = detector.detect_windows
        detect([np.zeros((args.window, args.window, 3), np.uint8)] * args.batch_size)
    before_mb = peak_mb()
    started, cpu_started = time.perf_counter(), time.process_time()
    with open_scene(path) as scene:
        found = detect_scene(detect, scene, detector.config)
        num_windows = len(make_windows(scene.size_hw, detector.config))
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        # The picture that the demo draws into.
        scene.read_overview(MAX_PICTURE_SIDE_PX)
    return {
        "windows": num_windows,
        "detections": len(found.scores),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "model_mb": before_mb,
        "extra_mb": peak_mb() - before_mb,
    }


def make_detector(args: argparse.Namespace) -> Any:
    """Return the small detector, untrained."""
    from tcm_d2.config import load_config
    from tcm_d2.inference.detector import Detector
    from tcm_d2.inference.large_image import WindowConfig
    from tcm_d2.model_zoo import get

    config = WindowConfig(
        window_px=args.window,
        overlap_px=args.overlap,
        batch_size=args.batch_size,
        score_threshold=SCORE_THRESHOLD,
        nms_iou_threshold=0.1,
        seam_rule="whole",
    )
    classes = load_config(CONFIG).MODEL.TCM.CLASS_NAMES
    return Detector(get(CONFIG.name, device="cpu"), classes=classes, config=config)


def stub_windows(windows: Any) -> Any:
    """Answer with a hundred boxes per window, at places that depend on the pixels."""
    from tcm_d2.structures.detections import BoxDetections

    found = []
    for window in windows:
        rng = np.random.default_rng(int(window[::64, ::64].sum()))
        height, width = window.shape[:2]
        boxes = rng.uniform([0, 0, 8, 8, -90], [width, height, 60, 30, 90], (100, 5))
        found.append(BoxDetections(boxes, rng.uniform(0.1, 0.9, 100), rng.integers(0, 15, 100)))
    return found


def write_scene(path: Path, size_hw: tuple[int, int], layout: str) -> None:
    """Write a georeferenced picture of coloured noise, compressed, strip by strip."""
    import rasterio
    from rasterio.transform import Affine
    from rasterio.windows import Window

    options: dict[str, Any] = {"driver": "GTiff", "compress": "deflate", "zlevel": 1}
    if layout == "tiled":
        options |= {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX}
    target = path if layout != "png" else path.with_suffix(".tif")
    side_h, side_w = size_hw
    rng = np.random.default_rng(side_w)
    with rasterio.open(
        target,
        "w",
        width=side_w,
        height=side_h,
        count=3,
        dtype="uint8",
        crs="EPSG:32633",
        transform=Affine(0.5, 0, 4e5, 0, -0.5, 5.6e6),
        interleave="pixel",
        **options,
    ) as file:
        for top in range(0, side_h, BLOCK_PX):
            height = min(BLOCK_PX, side_h - top)
            coarse = rng.integers(0, 256, (3, height // 16 + 1, side_w // 16 + 1), dtype=np.uint8)
            rows = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :side_w]
            file.write(rows, window=Window(0, top, side_w, height))
    if layout == "png":
        import rasterio.shutil

        rasterio.shutil.copy(target, path, driver="PNG", zlevel=1)
        target.unlink()


def peak_mb() -> float:
    """Return the largest memory that this process has held so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux hands the peak of getrusage down from the parent, which has written the scene.
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
        if match is not None:
            return int(match[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
