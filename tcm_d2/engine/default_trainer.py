"""What a subclass of Detectron2's ``DefaultTrainer`` builds its parts with, from a CfgNode.

Detectron2's own loop does no epochs, no exact resume, no averages and no skipping of steps; these
are `tcm_d2.engine.main`'s. See docs/training.md, "Detectron2's own trainer".
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from torch import nn
from torch.optim import Optimizer

from tcm_d2.config.plain import build
from tcm_d2.config.run import run_from_cfg
from tcm_d2.config.tree import optimizer_node, schedule_node
from tcm_d2.engine import build_experiment
from tcm_d2.engine.datasets import load_training_records, register_datasets
from tcm_d2.engine.sample_stream import ResumableLoader
from tcm_d2.engine.seeding import shared_seed


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Return the recipe's optimizer, which clips one norm over all gradients.

    Raises:
        ValueError: a key of SOLVER has a value that does not fit.
    """
    optimizer: Optimizer = build(
        optimizer_node(cfg), model=model, batch_size=cfg.SOLVER.IMS_PER_BATCH
    )
    return optimizer


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
    """Return the schedule of SOLVER.LR_SCHEDULER_NAME.

    Raises:
        ValueError: SOLVER.MAX_EPOCHS is set: this trainer counts iterations.
    """
    solver = cfg.SOLVER
    if solver.MAX_EPOCHS > 0:
        raise ValueError(
            f"SOLVER.MAX_EPOCHS: expected 0, got {solver.MAX_EPOCHS}: DefaultTrainer counts "
            "iterations; set SOLVER.MAX_ITER and SOLVER.STEPS"
        )
    multiplier = build(schedule_node(cfg), max_iter=solver.MAX_ITER, milestones=list(solver.STEPS))
    return LRMultiplier(optimizer, multiplier, solver.MAX_ITER)


def build_train_loader(cfg: CfgNode) -> ResumableLoader:
    """Return the endless batches of this process, from the data sets of DATASETS.TRAIN.

    Raises:
        ValueError, FileNotFoundError: see `load_training_records`.
    """
    run = run_from_cfg(cfg)
    data = run.dataloader
    register_datasets(data.patch_dirs, data.classes)
    records = load_training_records(data.train.names, drop_empty=data.train.drop_empty)
    return build_experiment.build_train_loader(run, records, shared_seed(run.train.seed))


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Any:
    """Return the batches of a data set to evaluate on."""
    run = run_from_cfg(cfg)
    register_datasets(run.dataloader.patch_dirs, run.dataloader.classes)
    return build_experiment.build_test_loader(run, dataset_name)


def build_evaluator(cfg: CfgNode, dataset_name: str) -> Any:
    """Return what scores a data set, see `tcm_d2.engine.build_experiment.build_evaluator`."""
    return build_experiment.build_evaluator(run_from_cfg(cfg), dataset_name)
