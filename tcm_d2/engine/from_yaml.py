"""Turn a YAML configuration (CfgNode) into an Experiment; only this file reads keys of a run."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer

import tcm_d2.modeling  # noqa: F401 - registers the meta-architectures
from tcm_d2.data.mapper import RotatedDatasetMapper
from tcm_d2.engine.datasets import (
    Record,
    check_dataset_fits,
    load_records,
    load_training_records,
    register_datasets,
)
from tcm_d2.engine.experiment import Evaluation, Experiment, Training
from tcm_d2.engine.optim import (
    build_lr_multiplier,
    build_optimizer,
    build_parameter_groups,
    clip_gradients_before_step,
    iterations_per_epoch,
    scale_learning_rate,
)
from tcm_d2.engine.seeding import derive_seed, seed_everything
from tcm_d2.engine.stream import ResumableLoader, SampleStream, check_batch_size
from tcm_d2.evaluation.dota_evaluator import DotaEvaluator

logger = logging.getLogger(__name__)

# Domains of derive_seed.
_MODEL_SEED, _DATA_SEED, _STEP_SEED = 0, 1, 2
_AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def build_experiment(cfg: CfgNode, *, for_training: bool, resume: bool = False) -> Experiment:
    """Build the model, and for training the optimizer, schedule and loader, from ``cfg``.

    The data sets of ``cfg`` get registered. CLIP's own weights are not read when
    ``MODEL.WEIGHTS`` or a checkpoint to resume from replaces them anyway.

    Args:
        cfg: not changed.
        for_training: False leaves out all that only training needs.
        resume: a checkpoint in OUTPUT_DIR, if there is one, will replace the weights.

    Raises:
        ValueError, FileNotFoundError: a key has a value that does not fit, data are missing or
            empty, or their classes are not the model's.
    """
    register_datasets(cfg.DATASETS.PATCH_DIRS, cfg.DATASETS.CLASSES)
    seed = _shared_seed(cfg)
    names = [*(cfg.DATASETS.TRAIN if for_training else ()), *cfg.DATASETS.TEST]
    for name in names:
        check_dataset_fits(
            name,
            num_classes=cfg.MODEL.ROTATED_HEAD.NUM_CLASSES,
            prompts=cfg.MODEL.TCM.CLASS_NAMES if cfg.MODEL.TCM.ENABLED else None,
            text="MODEL.TCM.CLASS_NAMES",
        )
    # Before the model: what is wrong with the data shows before large weights are read.
    records: list[Record] = []
    if for_training:
        records = load_training_records(
            cfg.DATASETS.TRAIN, drop_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    model = _build_model(cfg, seed, resume=resume)
    return Experiment(
        model=model,
        weights=cfg.MODEL.WEIGHTS,
        training=_build_training(cfg, model, records, seed) if for_training else None,
        evaluations=tuple(_build_evaluation(cfg, name) for name in cfg.DATASETS.TEST),
        output_dir=cfg.OUTPUT_DIR,
        ema_decay=cfg.SOLVER.EMA_DECAY,
    )


def _shared_seed(cfg: CfgNode) -> int:
    """Return SEED, or a random one that all processes share."""
    if cfg.SEED >= 0:
        return int(cfg.SEED)
    seed = int(comm.shared_random_seed())
    logger.info("SEED is -1: this run draws %d", seed)
    return seed


def _build_model(cfg: CfgNode, seed: int, *, resume: bool) -> nn.Module:
    tagged = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    if cfg.MODEL.CLIP.WEIGHTS and (cfg.MODEL.WEIGHTS or (resume and tagged.is_file())):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.CLIP.WEIGHTS = ""
        logger.info("MODEL.CLIP.WEIGHTS is not read: a whole detector's weights follow")
    # The same initial weights in all processes.
    seed_everything(derive_seed(seed, _MODEL_SEED))
    model: nn.Module = build_model(cfg)
    logger.info("model:\n%s", model)
    return model


def _build_training(cfg: CfgNode, model: nn.Module, records: list[Record], seed: int) -> Training:
    check_batch_size(
        cfg.SOLVER.IMS_PER_BATCH,
        world_size=comm.get_world_size(),
        accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
    )
    epoch = iterations_per_epoch(len(records), cfg.SOLVER.IMS_PER_BATCH)
    counts = _Iterations(cfg, epoch)
    logger.info(
        "%d images, %d per iteration in all processes: %d iterations per epoch, %d in all, "
        "learning-rate steps at %s",
        len(records),
        cfg.SOLVER.IMS_PER_BATCH,
        epoch,
        counts.max_iter,
        counts.steps,
    )
    return Training(
        optimizer=_build_optimizer(cfg, model),
        lr_multiplier=build_lr_multiplier(
            max_iter=counts.max_iter,
            milestones=counts.steps,
            gamma=cfg.SOLVER.GAMMA,
            warmup_iters=cfg.SOLVER.WARMUP_ITERS,
            warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
        ),
        loader=_build_train_loader(cfg, records, derive_seed(seed, _DATA_SEED)),
        max_iter=counts.max_iter,
        checkpoint_period=counts.checkpoint_period,
        checkpoints_to_keep=cfg.SOLVER.CHECKPOINTS_TO_KEEP,
        eval_period=counts.eval_period,
        log_period=cfg.LOG_PERIOD,
        amp_dtype=_amp_dtype(cfg),
        accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
        on_non_finite=cfg.SOLVER.ON_NON_FINITE,
        seed=derive_seed(seed, _STEP_SEED),
    )


class _Iterations:
    """The run's milestones in iterations: from epochs, or MAX_EPOCHS 0 and iterations."""

    def __init__(self, cfg: CfgNode, epoch: int) -> None:
        solver = cfg.SOLVER
        if solver.MAX_EPOCHS > 0:
            self.max_iter = solver.MAX_EPOCHS * epoch
            self.steps = [step * epoch for step in solver.STEP_EPOCHS]
            self.checkpoint_period = solver.CHECKPOINT_PERIOD_EPOCHS * epoch
            self.eval_period = cfg.TEST.EVAL_PERIOD_EPOCHS * epoch
        else:
            self.max_iter = solver.MAX_ITER
            self.steps = list(solver.STEPS)
            self.checkpoint_period = solver.CHECKPOINT_PERIOD
            self.eval_period = cfg.TEST.EVAL_PERIOD
        # 0 is never; the hook wants a number and saves the last iteration anyway.
        self.checkpoint_period = self.checkpoint_period or self.max_iter + 1


def _build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    solver = cfg.SOLVER
    optimizer = build_optimizer(
        build_parameter_groups(
            model,
            base_lr=scale_learning_rate(
                solver.BASE_LR,
                batch_size=solver.IMS_PER_BATCH,
                reference_batch_size=solver.REFERENCE_BATCH_SIZE,
            ),
            image_tower_lr_factor=solver.IMAGE_TOWER_LR_FACTOR,
            weight_decay=solver.WEIGHT_DECAY,
        ),
        name=solver.OPTIMIZER,
        betas=solver.BETAS,
        eps=solver.EPS,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
    )
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED:
        if clip.CLIP_TYPE != "full_model":
            raise ValueError(
                "SOLVER.CLIP_GRADIENTS.CLIP_TYPE: expected 'full_model' (one norm over all "
                f"parameters), got {clip.CLIP_TYPE!r}"
            )
        clip_gradients_before_step(optimizer, max_norm=clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)
    return optimizer


def _build_train_loader(cfg: CfgNode, records: list[Record], seed: int) -> ResumableLoader:
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING or cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            "DATALOADER: expected SAMPLER_TRAIN 'TrainingSampler' and ASPECT_RATIO_GROUPING False, "
            f"got {cfg.DATALOADER.SAMPLER_TRAIN!r} and {cfg.DATALOADER.ASPECT_RATIO_GROUPING}; "
            "others have no fixed order to resume in"
        )
    mapper_arguments: dict[str, Any] = RotatedDatasetMapper.from_config(cfg, True)
    # The stream chooses what stands in for an unreadable image, by its position alone.
    mapper_arguments["load_alternatives"] = None
    open_stream = partial(
        _open_stream,
        records,
        RotatedDatasetMapper(**mapper_arguments),
        seed=seed,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
    )
    return ResumableLoader(open_stream, num_workers=cfg.DATALOADER.NUM_WORKERS)


def _open_stream(
    records: list[Record],
    mapper: RotatedDatasetMapper,
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


def _build_evaluation(cfg: CfgNode, name: str) -> Evaluation:
    return Evaluation(name, partial(_open_test_loader, cfg, name), partial(_evaluator, cfg, name))


def _open_test_loader(cfg: CfgNode, name: str) -> Any:
    return build_detection_test_loader(
        load_records(name),
        mapper=RotatedDatasetMapper(cfg, False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _evaluator(cfg: CfgNode, name: str) -> DotaEvaluator:
    kind = MetadataCatalog.get(name).get("evaluator_type", None)
    if kind != "dota":
        raise ValueError(
            f"DATASETS.TEST: data set {name!r} has evaluator type {kind!r}, expected 'dota'; "
            "register it with tcm_d2.data.dota.register"
        )
    return DotaEvaluator(
        name,
        Path(cfg.OUTPUT_DIR) / "inference" / name,
        nms_iou_threshold=cfg.TEST.DOTA.MERGE_NMS_THRESH,
        iou_threshold=cfg.TEST.DOTA.IOU_THRESH,
        metric=cfg.TEST.DOTA.METRIC,
        distributed=comm.get_world_size() > 1,
    )


def _amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    name = cfg.SOLVER.AMP.DTYPE
    if name not in _AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE: expected one of {list(_AMP_DTYPES)}, got {name!r}")
    if name == "float16" and torch.device(cfg.MODEL.DEVICE).type != "cuda":
        logger.warning("SOLVER.AMP.DTYPE float16 is for CUDA: using bfloat16 on the CPU")
        name = "bfloat16"
    return _AMP_DTYPES[name]
