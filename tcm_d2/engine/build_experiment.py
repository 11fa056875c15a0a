"""Turn a run into an Experiment: data checked, model seeded and built, training put together."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.utils import comm
from torch import nn

from tcm_d2.checkpoint.load import LAST_CHECKPOINT
from tcm_d2.config.plain import build
from tcm_d2.config.registries import EVALUATOR_REGISTRY
from tcm_d2.config.run import Run, TrainSettings, run_from_cfg
from tcm_d2.engine.datasets import (
    Record,
    check_dataset_fits,
    load_records,
    load_training_records,
    register_datasets,
    usual_size_px,
)
from tcm_d2.engine.experiment import Evaluation, Experiment, Training
from tcm_d2.engine.optim import iterations_per_epoch
from tcm_d2.engine.prediction_pictures import PicturePlan, PictureSample, load_samples
from tcm_d2.engine.sample_stream import ResumableLoader, SampleStream, check_batch_size
from tcm_d2.engine.seeding import derive_seed, seed_everything, shared_seed
from tcm_d2.inference.speed import make_fast
from tcm_d2.inference.tta import read_views

logger = logging.getLogger(__name__)

# Domains of derive_seed.
_MODEL_SEED, _DATA_SEED, _STEP_SEED = 0, 1, 2
_AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


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


def milestones(train: TrainSettings, epoch: int) -> Milestones:
    """Return the marks of a run.

    Args:
        train: in epochs, or with ``max_epochs`` 0 in iterations.
        epoch: its length in iterations.
    """
    if train.max_epochs > 0:
        marks = Milestones(
            max_iter=train.max_epochs * epoch,
            steps=[step * epoch for step in train.step_epochs],
            checkpoint_period=train.checkpoint_period_epochs * epoch,
            eval_period=train.eval_period_epochs * epoch,
        )
    else:
        marks = Milestones(
            train.max_iter, list(train.steps), train.checkpoint_period, train.eval_period
        )
    # 0 is never; the hook wants a number and saves the last iteration anyway.
    return marks._replace(checkpoint_period=marks.checkpoint_period or marks.max_iter + 1)


def build_experiment(run: Run | CfgNode, *, for_training: bool, resume: bool = False) -> Experiment:
    """Build the model, and for training the optimizer, schedule and loader.

    The run's data sets get registered. CLIP's own weights are not read where a whole detector's
    weights replace them: a checkpoint to resume from, or the weights to evaluate.

    Args:
        run: see `open_config`; or a CfgNode, which is not changed.
        for_training: False leaves out all that only training needs.
        resume: a checkpoint in the output folder, if there is one, will replace the weights.

    Raises:
        ValueError, FileNotFoundError: a value does not fit, data are missing or empty, or their
            classes are not the model's.
    """
    if isinstance(run, CfgNode):
        run = run_from_cfg(run)
    data, train = run.dataloader, run.train
    register_datasets(data.patch_dirs, data.classes)
    seed = shared_seed(train.seed)
    views = data.test.tta
    tta = read_views(views) if views.enabled else None
    for name in [*(data.train.names if for_training else ()), *data.test.names]:
        check_dataset_fits(
            name, num_classes=run.num_classes, prompts=run.prompts, text="class prompts"
        )
    # Before the model: what is wrong with the data shows before large weights are read.
    records: list[Record] = []
    if for_training:
        records = load_training_records(data.train.names, drop_empty=data.train.drop_empty)
    model = _build_model(run, seed, for_training=for_training, resume=resume)
    return Experiment(
        model=model,
        weights=train.init_checkpoint,
        training=_build_training(run, model, records, seed) if for_training else None,
        evaluations=tuple(
            Evaluation(
                name, partial(build_test_loader, run, name), partial(build_evaluator, run, name)
            )
            for name in data.test.names
        ),
        output_dir=train.output_dir,
        ema_decay=train.ema_decay,
        tta=tta,
    )


def build_evaluator(run: Run, name: str) -> Any:
    """Build the evaluator of a data set: the one registered for its ``evaluator_type``, or, for
    "dota", the configuration's.

    Raises:
        ValueError: the data set says no type, or one that nothing is registered for.
    """
    kind = MetadataCatalog.get(name).get("evaluator_type", "dota")
    known = [registered for registered, _ in EVALUATOR_REGISTRY]
    arguments = {
        "dataset_name": name,
        "output_dir": str(Path(run.train.output_dir) / "inference" / name),
        "distributed": comm.get_world_size() > 1,
    }
    if kind in known:
        return EVALUATOR_REGISTRY.get(kind)(**arguments)
    if kind != "dota":
        raise ValueError(
            f"DATASETS.TEST: data set {name!r} has evaluator type {kind!r}, expected one of "
            f"{', '.join(['dota', *known])}; register the data set with tcm_d2.data.dota.register, "
            "or a function of this name in tcm_d2.config.registries.EVALUATOR_REGISTRY"
        )
    return build(run.dataloader.test.evaluator, **arguments)


def _build_model(run: Run, seed: int, *, for_training: bool, resume: bool) -> nn.Module:
    resumes = resume and (Path(run.train.output_dir) / LAST_CHECKPOINT).is_file()
    is_replaced = resumes or (not for_training and bool(run.train.init_checkpoint))
    # The same initial weights in all processes.
    seed_everything(derive_seed(seed, _MODEL_SEED))
    model = run.build_model(with_part_weights=not is_replaced)
    logger.info("model:\n%s", model)
    make_fast(model)
    return model


def _build_training(run: Run, model: nn.Module, records: list[Record], seed: int) -> Training:
    train, batch_size = run.train, run.dataloader.train.total_batch_size
    check_batch_size(
        batch_size,
        world_size=comm.get_world_size(),
        accumulation_steps=train.accumulation_steps,
    )
    epoch = iterations_per_epoch(len(records), batch_size)
    marks = milestones(train, epoch)
    logger.info(
        "%d images, %d per iteration in all processes: %d iterations per epoch, %d in all, "
        "learning-rate steps at %s",
        len(records),
        batch_size,
        epoch,
        marks.max_iter,
        marks.steps,
    )
    return Training(
        optimizer=build(run.optimizer, model=model, batch_size=batch_size),
        lr_multiplier=build(run.lr_multiplier, max_iter=marks.max_iter, milestones=marks.steps),
        loader=build_train_loader(run, records, derive_seed(seed, _DATA_SEED)),
        max_iter=marks.max_iter,
        checkpoint_period=marks.checkpoint_period,
        checkpoints_to_keep=train.checkpoints_to_keep,
        eval_period=marks.eval_period,
        early_stop_patience=train.early_stop_patience,
        log_period=train.log_period,
        amp_dtype=_amp_dtype(run),
        accumulation_steps=train.accumulation_steps,
        on_non_finite=train.on_non_finite,
        seed=derive_seed(seed, _STEP_SEED),
        pictures=_picture_plan(run),
        patch_size_px=usual_size_px(records),
    )


def _picture_plan(run: Run) -> PicturePlan | None:
    """Return the plan of pictures: of the first data set to evaluate on, else to train on."""
    period = run.train.vis_period
    if period < 0:
        raise ValueError(
            f"VIS_PERIOD: expected a number of iterations or 0 (no pictures), got {period}"
        )
    if period == 0:
        return None
    name = [*run.dataloader.test.names, *run.dataloader.train.names][0]
    names = list(MetadataCatalog.get(name).thing_classes)
    return PicturePlan(period, names, partial(_load_samples, run, name))


def _load_samples(run: Run, name: str) -> list[PictureSample]:
    return load_samples(load_records(name), run.build_mapper(is_train=False))


def build_train_loader(run: Run, records: list[Record], seed: int) -> ResumableLoader:
    """Build the endless batches of this process, in an order that depends on the seed alone."""
    data = run.dataloader.train
    open_stream = partial(
        _open_stream,
        records,
        run.build_mapper(is_train=True),
        seed=seed,
        total_batch_size=data.total_batch_size,
    )
    return ResumableLoader(open_stream, num_workers=data.num_workers)


def _open_stream(
    records: list[Record],
    mapper: Any,
    start_iteration: int,
    *,
    seed: int,
    total_batch_size: int,
) -> SampleStream:
    return SampleStream(
        records,
        mapper,
        seed=seed,
        total_batch_size=total_batch_size,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
        start_iteration=start_iteration,
    )


def build_test_loader(run: Run, name: str) -> Any:
    """Build the batches of a registered data set, for an evaluation."""
    return build_detection_test_loader(
        load_records(name),
        mapper=run.build_mapper(is_train=False),
        num_workers=run.dataloader.test.num_workers,
    )


def _amp_dtype(run: Run) -> torch.dtype | None:
    if not run.train.amp.enabled:
        return None
    name = run.train.amp.dtype
    if name not in _AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE: expected one of {list(_AMP_DTYPES)}, got {name!r}")
    if name == "float16" and run.device.type != "cuda":
        logger.warning("SOLVER.AMP.DTYPE float16 is for CUDA: using bfloat16 on the CPU")
        name = "bfloat16"
    return _AMP_DTYPES[name]
