"""How many operations an image takes, part by part, and how fast this machine could do them."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._detectors import make_detector, make_inputs, run_head
from benchmarks._measuring import Times, make_reference_call, race

PARTS = ("backbone", "attention_pool", "text_encoder", "tcm", "neck", "head")
# The convolution whose rate is the limit: the one that most of the operations are in.
PEAK_CHANNELS, PEAK_SIDE = 256, 128
REPEATS = 5


def count_operations(model: nn.Module, side_px: int) -> dict[str, int]:
    """Return the multiplications of each part for one image, in evaluation.

    The text encoder's are once for all images. Counted on the "meta" device, which computes
    nothing, so that it takes no time; the model is not changed.
    """
    model = copy.deepcopy(model).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run_head(model, make_inputs(1, side_px))
    counts = counter.get_flop_counts()
    operations = {}
    for part in PARTS:
        # The counter knows parts by their class, since the detector itself is not called.
        flops = sum(counts.get(type(getattr(model, part)).__name__, {}).values())
        if flops:
            operations[part] = flops // 2
    return operations


def measure_peak(device: torch.device) -> dict[str, float]:
    """Return the best measured rates of a 3x3 convolution, in multiply-adds per second.

    On the CPU the seconds are of CPU time: the rate of one core.
    """
    images = torch.randn(1, PEAK_CHANNELS, PEAK_SIDE, PEAK_SIDE, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(PEAK_CHANNELS, PEAK_CHANNELS, 3, 3, device=device)
    weight = weight.contiguous(memory_format=torch.channels_last)
    calls = {
        str(dtype).removeprefix("torch."): _convolution(images.to(dtype), weight.to(dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    count = PEAK_CHANNELS**2 * 9 * PEAK_SIDE**2
    times = race(calls, device=device, repeats=REPEATS)
    return {name: count / _seconds(time, device) for name, time in times.items()}


def _seconds(times: Times, device: torch.device) -> float:
    return times.cpu if device.type == "cpu" else times.wall


def _convolution(images: torch.Tensor, weight: torch.Tensor) -> Any:
    def call() -> torch.Tensor:
        with torch.inference_mode():
            return F.conv2d(images, weight, padding=1)

    return call


def print_limits(config: str, side_px: int, device: torch.device) -> list[dict[str, Any]]:
    """Print and return the operations, the measured peak rates and the times they allow."""
    operations = count_operations(make_detector(config, torch.device("cpu")), side_px)
    per_image = sum(count for part, count in operations.items() if part != "text_encoder")
    print(f"\nmultiply-adds of an image of {side_px} px, in 1e9 (text encoder: once)")
    for part, count in operations.items():
        print(f"  {part:<16} {count / 1e9:8.1f}")
    print(f"  {'per image':<16} {per_image / 1e9:8.1f}")
    reference = race({"R": make_reference_call(device)}, device=device, repeats=2)["R"]
    print(f"R: {reference.wall:.3f} s ({reference.cpu:.3f} s of CPU time)")
    rows: list[dict[str, Any]] = [{"operations": operations, "R_seconds": reference.wall}]
    per_core, of_cpu = (" per core", " of CPU time") if device.type == "cpu" else ("", "")
    for name, rate in measure_peak(device).items():
        limit = per_image / rate
        over_reference = limit / _seconds(reference, device)
        rows.append({"dtype": name, "peak": rate, "limit_R": over_reference})
        print(
            f"limit in {name}: {2 * rate / 1e9:.0f} GFLOP/s{per_core} in a 3x3 convolution, "
            f"{limit:.3f} s{of_cpu} = {over_reference:.2f} R"
        )
    return rows
