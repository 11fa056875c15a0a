"""What the suites share: the unit R, interleaved timing, peak memory."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision

# R: one forward pass of torchvision's ResNet-50, float32, evaluation, one image of this side.
REFERENCE_SIDE_PX = 1024


class Times(NamedTuple):
    """The best of several calls, in seconds.

    Attributes:
        wall: by the clock.
        cpu: of all threads together; with waiting threads asleep it hardly depends on what else
            the machine does, so that ratios of it are the steadier ones. On CUDA it says little.
    """

    wall: float
    cpu: float

    def over(self, unit: Times) -> Times:
        """Return both as multiples of another's."""
        return Times(self.wall / unit.wall, self.cpu / unit.cpu)


def sleep_while_waiting() -> None:
    """Let OpenMP's idle threads sleep; only before torch starts them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def make_reference_call(device: torch.device) -> Callable[[], object]:
    """Return the call whose time is R."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval().to(device)
    images = torch.randn(1, 3, REFERENCE_SIDE_PX, REFERENCE_SIDE_PX, device=device)

    def call() -> object:
        with torch.inference_mode():
            return network(images)

    return call


def race(
    calls: dict[str, Callable[[], object]], *, device: torch.device, repeats: int
) -> dict[str, Times]:
    """Return the best times of each call; the calls take turns, after one round to warm up."""
    best: dict[str, Times] = {}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            synchronize(device)
            times = Times(time.perf_counter() - wall, time.process_time() - cpu)
            if repeat:
                known = best.get(name, times)
                best[name] = Times(min(known.wall, times.wall), min(known.cpu, times.cpu))
    return best


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory that this process (on CUDA: its tensors) has had, in GB (1e9)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
