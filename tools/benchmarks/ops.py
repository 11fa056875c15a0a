"""Time the rotated operators on this machine: compiled kernels beside the plain-torch twins.

    python tools/benchmark.py ops [--num-boxes 1000 4000] [--device cpu] [--json times.json]

Boxes are drawn like objects on a 1024-px patch, so that few of the pairs overlap. Each time is the
median of the repeats, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tcm_d2.ops import box_iou_rotated, extension_status, nms_rotated, paired_iou_rotated, reference

PATCH_SIZE_PX = 1024
IOU_THRESHOLD = 0.1
MAX_TWIN_BOXES = 2000  # beyond it the twins take many seconds


def make_boxes(num_boxes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return seeded boxes (num_boxes, 5) and scores (num_boxes,)."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(num_boxes, 6, generator=generator)
    width = 8 + 56 * draws[:, 2] ** 2
    height = width * (0.2 + 0.8 * draws[:, 3])
    centres = PATCH_SIZE_PX * draws[:, :2]
    angle_deg = 180 * draws[:, 4:5] - 90
    boxes = torch.cat([centres, width[:, None], height[:, None], angle_deg], dim=1)
    return boxes.to(device), draws[:, 5].to(device)


def time_ms(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median time of a call in milliseconds, after one call to warm up."""
    times = []
    for repeat in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def benchmark(num_boxes: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Return times in milliseconds by operator; "(twin)" marks the plain-torch versions."""
    boxes, scores = make_boxes(num_boxes, device)
    moved = boxes + boxes.new_tensor([2.0, 1.0, 3.0, 2.0, 5.0])
    calls: dict[str, Callable[[], object]] = {
        "box_iou_rotated": lambda: box_iou_rotated(boxes, moved),
        "paired_iou_rotated": lambda: paired_iou_rotated(boxes, moved),
        "nms_rotated": lambda: nms_rotated(boxes, scores, IOU_THRESHOLD),
    }
    if num_boxes <= MAX_TWIN_BOXES:
        calls |= {
            "box_iou_rotated (twin)": lambda: reference.box_iou_rotated(boxes, moved, False),
            "paired_iou_rotated (twin)": lambda: reference.paired_iou_rotated(boxes, moved),
        }
    return {name: time_ms(call, device, repeats) for name, call in calls.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare this suite's options."""
    parser.add_argument("--num-boxes", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the times here")


def run(args: argparse.Namespace) -> int:
    """Run the suite, print its table and return the exit status."""
    device = torch.device(args.device)
    status = extension_status()
    kernels = status.cuda if device.type == "cuda" else status.cpu
    print(f"device {device}, compiled kernels: {'yes' if kernels else 'no, ' + status.reason}")
    results = {}
    for num_boxes in args.num_boxes:
        results[num_boxes] = benchmark(num_boxes, device, args.repeats)
        for name, milliseconds in results[num_boxes].items():
            print(f"{num_boxes:>7} boxes  {name:<26} {milliseconds:10.2f} ms", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps({"device": str(device), "times_ms": results}, indent=2))
    return 0
