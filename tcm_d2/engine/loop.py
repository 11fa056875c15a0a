"""The one training loop and the one evaluation loop, made of Detectron2's hooks."""

from __future__ import annotations

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.engine import hooks as d2_hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tcm_d2.checkpoint.load import (
    BEST_CHECKPOINT,
    EMA_KEY,
    WEIGHT_WORDS,
    SafeCheckpointer,
    load_weights,
)
from tcm_d2.engine.ema import WeightAverage
from tcm_d2.engine.evaluations import EarlyStop, EvaluationHistory, PeriodicEvaluation, Score
from tcm_d2.engine.experiment import Experiment, Training
from tcm_d2.engine.non_finite import NonFiniteGuard
from tcm_d2.engine.prediction_pictures import PredictionPictures
from tcm_d2.engine.run_folder import refuse_earlier_run, remove_earlier_run
from tcm_d2.engine.trainer import ReportSkippedFiles, Trainer
from tcm_d2.inference.bundled import find_bundled
from tcm_d2.inference.tta import RotatedTTA
from tcm_d2.modeling.fixed_text import FIXED_TEXT_MESSAGE

logger = logging.getLogger(__name__)

# Half-written files of a run; other tools may be writing theirs into the same folder.
_OWN_TEMPORARY = tuple(
    f".{name}.*.tmp" for name in ("*.pth", "last_checkpoint", "config.yaml", "evaluations.json")
)

Results = OrderedDict[str, Any]


def train(
    experiment: Experiment,
    *,
    resume: bool,
    overwrite: bool = False,
    hooks: Sequence[HookBase] = (),
    writers: Sequence[EventWriter] = (),
) -> Results:
    """Train to the end, with checkpoints, logs and evaluations on the way; evaluate at the end.

    All processes call this together. The folder gets ``model_*.pth``, ``model_final.pth``,
    ``metrics.json`` and TensorBoard's event files; with evaluations on the way ``model_best.pth``
    and ``evaluations.json`` too. With ``ema_decay`` the evaluations see the moving average of the
    weights, which the checkpoints hold as "model_ema".

    Args:
        experiment: with a training part.
        resume: go on from the last whole checkpoint in the folder if there is one, with the same
            samples and random numbers that an uninterrupted run would have had.
        overwrite: a run in the folder may be removed, see `remove_earlier_run`.
        hooks: further hooks of Detectron2's, in all processes. They run before the checkpoint of
            an iteration is written, which holds their ``state_dict``, and before its evaluation.
        writers: further writers of Detectron2's, on the main process: each ``write()`` is called
            every ``log_period`` iterations and at the end, then ``close()``.

    Returns:
        Results of the last evaluation (on the main process): {"dota": {"AP50": ...}}, or
        {data set: such a dict} for several data sets.

    Raises:
        NonFiniteLossError: when a loss or gradient becomes NaN or infinite.
        FileNotFoundError, ValueError: when weights or a checkpoint cannot be used, or the folder
            holds a run and neither ``resume`` nor ``overwrite`` is asked for.
    """
    training = experiment.training
    if training is None:
        raise ValueError("experiment: has no training part; build it for training")
    if experiment.weights in WEIGHT_WORDS:
        raise ValueError(
            f"MODEL.WEIGHTS {experiment.weights!r}: names a checkpoint of OUTPUT_DIR, for an "
            "evaluation; to go on with that run use --resume, to start from it give its file"
        )
    is_main = comm.is_main_process()
    if is_main and not resume and not overwrite:
        refuse_earlier_run(experiment.output_dir)
    model = create_ddp_model(experiment.model)
    average = (
        WeightAverage(experiment.model, decay=experiment.ema_decay)
        if experiment.ema_decay
        else None
    )
    guard = NonFiniteGuard(
        experiment.model, skips=training.on_non_finite == "skip", output_dir=experiment.output_dir
    )
    trainer = Trainer(model, training, guard=guard, average=average)
    checkpointer = SafeCheckpointer(
        model,
        experiment.output_dir,
        trainer=trainer,
        **({} if average is None else {EMA_KEY: average}),
    )
    resumes = resume and checkpointer.has_checkpoint()
    if not resumes:
        _load_initial_weights(checkpointer, experiment.weights, wanted_to_resume=resume)
    if is_main:
        _remove_half_written(Path(experiment.output_dir))
        if overwrite and not resume:
            remove_earlier_run(experiment.output_dir, weights=experiment.weights)
    results: Results = OrderedDict()

    def evaluate_now() -> Results:
        results.clear()
        with nullcontext() if average is None else average.swapped_in():
            results.update(evaluate(experiment))
        # The event writers put NaN (classes without ground truth) into JSON, which has none.
        return _without_nan(results)

    trainer.register_hooks(
        [
            d2_hooks.IterationTimer(),
            d2_hooks.LRScheduler(
                scheduler=LRMultiplier(
                    training.optimizer, training.lr_multiplier, training.max_iter
                )
            ),
            *hooks,
            *_own_hooks(experiment, training, checkpointer, average, evaluate_now),
            d2_hooks.PeriodicWriter(
                [*_writers(Path(experiment.output_dir), training), *writers],
                period=training.log_period,
            )
            if is_main
            else None,
        ]
    )
    start_iter = 0
    if resumes:
        checkpointer.resume()
        start_iter = int(trainer.iter) + 1
    if average is not None and start_iter == 0:
        average.restart()
    if start_iter >= training.max_iter and is_main:
        # Killed between the last iteration's checkpoint and the final one: no step is left to
        # write it.
        checkpointer.save("model_final", iteration=start_iter - 1)
    training.loader.start_iteration = start_iter
    try:
        trainer.train(start_iter, training.max_iter)
    except EarlyStop:
        # Raised before a step: the one before that was the last.
        trainer.iter -= 1
        logger.info(
            "no better evaluation in the last %d: training ends after iteration %d of %d",
            training.early_stop_patience,
            trainer.iter,
            training.max_iter,
        )
        if is_main:
            checkpointer.save("model_final", iteration=trainer.iter)
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

    With ``ema_decay`` the moving average in the file, where there is one, takes their place; with
    ``tta`` the detections of several views of each image are merged.

    Args:
        experiment: its training part is not used. Its weights may be "last" or "best": those of
            the folder.
        resume: take the last checkpoint of the folder instead, if there is one.

    Raises:
        FileNotFoundError, ValueError: when the weights cannot be used or lack parameters.
    """
    checkpointer = SafeCheckpointer(experiment.model, experiment.output_dir)
    weights = os.fspath(find_bundled(experiment.weights) or experiment.weights)
    weights = checkpointer.file_of(weights)
    if resume and checkpointer.has_checkpoint():
        weights = checkpointer.get_checkpoint_file()
    if not weights:
        logger.warning("evaluating a model without weights: give MODEL.WEIGHTS")
    rest = checkpointer.load(weights, checkpointables=[], require_all_parameters=True)
    if experiment.ema_decay and EMA_KEY in rest:
        logger.info("evaluating the moving average of the weights ('%s' in %s)", EMA_KEY, weights)
        load_weights(experiment.model, rest[EMA_KEY], source=f"{weights}, {EMA_KEY}")
    elif experiment.ema_decay:
        logger.warning("%s holds no '%s': evaluating its weights", weights, EMA_KEY)
    if experiment.tta is not None:
        logger.info("each image is evaluated in %d views", len(experiment.tta.views))
        experiment = replace(experiment, model=RotatedTTA(experiment.model, experiment.tta))
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
    device_ids = [torch.cuda.current_device()] if on_cuda else None
    return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def _own_hooks(
    experiment: Experiment,
    training: Training,
    checkpointer: SafeCheckpointer,
    average: WeightAverage | None,
    evaluate_now: Callable[[], Results],
) -> list[HookBase]:
    def save_best(score: Score) -> None:
        checkpointer.save(BEST_CHECKPOINT, is_last=False, **score._asdict())

    own: list[HookBase] = []
    if comm.is_main_process():
        # Before the evaluation, which may take long and fail.
        own.append(
            d2_hooks.PeriodicCheckpointer(
                checkpointer,
                training.checkpoint_period,
                max_to_keep=training.checkpoints_to_keep or None,
            )
        )
    if experiment.evaluations:
        own.append(
            PeriodicEvaluation(
                evaluate_now,
                period=training.eval_period,
                history=EvaluationHistory(Path(experiment.output_dir)),
                save_best=save_best,
                patience=training.early_stop_patience,
            )
        )
    own.append(ReportSkippedFiles())
    if training.pictures is not None and comm.is_main_process():
        own.append(PredictionPictures(training.pictures, average=average))
    return own


def _writers(output_dir: Path, training: Training) -> list[EventWriter]:
    """Return Detectron2's default writers; files get the median since the last line.

    Detectron2's own window of 20 iterations whatever the period would mix, in the first lines
    after a resume, other values than an uninterrupted run's.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    return [
        CommonMetricPrinter(training.max_iter),
        JSONWriter(str(output_dir / "metrics.json"), window_size=training.log_period),
        TensorboardXWriter(str(output_dir), window_size=training.log_period),
    ]


def _remove_half_written(output_dir: Path) -> None:
    """Remove what runs that were killed while they wrote a file have left."""
    for path in (p for pattern in _OWN_TEMPORARY for p in output_dir.glob(pattern)):
        logger.info("removing %s, half written by a run that was killed", path)
        path.unlink(missing_ok=True)


def _load_initial_weights(
    checkpointer: SafeCheckpointer, weights: str, *, wanted_to_resume: bool
) -> None:
    if wanted_to_resume:
        logger.info("no checkpoint in %s to resume from: starting anew", checkpointer.save_dir)
    checkpointer.load(os.fspath(find_bundled(weights) or weights), checkpointables=[])
    if getattr(checkpointer.model, "has_fixed_text", False):
        raise ValueError(f"weights '{weights}': {FIXED_TEXT_MESSAGE}{_bundled_hint(weights)}")


def _bundled_hint(weights: str) -> str:
    if find_bundled(Path(weights).stem) is None:
        return ""
    return (
        ". The one of the bundled detector is not part of this package; tools/demo_embedded.py "
        "trains such a detector from nothing in minutes"
    )


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
