"""Read a YAML configuration (CfgNode) into a plan; only this file reads keys of a run."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.optim import Optimizer

import tcm_d2.modeling  # noqa: F401 - registers the meta-architectures
from tcm_d2.data.mapper import RotatedDatasetMapper
from tcm_d2.engine.assembly import assemble_experiment, build_recipe_optimizer
from tcm_d2.engine.experiment import Experiment
from tcm_d2.engine.optim import build_lr_multiplier
from tcm_d2.engine.plan import Plan, RunLength
from tcm_d2.evaluation.dota_evaluator import DotaEvaluator
from tcm_d2.inference.tta import TTAConfig

logger = logging.getLogger(__name__)

CONFIG_COPY = "config.yaml"


def build_experiment(cfg: CfgNode, *, for_training: bool, resume: bool = False) -> Experiment:
    """Build the model, and for training the optimizer, schedule and loader, from ``cfg``.

    Args:
        cfg: not changed.
        for_training, resume: see `assemble_experiment`.

    Raises:
        ValueError, FileNotFoundError: a key has a value that does not fit, data are missing or
            empty, or their classes are not the model's.
    """
    return assemble_experiment(plan_from_yaml(cfg), for_training=for_training, resume=resume)


def plan_from_yaml(cfg: CfgNode) -> Plan:
    """Return the plan of a configuration.

    Args:
        cfg: not changed; later changes to it have no effect.

    Raises:
        ValueError: a key has a value that does not fit.
    """
    cfg = cfg.clone()
    _check_fixed_keys(cfg)
    solver, test = cfg.SOLVER, cfg.TEST
    return Plan(
        text=cfg.dump(),
        text_name=CONFIG_COPY,
        output_dir=cfg.OUTPUT_DIR,
        seed=cfg.SEED,
        cudnn_benchmark=cfg.CUDNN_BENCHMARK,
        device=cfg.MODEL.DEVICE,
        weights=cfg.MODEL.WEIGHTS,
        patch_dirs=cfg.DATASETS.PATCH_DIRS,
        classes=cfg.DATASETS.CLASSES,
        train_names=cfg.DATASETS.TRAIN,
        test_names=cfg.DATASETS.TEST,
        drop_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        total_batch_size=solver.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        num_test_workers=cfg.DATALOADER.NUM_WORKERS,
        num_classes=cfg.MODEL.ROTATED_HEAD.NUM_CLASSES,
        prompts=cfg.MODEL.TCM.CLASS_NAMES if cfg.MODEL.TCM.ENABLED else None,
        length=RunLength(
            max_epochs=solver.MAX_EPOCHS,
            step_epochs=solver.STEP_EPOCHS,
            checkpoint_period_epochs=solver.CHECKPOINT_PERIOD_EPOCHS,
            eval_period_epochs=test.EVAL_PERIOD_EPOCHS,
            max_iter=solver.MAX_ITER,
            steps=solver.STEPS,
            checkpoint_period=solver.CHECKPOINT_PERIOD,
            eval_period=test.EVAL_PERIOD,
        ),
        checkpoints_to_keep=solver.CHECKPOINTS_TO_KEEP,
        log_period=cfg.LOG_PERIOD,
        vis_period=cfg.VIS_PERIOD,
        amp_dtype=solver.AMP.DTYPE if solver.AMP.ENABLED else None,
        accumulation_steps=solver.ACCUMULATION_STEPS,
        ema_decay=solver.EMA_DECAY,
        on_non_finite=solver.ON_NON_FINITE,
        tta=_tta_config(test.TTA),
        build_model=partial(_build_model, cfg),
        build_mapper=partial(_build_mapper, cfg),
        build_optimizer=partial(_build_optimizer, cfg),
        build_lr_multiplier=partial(_build_lr_multiplier, cfg),
        build_evaluator=partial(_build_evaluator, cfg),
    )


def _check_fixed_keys(cfg: CfgNode) -> None:
    """Raise ValueError for Detectron2's keys whose other values have no meaning here."""
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING or cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            "DATALOADER: expected SAMPLER_TRAIN 'TrainingSampler' and ASPECT_RATIO_GROUPING False, "
            f"got {cfg.DATALOADER.SAMPLER_TRAIN!r} and {cfg.DATALOADER.ASPECT_RATIO_GROUPING}; "
            "others have no fixed order to resume in"
        )
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise ValueError(
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE: expected 'full_model' (one norm over all "
            f"parameters), got {clip.CLIP_TYPE!r}"
        )


def _tta_config(tta: CfgNode) -> TTAConfig | None:
    if not tta.ENABLED:
        return None
    return TTAConfig(
        flip=tta.FLIP,
        quarter_turns=tta.QUARTER_TURNS,
        scales=tta.SCALES,
        nms_threshold=tta.NMS_THRESH,
        merge=tta.MERGE,
    )


def _build_model(cfg: CfgNode, with_clip_weights: bool) -> nn.Module:
    if cfg.MODEL.CLIP.WEIGHTS and not with_clip_weights:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.CLIP.WEIGHTS = ""
        logger.info("MODEL.CLIP.WEIGHTS is not read: a whole detector's weights follow")
    model: nn.Module = build_model(cfg)
    return model


def _build_mapper(cfg: CfgNode, is_train: bool) -> RotatedDatasetMapper:
    mapper: RotatedDatasetMapper = RotatedDatasetMapper(cfg, is_train)
    return mapper


def _build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    return build_recipe_optimizer(
        model,
        batch_size=solver.IMS_PER_BATCH,
        name=solver.OPTIMIZER,
        lr=solver.BASE_LR,
        reference_batch_size=solver.REFERENCE_BATCH_SIZE,
        image_tower_lr_factor=solver.IMAGE_TOWER_LR_FACTOR,
        weight_decay=solver.WEIGHT_DECAY,
        betas=solver.BETAS,
        eps=solver.EPS,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        clip_max_norm=clip.CLIP_VALUE if clip.ENABLED else 0.0,
        clip_norm_type=clip.NORM_TYPE,
    )


def _build_lr_multiplier(cfg: CfgNode, max_iter: int, steps: list[int]) -> ParamScheduler:
    return build_lr_multiplier(
        max_iter=max_iter,
        milestones=steps,
        gamma=cfg.SOLVER.GAMMA,
        warmup_iters=cfg.SOLVER.WARMUP_ITERS,
        warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
    )


def _build_evaluator(cfg: CfgNode, name: str, folder: Path, distributed: bool) -> DotaEvaluator:
    return DotaEvaluator(
        name,
        folder,
        nms_iou_threshold=cfg.TEST.DOTA.MERGE_NMS_THRESH,
        iou_threshold=cfg.TEST.DOTA.IOU_THRESH,
        metric=cfg.TEST.DOTA.METRIC,
        analysis=cfg.TEST.DOTA.ANALYSIS,
        distributed=distributed,
    )
