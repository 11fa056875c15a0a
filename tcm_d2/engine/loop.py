"""The one training loop and the one evaluation loop, made of Detectron2's hooks."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import hooks
from detectron2.engine.defaults import default_writers
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tcm_d2.checkpoint.load import SafeCheckpointer
from tcm_d2.engine.experiment import Experiment
from tcm_d2.engine.trainer import ReportSkippedFiles, SeedEachStep, Trainer

logger = logging.getLogger(__name__)

Results = OrderedDict[str, Any]


def train(experiment: Experiment, *, resume: bool) -> Results:
    """Train to the end, with checkpoints, logs and evaluations on the way; evaluate at the end.

    All processes call this together. The folder gets ``model_*.pth``, ``model_final.pth``,
    ``metrics.json`` and TensorBoard's event files.

    Args:
        experiment: with a training part.
        resume: go on from the last checkpoint in the folder if there is one, with the same
            samples and random numbers that an uninterrupted run would have had.

    Returns:
        Results of the last evaluation (on the main process): {"dota": {"AP50": ...}}, or
        {data set: such a dict} for several data sets.

    Raises:
        NonFiniteLossError: when a loss or gradient becomes NaN or infinite.
        FileNotFoundError, ValueError: when weights or a checkpoint cannot be used.
    """
    training = experiment.training
    if training is None:
        raise ValueError("experiment: has no training part; build it for training")
    model = create_ddp_model(experiment.model)
    trainer = Trainer(
        model,
        training.loader,
        training.optimizer,
        amp_dtype=training.amp_dtype,
        output_dir=experiment.output_dir,
    )
    checkpointer = SafeCheckpointer(model, experiment.output_dir, trainer=trainer)
    results: Results = OrderedDict()

    def evaluate_now() -> Results:
        results.clear()
        results.update(evaluate(experiment))
        # The event writers put NaN (classes without ground truth) into JSON, which has none.
        return _without_nan(results)

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            SeedEachStep(training.seed),
            hooks.LRScheduler(
                scheduler=LRMultiplier(
                    training.optimizer, training.lr_multiplier, training.max_iter
                )
            ),
            _checkpoint_hook(checkpointer, training.checkpoint_period, training.checkpoints_to_keep)
            if comm.is_main_process()
            else None,
            hooks.EvalHook(training.eval_period, evaluate_now) if experiment.evaluations else None,
            ReportSkippedFiles(),
            hooks.PeriodicWriter(
                default_writers(experiment.output_dir, training.max_iter),
                period=training.log_period,
            )
            if comm.is_main_process()
            else None,
        ]
    )
    start_iter = _load_start(checkpointer, trainer, experiment.weights, resume)
    training.loader.start_iteration = start_iter
    trainer.train(start_iter, training.max_iter)
    return results


def evaluate(experiment: Experiment) -> Results:
    """Evaluate the model as it is; all processes call this together.

    Returns:
        On the main process {"dota": {"AP50": ...}}, or {data set: such a dict} for several data
        sets; elsewhere empty dicts.

    Raises:
        ValueError: when there is no data set to evaluate on.
    """
    if not experiment.evaluations:
        raise ValueError("DATASETS.TEST: expected at least one data set to evaluate on, got none")
    _share_buffers(experiment.model)
    results: Results = OrderedDict()
    for evaluation in experiment.evaluations:
        metrics = inference_on_dataset(
            experiment.model, evaluation.open_loader(), evaluation.open_evaluator()
        )
        if comm.is_main_process():
            logger.info("results on %s:", evaluation.name)
            print_csv_format(metrics)
        results[evaluation.name] = metrics
    return OrderedDict(next(iter(results.values()))) if len(results) == 1 else results


def evaluate_only(experiment: Experiment, *, resume: bool) -> Results:
    """Load ``experiment.weights``, which must hold every parameter, and evaluate.

    Args:
        experiment: its training part is not used.
        resume: take the last checkpoint of the folder instead, if there is one.

    Raises:
        FileNotFoundError, ValueError: when the weights cannot be used or lack parameters.
    """
    checkpointer = SafeCheckpointer(experiment.model, experiment.output_dir)
    weights = experiment.weights
    if resume and checkpointer.has_checkpoint():
        weights = checkpointer.get_checkpoint_file()
    if not weights:
        logger.warning("evaluating a model without weights: give MODEL.WEIGHTS")
    checkpointer.load(weights, checkpointables=[], require_all_parameters=True)
    return evaluate(experiment)


def create_ddp_model(model: nn.Module) -> nn.Module:
    """Return ``model`` wrapped for data-parallel training, or itself with one process.

    Unlike Detectron2 0.6's function of this name it names devices on CUDA only, so that the CPU
    works. Buffers are not broadcast (as there), unused parameters are not searched for: there are
    none.
    """
    if comm.get_world_size() == 1:
        return model
    on_cuda = next(model.parameters()).device.type == "cuda"
    device_ids = [comm.get_local_rank()] if on_cuda else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def _checkpoint_hook(checkpointer: SafeCheckpointer, period: int, num_to_keep: int) -> Any:
    return hooks.PeriodicCheckpointer(checkpointer, period, max_to_keep=num_to_keep or None)


def _load_start(
    checkpointer: SafeCheckpointer, trainer: Trainer, weights: str, resume: bool
) -> int:
    """Load the last checkpoint or the initial weights; return the iteration to start with."""
    if resume and checkpointer.has_checkpoint():
        checkpointer.load(checkpointer.get_checkpoint_file(), require_all_parameters=True)
        return int(trainer.iter) + 1
    if resume:
        logger.info("no checkpoint in %s to resume from: starting anew", checkpointer.save_dir)
    checkpointer.load(weights, checkpointables=[])
    return 0


@torch.no_grad()
def _share_buffers(model: nn.Module) -> None:
    """Copy the main process's buffers (BatchNorm statistics) to the others.

    They drift apart in data-parallel training, and the checkpoint holds the main process's.
    """
    if comm.get_world_size() == 1:
        return
    for _, buffer in sorted(model.named_buffers()):
        if buffer.is_floating_point():  # gloo cannot send bool
            dist.broadcast(buffer, src=0)


def _without_nan(results: Results) -> Results:
    kept: Results = OrderedDict()
    for key, value in results.items():
        if isinstance(value, dict):
            kept[key] = _without_nan(OrderedDict(value))
        elif not math.isnan(value):
            kept[key] = value
    return kept
