"""One run as an object: what YAML files and lazy configurations are both turned into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.optim import Optimizer

from tcm_d2.engine.prediction_pictures import PicturePlan
from tcm_d2.engine.sample_stream import ResumableLoader
from tcm_d2.inference.tta import TTAConfig

ON_NON_FINITE = ("stop", "skip")


@dataclass(frozen=True)
class Evaluation:
    """One data set to evaluate on; both parts are made anew for each evaluation.

    Attributes:
        name: of the data set.
        open_loader: makes an iterable with a length, of batches of model inputs.
        open_evaluator: makes a Detectron2 ``DatasetEvaluator``.
    """

    name: str
    open_loader: Callable[[], Iterable[Any]]
    open_evaluator: Callable[[], Any]


@dataclass(frozen=True)
class Training:
    """What training needs besides the model.

    Attributes:
        optimizer: over the model's trainable parameters; clipping is its own affair.
        lr_multiplier: factor on all learning rates as a function of iteration / max_iter.
        loader: endless batches of this process.
        max_iter: iterations of the whole run.
        checkpoint_period: iterations between checkpoints; the last iteration always has one.
        checkpoints_to_keep: newest periodic checkpoints to keep; 0 for all.
        eval_period: iterations between evaluations; 0 for one at the end only.
        early_stop_patience: evaluations in a row without a new best after which training ends;
            0 is never.
        log_period: iterations between log lines.
        amp_dtype: dtype of autocast, or None for full precision.
        accumulation_steps: passes per iteration in which a process does its part of the batch;
            1 is all at once.
        on_non_finite: "stop" or "skip", what a NaN or infinite loss or gradient leads to.
        seed: of the random numbers drawn inside the model (dropout), per iteration and pass.
        pictures: of predictions for TensorBoard; None for none.
        patch_size_px: side of most images to train on; 0 is not known.
    """

    optimizer: Optimizer
    lr_multiplier: ParamScheduler
    loader: ResumableLoader
    max_iter: int
    checkpoint_period: int
    checkpoints_to_keep: int
    eval_period: int
    early_stop_patience: int
    log_period: int
    amp_dtype: torch.dtype | None
    accumulation_steps: int
    on_non_finite: str
    seed: int
    pictures: PicturePlan | None
    patch_size_px: int = 0

    def __post_init__(self) -> None:
        """Check what no other part checks."""
        if self.on_non_finite not in ON_NON_FINITE:
            raise ValueError(
                f"SOLVER.ON_NON_FINITE: expected one of {ON_NON_FINITE}, got {self.on_non_finite!r}"
            )
        if self.early_stop_patience < 0 or (self.early_stop_patience and not self.eval_period):
            raise ValueError(
                "SOLVER.EARLY_STOP_PATIENCE: expected a number of evaluations, or 0 (never), and "
                "evaluations on the way (TEST.EVAL_PERIOD_EPOCHS 1); got "
                f"{self.early_stop_patience} with a period of {self.eval_period} iterations"
            )


@dataclass(frozen=True)
class Experiment:
    """A model, what to train it with and what to evaluate it on.

    Attributes:
        model: on its device, not wrapped for data-parallel training.
        weights: local file to start from or to evaluate, or "last" or "best" of ``output_dir`` to
            evaluate; "" keeps the model's own.
        training: None for an experiment that is only evaluated.
        evaluations: in the order in which they run.
        output_dir: for checkpoints, logs and results.
        ema_decay: of the moving average of the weights, which evaluations then use; 0 is off.
            Here and not in ``training``, as an evaluation alone wants to know it too.
        tta: views of each image in an evaluation alone; None for the image itself.
    """

    model: nn.Module
    weights: str
    training: Training | None
    evaluations: tuple[Evaluation, ...]
    output_dir: str
    ema_decay: float
    tta: TTAConfig | None = None

    def __post_init__(self) -> None:
        """Check what no other part checks."""
        if not 0 <= self.ema_decay < 1:
            raise ValueError(
                "SOLVER.EMA_DECAY: expected a number from 0 (off) to less than 1, got "
                f"{self.ema_decay}"
            )
