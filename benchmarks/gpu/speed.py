"""Speed on a GPU: operators, inference, a training step; against the limits of the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks._detectors import give_candidates, make_detector, make_inputs
from benchmarks._measuring import peak_memory_gb, synchronize
from tcm_d2 import ops

# Multiply-adds of one 1024-px image in `tcm_fcos`, see MODEL_ZOO.md (tools/analyze_model.py).
MULTIPLY_ADDS = 258.2e9


def operator_speed(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Return pairs and boxes a second of the operators, and what the device multiplies."""
    num = 200 if tiny else 4000
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(25 * num, 5, generator=generator)
    extent = 4000.0
    boxes = torch.stack(
        [
            *(draws[:, :2] * extent).unbind(1),
            8 + 60 * draws[:, 2],
            4 + 30 * draws[:, 3],
            180 * draws[:, 4] - 90,
        ],
        dim=1,
    ).to(device)
    scores = torch.rand(len(boxes), generator=generator).to(device)
    some, many = boxes[:num], boxes[: 10 * num]
    seconds = {
        f"pairwise IoU {num} x {num}": _seconds(lambda: ops.box_iou_rotated(some, some), device),
        f"paired IoU {len(many)}": _seconds(
            lambda: ops.paired_iou_rotated(many, many.roll(1, 0)), device
        ),
        f"NMS {len(many)}": _seconds(
            lambda: ops.nms_rotated(many, scores[: len(many)], 0.1), device
        ),
        f"NMS {len(boxes)}": _seconds(lambda: ops.nms_rotated(boxes, scores, 0.1), device),
    }
    pairs = num * num / seconds[f"pairwise IoU {num} x {num}"]
    return {"seconds": seconds, "pairs_per_second": pairs, "problems": []}


def inference_speed(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Return images a second of `tcm_fcos` in bfloat16 and the share of the arithmetic limit."""
    side_px, batch = (128, 1) if tiny else (1024, 8)
    config = "embedded_tcm_fcos" if tiny else "tcm_fcos"
    model = make_detector(config, device).eval()
    inputs = make_inputs(batch, side_px)
    give_candidates(model, inputs[:1], 0.01)
    rate = multiply_add_rate(device, tiny)

    @torch.inference_mode()
    def run() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            model(inputs)

    seconds = _seconds(run, device)
    images = batch / seconds
    return {
        "images_per_second": images,
        "share_of_arithmetic_limit": images * MULTIPLY_ADDS / rate,
        "bfloat16_multiply_adds_per_second": rate,
        "memory_gb": peak_memory_gb(device),
        "problems": [],
    }


def training_speed(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Return seconds and memory of a training step of `tcm_fcos`, in float32 and bfloat16."""
    side_px, batch = (128, 1) if tiny else (1024, 4)
    config = "embedded_tcm_fcos" if tiny else "tcm_fcos"
    found: dict[str, Any] = {"problems": []}
    for dtype in (torch.float32, torch.bfloat16):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        model = make_detector(config, device).train()
        inputs = make_inputs(batch, side_px, num_objects=100)

        def step(model: Any = model, inputs: Any = inputs, dtype: torch.dtype = dtype) -> None:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                losses = model(inputs)
            sum(losses.values()).backward()
            model.zero_grad()

        found[f"{dtype}, batch {batch}, s"] = _seconds(step, device)
        found[f"{dtype}, batch {batch}, GB"] = peak_memory_gb(device)
        del model, step
    return found


def multiply_add_rate(device: torch.device, tiny: bool) -> float:
    """Return multiply-adds a second of a large bfloat16 matrix product."""
    side = 256 if tiny else 8192
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return side**3 / _seconds(lambda: a @ a, device)


def _seconds(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Return the best time of a call, after one to warm up."""
    best = float("inf")
    for repeat in range(repeats + 1):
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        if repeat:
            best = min(best, time.perf_counter() - started)
    return best


STEPS = {
    "speed-operators": operator_speed,
    "speed-inference": inference_speed,
    "speed-training": training_speed,
}
