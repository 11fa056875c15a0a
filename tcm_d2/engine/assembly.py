"""Turn a plan into an Experiment: data checked, model seeded and built, training put together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer

from tcm_d2.engine.datasets import (
    Record,
    check_dataset_fits,
    load_records,
    load_training_records,
    register_datasets,
)
from tcm_d2.engine.experiment import Evaluation, Experiment, Training
from tcm_d2.engine.optim import (
    build_optimizer,
    build_parameter_groups,
    clip_gradients_before_step,
    iterations_per_epoch,
    scale_learning_rate,
)
from tcm_d2.engine.plan import Mapper, Plan
from tcm_d2.engine.prediction_pictures import PicturePlan, PictureSample, load_samples
from tcm_d2.engine.sample_stream import ResumableLoader, SampleStream, check_batch_size
from tcm_d2.engine.seeding import derive_seed, seed_everything
from tcm_d2.inference.speed import make_fast

logger = logging.getLogger(__name__)

# Domains of derive_seed.
_MODEL_SEED, _DATA_SEED, _STEP_SEED = 0, 1, 2
_AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
LAST_CHECKPOINT = "last_checkpoint"


def assemble_experiment(plan: Plan, *, for_training: bool, resume: bool) -> Experiment:
    """Build the model, and for training the optimizer, schedule and loader.

    The plan's data sets get registered. CLIP's own weights are not read where a whole detector's
    weights replace them: a checkpoint to resume from, or the weights to evaluate.

    Args:
        plan: see the class.
        for_training: False leaves out all that only training needs.
        resume: a checkpoint in the output folder, if there is one, will replace the weights.

    Raises:
        ValueError, FileNotFoundError: a value does not fit, data are missing or empty, or their
            classes are not the model's.
    """
    register_datasets(plan.patch_dirs, plan.classes)
    seed = _shared_seed(plan.seed)
    for name in [*(plan.train_names if for_training else ()), *plan.test_names]:
        check_dataset_fits(
            name, num_classes=plan.num_classes, prompts=plan.prompts, text="class prompts"
        )
    # Before the model: what is wrong with the data shows before large weights are read.
    records: list[Record] = []
    if for_training:
        records = load_training_records(plan.train_names, drop_empty=plan.drop_empty)
    model = _build_model(plan, seed, for_training=for_training, resume=resume)
    return Experiment(
        model=model,
        weights=plan.weights,
        training=_build_training(plan, model, records, seed) if for_training else None,
        evaluations=tuple(
            Evaluation(
                name, partial(_open_test_loader, plan, name), partial(_evaluator, plan, name)
            )
            for name in plan.test_names
        ),
        output_dir=plan.output_dir,
        ema_decay=plan.ema_decay,
        tta=plan.tta,
    )


def build_recipe_optimizer(
    model: nn.Module,
    *,
    batch_size: int,
    name: str,
    lr: float,
    reference_batch_size: int,
    image_tower_lr_factor: float,
    weight_decay: float,
    betas: Sequence[float],
    eps: float,
    momentum: float,
    nesterov: bool,
    clip_max_norm: float,
    clip_norm_type: float,
) -> Optimizer:
    """Return the optimizer of a model with the recipe's parameter groups and clipping.

    Args:
        model: see `build_parameter_groups`.
        batch_size: images per iteration in all processes.
        name, betas, eps, momentum, nesterov: see `build_optimizer`.
        lr, reference_batch_size: see `scale_learning_rate`.
        image_tower_lr_factor, weight_decay: see `build_parameter_groups`.
        clip_max_norm: largest norm of all gradients together; 0 does not clip.
        clip_norm_type: p of this norm.
    """
    optimizer = build_optimizer(
        build_parameter_groups(
            model,
            base_lr=scale_learning_rate(
                lr, batch_size=batch_size, reference_batch_size=reference_batch_size
            ),
            image_tower_lr_factor=image_tower_lr_factor,
            weight_decay=weight_decay,
        ),
        name=name,
        betas=betas,
        eps=eps,
        momentum=momentum,
        nesterov=nesterov,
    )
    if clip_max_norm > 0:
        clip_gradients_before_step(optimizer, max_norm=clip_max_norm, norm_type=clip_norm_type)
    return optimizer


def _shared_seed(seed: int) -> int:
    """Return ``seed``, or for a negative one a random number that all processes share."""
    if seed >= 0:
        return seed
    drawn = int(comm.shared_random_seed())
    logger.info("SEED is -1: this run draws %d", drawn)
    return drawn


def _build_model(plan: Plan, seed: int, *, for_training: bool, resume: bool) -> nn.Module:
    resumes = resume and (Path(plan.output_dir) / LAST_CHECKPOINT).is_file()
    is_replaced = resumes or (not for_training and bool(plan.weights))
    # The same initial weights in all processes.
    seed_everything(derive_seed(seed, _MODEL_SEED))
    model = plan.build_model(not is_replaced)
    logger.info("model:\n%s", model)
    make_fast(model)
    return model


def _build_training(plan: Plan, model: nn.Module, records: list[Record], seed: int) -> Training:
    check_batch_size(
        plan.total_batch_size,
        world_size=comm.get_world_size(),
        accumulation_steps=plan.accumulation_steps,
    )
    epoch = iterations_per_epoch(len(records), plan.total_batch_size)
    marks = plan.length.in_iterations(epoch)
    logger.info(
        "%d images, %d per iteration in all processes: %d iterations per epoch, %d in all, "
        "learning-rate steps at %s",
        len(records),
        plan.total_batch_size,
        epoch,
        marks.max_iter,
        marks.steps,
    )
    return Training(
        optimizer=plan.build_optimizer(model),
        lr_multiplier=plan.build_lr_multiplier(marks.max_iter, marks.steps),
        loader=_build_train_loader(plan, records, derive_seed(seed, _DATA_SEED)),
        max_iter=marks.max_iter,
        checkpoint_period=marks.checkpoint_period,
        checkpoints_to_keep=plan.checkpoints_to_keep,
        eval_period=marks.eval_period,
        log_period=plan.log_period,
        amp_dtype=_amp_dtype(plan),
        accumulation_steps=plan.accumulation_steps,
        on_non_finite=plan.on_non_finite,
        seed=derive_seed(seed, _STEP_SEED),
        pictures=_picture_plan(plan),
    )


def _picture_plan(plan: Plan) -> PicturePlan | None:
    """Return the plan of pictures: of the first data set to evaluate on, else to train on."""
    if plan.vis_period < 0:
        raise ValueError(
            f"VIS_PERIOD: expected a number of iterations or 0 (no pictures), got {plan.vis_period}"
        )
    if plan.vis_period == 0:
        return None
    name = [*plan.test_names, *plan.train_names][0]
    names = list(MetadataCatalog.get(name).thing_classes)
    return PicturePlan(plan.vis_period, names, partial(_load_samples, plan, name))


def _load_samples(plan: Plan, name: str) -> list[PictureSample]:
    return load_samples(load_records(name), plan.build_mapper(False))


def _build_train_loader(plan: Plan, records: list[Record], seed: int) -> ResumableLoader:
    open_stream = partial(
        _open_stream,
        records,
        plan.build_mapper(True),
        seed=seed,
        total_batch_size=plan.total_batch_size,
    )
    return ResumableLoader(open_stream, num_workers=plan.num_workers)


def _open_stream(
    records: list[Record],
    mapper: Mapper,
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


def _open_test_loader(plan: Plan, name: str) -> Any:
    return build_detection_test_loader(
        load_records(name), mapper=plan.build_mapper(False), num_workers=plan.num_test_workers
    )


def _evaluator(plan: Plan, name: str) -> Any:
    kind = MetadataCatalog.get(name).get("evaluator_type", "dota")
    if kind != "dota":
        raise ValueError(
            f"DATASETS.TEST: data set {name!r} has evaluator type {kind!r}, expected 'dota'; "
            "register it with tcm_d2.data.dota.register"
        )
    folder = Path(plan.output_dir) / "inference" / name
    return plan.build_evaluator(name, folder, comm.get_world_size() > 1)


def _amp_dtype(plan: Plan) -> torch.dtype | None:
    name = plan.amp_dtype
    if name is None:
        return None
    if name not in _AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE: expected one of {list(_AMP_DTYPES)}, got {name!r}")
    if name == "float16" and torch.device(plan.device).type != "cuda":
        logger.warning("SOLVER.AMP.DTYPE float16 is for CUDA: using bfloat16 on the CPU")
        name = "bfloat16"
    return _AMP_DTYPES[name]
