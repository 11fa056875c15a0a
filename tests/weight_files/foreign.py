"""Files as other programs write them: mmengine's objects beside the tensors, and attacks."""

from __future__ import annotations

import datetime
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BUFFER_MODULE = "mmengine.logging.history_buffer"


class RunsCommand:
    """Unpickling this runs a command that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@contextmanager
def history_buffer_class() -> Iterator[type]:
    """Give a class of mmengine's name that can be pickled, and take its module away again."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self.history = np.arange(3.0)
            self.methods = {"mean": HistoryBuffer.mean, "min": HistoryBuffer.min}

        def mean(self) -> float:
            return 0.0

        def min(self) -> float:
            return 0.0

    for member in (HistoryBuffer, HistoryBuffer.mean, HistoryBuffer.min):
        member.__module__ = BUFFER_MODULE
        member.__qualname__ = member.__qualname__.split("<locals>.")[1]
    parts = BUFFER_MODULE.split(".")
    names = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    modules = {name: types.ModuleType(name) for name in names}
    modules[BUFFER_MODULE].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    assert not modules.keys() & sys.modules.keys()
    sys.modules.update(modules)
    try:
        yield HistoryBuffer
    finally:
        for name in names:
            del sys.modules[name]


def save_as_mmengine(
    state_dict: dict[str, Tensor],
    path: Path,
    *,
    old_format: bool = False,
    config_text: str | None = None,
    classes: tuple[str, ...] = ("plane", "ship"),
) -> None:
    """Write a checkpoint as mmengine's runner does, EMA weights and log buffers included."""
    with history_buffer_class() as make_buffer:
        content = {
            "meta": {
                "epoch": 12,
                "time": datetime.datetime(2023, 3, 1),
                "dataset_meta": {"classes": classes, "palette": [(1, 2, 3)]},
                "seed": np.int64(5),
                **({} if config_text is None else {"cfg": config_text}),
            },
            "state_dict": state_dict,
            "message_hub": {
                "log_scalars": {"train/loss": make_buffer(), "train/lr": make_buffer()},
                "runtime_info": {"max_iters": 100, "best": np.float32(0.5)},
            },
            "ema_state_dict": {f"module.{name}": t + 1 for name, t in state_dict.items()},
            "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        }
        torch.save(content, path, _use_new_zipfile_serialization=not old_format)
