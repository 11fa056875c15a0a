"""What the processes of the launcher's tests run; quick to import for a fresh interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import time
from functools import partial
from pathlib import Path

import torch
from detectron2.utils import comm
from torch import nn


def train_tiny(folder: str) -> None:
    from tcm_d2.engine.loop import train
    from tests.engine.tiny_run import TinyDetector, make_experiment

    torch.set_num_threads(1)
    torch.manual_seed(0)
    # Without dropout and batch statistics, one process and two compute the same.
    model = TinyDetector(dropout=0.0)
    model.backbone[1] = nn.Identity()
    train(make_experiment(Path(folder), model=model, max_iter=6), resume=False)


def train_in_passes(folder: str, accumulation_steps: int) -> None:
    from tcm_d2.engine.loop import train
    from tests.engine.tiny_run import TinyDetector, make_experiment

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = TinyDetector(dropout=0.5)
    train(
        make_experiment(
            Path(folder), model=model, max_iter=6, accumulation_steps=accumulation_steps
        ),
        resume=False,
    )


def train_with_nan(folder: str, on_non_finite: str) -> None:
    """Train where image 7 has no finite loss; leave the weights or the error of each process."""
    from tcm_d2.engine.loop import train
    from tcm_d2.engine.non_finite import NonFiniteLossError
    from tests.engine.tiny_run import make_experiment, map_record

    torch.set_num_threads(1)
    mapper = partial(map_record, nan_index=7)
    experiment = make_experiment(Path(folder), mapper=mapper, on_non_finite=on_non_finite)
    try:
        train(experiment, resume=False)
    except NonFiniteLossError as error:
        Path(folder, f"error{comm.get_rank()}").write_text(str(error))
        raise
    data = b"".join(p.detach().numpy().tobytes() for p in experiment.model.parameters())
    path = Path(folder, f"parameters{comm.get_rank()}")
    path.write_text(hashlib.sha256(data).hexdigest())


def write_place(folder: str) -> None:
    facts = [comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()]
    gathered = comm.all_gather(facts)
    if comm.is_main_process():
        Path(folder, "place.json").write_text(json.dumps(gathered))


def fail_on_rank_one(folder: str) -> None:
    if comm.get_rank() == 1:
        raise ValueError("the reason is written here")
    comm.synchronize()


def sleep_long(folder: str) -> None:
    Path(folder, f"pid{comm.get_rank()}").write_text(str(os.getpid()))
    comm.synchronize()
    time.sleep(120)
