"""Prepare a process for a run: device, logs, a copy of the configuration, determinism."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.logger import setup_logger

from tcm_d2.config.run import Run
from tcm_d2.config.saved_copy import COPY_NAME
from tcm_d2.engine.seeding import use_deterministic_algorithms
from tcm_d2.files import write_atomically

logger = logging.getLogger(__name__)

_LOGGERS = {"tcm_d2": "tcm", "detectron2": "d2", "fvcore": "fvcore"}


def setup_run(run: Run, command_line: str) -> None:
    """Open the logs, copy the configuration into the output folder, make the run deterministic.

    Args:
        run: the folder is made where missing; a seed >= 0 asks for deterministic algorithms.
        command_line: for the log.
    """
    output_dir = Path(run.train.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    rank = comm.get_rank()
    for name, abbreviation in _LOGGERS.items():
        setup_logger(
            os.fspath(output_dir), distributed_rank=rank, name=name, abbrev_name=abbreviation
        )
    logger.info("process %d of %d", rank, comm.get_world_size())
    logger.info("environment:\n%s", collect_env_info())
    logger.info("command line: %s", command_line)
    if comm.is_main_process():
        path = output_dir / COPY_NAME
        write_atomically(path, lambda stream: stream.write(run.text.encode()))
        logger.info("full configuration in %s", path)
    if run.train.seed >= 0:
        use_deterministic_algorithms()
    else:
        torch.backends.cudnn.benchmark = run.train.cudnn_benchmark
