"""A run as written in a configuration, in plain values: what both kinds of files are read into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.optim import Optimizer

from tcm_d2.inference.tta import TTAConfig

Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]


class Milestones(NamedTuple):
    """The marks of a run in iterations.

    Attributes:
        max_iter: of the whole run.
        steps: at which the learning rate falls.
        checkpoint_period: never 0.
        eval_period: 0 is at the end only.
    """

    max_iter: int
    steps: list[int]
    checkpoint_period: int
    eval_period: int


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """How long to train: in epochs, or with ``max_epochs`` 0 in iterations.

    A period of 0 is only at the end.
    """

    max_epochs: int
    step_epochs: Sequence[int]
    checkpoint_period_epochs: int
    eval_period_epochs: int
    max_iter: int
    steps: Sequence[int]
    checkpoint_period: int
    eval_period: int

    def in_iterations(self, iterations_per_epoch: int) -> Milestones:
        """Return the marks for epochs of this length."""
        if self.max_epochs > 0:
            epoch = iterations_per_epoch
            marks = Milestones(
                max_iter=self.max_epochs * epoch,
                steps=[step * epoch for step in self.step_epochs],
                checkpoint_period=self.checkpoint_period_epochs * epoch,
                eval_period=self.eval_period_epochs * epoch,
            )
        else:
            marks = Milestones(
                self.max_iter, list(self.steps), self.checkpoint_period, self.eval_period
            )
        # 0 is never; the hook wants a number and saves the last iteration anyway.
        return marks._replace(checkpoint_period=marks.checkpoint_period or marks.max_iter + 1)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a run needs to know, before any file of data or weights is opened.

    Attributes:
        text: the whole configuration, for the output folder.
        text_name: file name of this copy.
        output_dir: for checkpoints, logs and results.
        seed: -1 draws one.
        cudnn_benchmark: let cuDNN try algorithms; only without a seed.
        device: where the model will be.
        weights: local file to start from or to evaluate; "" keeps the model's own.
        patch_dirs: folders of patches to register, "name=patch_dir[=label_dir]".
        classes: class names of these folders; empty for DOTA-v1.0's.
        train_names: registered data sets to train on.
        test_names: registered data sets to evaluate on.
        drop_empty: do not train on images without objects.
        total_batch_size: images per iteration in all processes.
        num_workers: loading processes in training.
        num_test_workers: loading processes in evaluation.
        num_classes: outputs of the head.
        prompts: class prompts; None for a model without text.
        length: of the run.
        checkpoints_to_keep: newest periodic checkpoints to keep; 0 for all.
        log_period: iterations between log lines.
        vis_period: iterations between pictures of predictions; 0 is never.
        amp_dtype: "float16" or "bfloat16"; None for full precision.
        accumulation_steps: passes per iteration.
        ema_decay: of the moving average of the weights; 0 is off.
        on_non_finite: "stop" or "skip".
        tta: views of each image in an evaluation alone; None for the image itself.
        build_model: with CLIP's own weights or (False) without reading them.
        build_mapper: for training (True) or evaluation.
        build_optimizer: over a model's parameters.
        build_lr_multiplier: from the number of iterations and the steps.
        build_evaluator: for a data set, its result folder, and whether several processes take part.
    """

    text: str
    text_name: str
    output_dir: str
    seed: int
    cudnn_benchmark: bool
    device: str
    weights: str
    patch_dirs: Sequence[str]
    classes: Sequence[str]
    train_names: Sequence[str]
    test_names: Sequence[str]
    drop_empty: bool
    total_batch_size: int
    num_workers: int
    num_test_workers: int
    num_classes: int
    prompts: Sequence[str] | None
    length: RunLength
    checkpoints_to_keep: int
    log_period: int
    vis_period: int
    amp_dtype: str | None
    accumulation_steps: int
    ema_decay: float
    on_non_finite: str
    tta: TTAConfig | None
    build_model: Callable[[bool], nn.Module]
    build_mapper: Callable[[bool], Mapper]
    build_optimizer: Callable[[nn.Module], Optimizer]
    build_lr_multiplier: Callable[[int, list[int]], ParamScheduler]
    build_evaluator: Callable[[str, Path, bool], Any]
