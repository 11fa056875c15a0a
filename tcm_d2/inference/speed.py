"""The one way from the library to the folder that makes it fast, `tcm_d2.cpu`.

Without that folder, and with the environment variable TCM_D2_ACCELERATE=0, everything here does
nothing and networks run as they are written.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from torch import nn

ANNEX = "tcm_d2.cpu"


def make_fast(network: nn.Module) -> None:
    """Put fast modules in the place of plain ones if it is on the CPU, in place.

    See `tcm_d2.cpu.accelerate`.
    """
    annex = _annex()
    if annex is not None and all(p.device.type == "cpu" for p in network.parameters()):
        annex.accelerate(network)


def keep_memory(device: str | torch.device) -> None:
    """Let this process keep freed memory if it computes on the CPU; for programs, not libraries.

    See `tcm_d2.cpu.keep_freed_memory`.
    """
    annex = _annex()
    if annex is not None and torch.device(device).type == "cpu":
        annex.keep_freed_memory()


def _annex() -> Any:
    if os.environ.get("TCM_D2_ACCELERATE") == "0":
        return None
    try:
        return importlib.import_module(ANNEX)
    except ModuleNotFoundError as error:
        if error.name != ANNEX:
            raise
        return None
