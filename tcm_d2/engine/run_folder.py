"""Prepare a process for a run: device, logs, a copy of the configuration, determinism."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.logger import setup_logger

from tcm_d2.config.run import Run
from tcm_d2.config.saved_copy import COPY_NAME
from tcm_d2.engine.seeding import use_deterministic_algorithms
from tcm_d2.files import locked_folder, write_atomically

logger = logging.getLogger(__name__)

_LOGGERS = {"tcm_d2": "tcm", "detectron2": "d2", "fvcore": "fvcore"}


@contextmanager
def prepared_folder(output_dir: str, *, for_training: bool) -> Iterator[None]:
    """Make a run's folder; while the block runs no other training on this machine can use it.

    Args:
        output_dir: made where missing.
        for_training: False only makes it: evaluations may look at a run that goes on.

    Raises:
        ValueError: it cannot be made or written, or another training uses it.
    """
    with ExitStack() as stack:
        try:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            if for_training and comm.is_main_process():
                stack.enter_context(locked_folder(output_dir, what="OUTPUT_DIR"))
        except OSError as error:
            raise ValueError(
                f"OUTPUT_DIR '{output_dir}': expected a folder that this user can write in "
                f"({error.strerror}: {error.filename}); name another one"
            ) from None
        yield


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
