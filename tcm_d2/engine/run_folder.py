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
from tcm_d2.messages import some_names

logger = logging.getLogger(__name__)

# What a training writes that a second one would replace or add to, by what each is.
_CHECKPOINTS = ("model_[0-9]*.pth", "model_final.pth", "model_best.pth", "last_checkpoint")
_RECORDS = ("metrics.json", "evaluations.json", "events.out.tfevents.*", "non_finite_iter*_rank*.*")

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


def refuse_earlier_run(output_dir: str | os.PathLike[str]) -> None:
    """Raise ValueError where a folder holds a run, that is checkpoints or ``metrics.json``."""
    found = [path.name for path in _files_of_run(Path(output_dir))]
    # A run that ended before it logged anything has left nothing to lose.
    if any(name.startswith(("model_", "metrics.json")) for name in found):
        raise ValueError(
            f"OUTPUT_DIR '{output_dir}': holds a run ({some_names(found)}); --resume "
            "goes on with it, --overwrite removes it before the first step, or name another folder"
        )


def remove_earlier_run(output_dir: str | os.PathLike[str], *, weights: str) -> None:
    """Remove the checkpoints, metrics and event files of a run, and say which.

    Results below ``inference/`` stay until an evaluation replaces them, and ``log.txt`` goes on.

    Args:
        output_dir: may hold no run, or not be there.
        weights: the file that the new run starts from, or "".

    Raises:
        ValueError: the weights are one of the files to remove.
    """
    paths = _files_of_run(Path(output_dir))
    if weights and Path(weights).resolve() in [path.resolve() for path in paths]:
        raise ValueError(
            f"MODEL.WEIGHTS '{weights}': the new run would start from a file that --overwrite "
            "removes; name another OUTPUT_DIR, or move the file"
        )
    for path in paths:
        logger.warning("--overwrite: removing %s", path)
        path.unlink(missing_ok=True)


def _files_of_run(folder: Path) -> list[Path]:
    return [
        path
        for pattern in (*_CHECKPOINTS, *_RECORDS)
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    ]


def setup_run(run: Run, command_line: str, *, for_training: bool) -> None:
    """Open the logs, copy the configuration into the output folder, make the run deterministic.

    Args:
        run: the folder is made where missing; a seed >= 0 asks for deterministic algorithms.
        command_line: for the log.
        for_training: False keeps a copy that is there: it is the training's.
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
    path = output_dir / COPY_NAME
    if comm.is_main_process() and (for_training or not path.exists()):
        write_copy(run)
        logger.info("full configuration in %s", path)
    if run.train.seed >= 0:
        use_deterministic_algorithms()
    else:
        torch.backends.cudnn.benchmark = run.train.cudnn_benchmark


def write_copy(run: Run) -> None:
    """Write the configuration into the run's folder."""
    path = Path(run.train.output_dir) / COPY_NAME
    write_atomically(path, lambda stream: stream.write(run.text.encode()))
