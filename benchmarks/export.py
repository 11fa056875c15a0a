"""Compare exported ONNX files with the model: largest differences, size, time of an image.

    python tools/benchmark.py export [--size 512] [--heads fcos atss retinanet] [--threads 2]

Each head's published configuration with random weights (seeded, predictors widened so that scores
and boxes vary); onnxruntime on the CPU against the model's own dense part, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from tabulate import tabulate
from torch import nn

from tcm_d2.config.run import open_config
from tcm_d2.export.comparing import compare_outputs
from tcm_d2.export.dense_model import DenseModel
from tcm_d2.export.files import export_metadata, save_onnx, trace

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"
OPSET = 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this suite's options."""
    heads = ["fcos", "atss", "retinanet"]
    parser.add_argument("--heads", nargs="+", choices=heads, default=heads)
    parser.add_argument("--fast", action="store_true", help="FastTCM")
    parser.add_argument("--size", type=int, default=512, help="image side in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)


def run(args: argparse.Namespace) -> int:
    """Print the table and return 0."""
    torch.set_num_threads(args.threads)
    rows = [compare(head, args) for head in args.heads]
    header = ["head", "corners px", "scores", "largest side px", "file MB", "torch ms", "onnx ms"]
    print(f"{args.size} x {args.size} px, {args.threads} threads\n")
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True))
    return 0


def compare(head: str, args: argparse.Namespace) -> tuple[str, ...]:
    """Export one head's model; return its row."""
    torch.manual_seed(0)
    stem = f"tcm_{head}_fast" if args.fast else f"tcm_{head}"
    run = open_config(CONFIG_DIR / f"{stem}.yaml")
    detector = widen_predictors(run.build_model(device="cpu").eval())
    model = DenseModel(detector, kind="dense")
    images = 255 * torch.rand(1, 3, args.size, args.size)
    size_hw = (args.size, args.size)
    metadata = export_metadata(
        model, class_names=run.prompts or (), image_format="RGB", batch_size=1, size_hw=size_hw
    )
    program = trace(model, batch_size=1, size_hw=size_hw, dynamic=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        save_onnx(program, path, metadata, opset=OPSET)
        num_bytes = path.stat().st_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    with torch.no_grad():
        ours = [output.numpy() for output in model(images)]
        theirs = session.run(None, feed)
        times = [[], []]
        for _ in range(args.repeats):
            for kept, function in zip(
                times, (lambda: model(images), lambda: session.run(None, feed)), strict=True
            ):
                kept.append(seconds(function))
    difference = compare_outputs(model.output_names, ours, theirs)
    return (
        stem,
        f"{difference.corners_px:.1e}",
        f"{difference.scores:.1e}",
        f"{ours[0][..., 2:4].max():.0f}",
        f"{num_bytes / 1e6:.0f}",
        *(f"{1e3 * min(kept):.0f}" for kept in times),
    )


@torch.no_grad()
def widen_predictors(detector: nn.Module) -> nn.Module:
    """Return the detector with outputs that vary: untrained ones all look alike."""
    head = detector.head
    nn.init.normal_(head.class_predictor.weight, std=0.1)
    for name in ("distance_predictor", "delta_predictor"):
        if hasattr(head, name):
            nn.init.normal_(getattr(head, name).weight, std=0.02)
    if hasattr(head, "distance_predictor"):
        head.distance_predictor.bias.fill_(2.0)
    detector.tcm.text_scale.fill_(0.5)
    return detector


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
