"""Where a model runs."""

from __future__ import annotations

import torch


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return the device; None takes CUDA where there is one, else the CPU.

    A device that is named is never replaced by another: it is there, or it is an error.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected 'cuda', 'cuda:1' or 'cpu', got {device!r}") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        build = "is built without CUDA" if torch.version.cuda is None else "finds no GPU or driver"
        raise ValueError(
            f"device: {device!r} asked for, but torch {torch.__version__} {build}; leave device "
            "out or use device='cpu' (nvidia-smi shows whether the driver sees a GPU)"
        )
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: {device!r} asked for, but there are {torch.cuda.device_count()} GPUs, "
            "counted from 0"
        )
    return place
