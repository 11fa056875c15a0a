"""Prepare a process for a run: device, logs, a copy of the configuration, determinism."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.logger import setup_logger

from tcm_d2.checkpoint.load import write_atomically
from tcm_d2.engine.seeding import use_deterministic_algorithms

logger = logging.getLogger(__name__)

CONFIG_COPY = "config.yaml"
_LOGGERS = {"tcm_d2": "tcm", "detectron2": "d2", "fvcore": "fvcore"}


def fall_back_to_cpu(cfg: CfgNode) -> None:
    """Set ``MODEL.DEVICE`` to "cpu", in place and with a log line, where there is no CUDA."""
    if torch.device(cfg.MODEL.DEVICE).type == "cuda" and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %r but there is no CUDA: using the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"


def setup_run(cfg: CfgNode, command_line: str) -> None:
    """Open the logs, write ``config.yaml`` into the output folder, make the run deterministic.

    Args:
        cfg: OUTPUT_DIR is made where missing; SEED >= 0 asks for deterministic algorithms.
        command_line: for the log.
    """
    output_dir = Path(cfg.OUTPUT_DIR)
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
        text = cfg.dump()
        path = output_dir / CONFIG_COPY
        write_atomically(path, lambda stream: stream.write(text.encode()))
        logger.info("full configuration in %s", path)
    if cfg.SEED >= 0:
        use_deterministic_algorithms()
    else:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
