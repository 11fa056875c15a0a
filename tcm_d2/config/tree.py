"""Turn a CfgNode into the tree of a Python configuration: YAML is another spelling of it.

The tree has the sections ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``
of configs/lazy, as plain data. Only this file and the parts' own ``from_config`` read keys.
"""

from __future__ import annotations

import logging
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from tcm_d2.config.defaults import default_device, get_tcm_config
from tcm_d2.config.nodes import build_registered, find_part, part_node, takes_nodes
from tcm_d2.config.plain import make_node, plain
from tcm_d2.config.registries import PART_REGISTRY, import_parts
from tcm_d2.config.strict import WatchedConfig, check_everything_is_read

logger = logging.getLogger(__name__)


def config_tree(cfg: CfgNode) -> dict[str, Any]:
    """Return the tree of a configuration.

    Args:
        cfg: not changed; later changes to it have no effect.

    Raises:
        ValueError: a key has a value that does not fit, or a key of Detectron2 was changed that
            has no effect here.
    """
    import_parts()
    watched = WatchedConfig(cfg)
    tree = {
        "model": _model(watched),
        "dataloader": _dataloader(watched),
        "optimizer": optimizer_node(watched),
        "lr_multiplier": schedule_node(watched),
        "train": _train(watched),
    }
    defaults = get_tcm_config()
    check_everything_is_read(watched, defaults)
    _warn_of_iterations(cfg, defaults)
    result: dict[str, Any] = plain(tree)
    return result


def optimizer_node(cfg: CfgNode) -> dict[str, Any]:
    """Return the node of the optimizer; the model and the batch size come when it is built."""
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise ValueError(
            "SOLVER.CLIP_GRADIENTS.CLIP_TYPE: expected 'full_model' (one norm over all "
            f"parameters), got {clip.CLIP_TYPE!r}"
        )
    return make_node(
        _part("build_recipe_optimizer"),
        {
            "name": solver.OPTIMIZER,
            "lr": solver.BASE_LR,
            "reference_batch_size": solver.REFERENCE_BATCH_SIZE,
            "image_tower_lr_factor": solver.IMAGE_TOWER_LR_FACTOR,
            "weight_decay": solver.WEIGHT_DECAY,
            "betas": solver.BETAS,
            "eps": solver.EPS,
            "momentum": solver.MOMENTUM,
            "nesterov": solver.NESTEROV,
            "clip_max_norm": clip.CLIP_VALUE if clip.ENABLED else 0.0,
            "clip_norm_type": clip.NORM_TYPE,
        },
    )


def schedule_node(cfg: CfgNode) -> dict[str, Any]:
    """Return the node of the learning rate's schedule; length and steps come when it is built."""
    solver = cfg.SOLVER
    warmup = {"warmup_iters": solver.WARMUP_ITERS, "warmup_factor": solver.WARMUP_FACTOR}
    gamma = solver.GAMMA
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        return make_node(_part("build_lr_multiplier"), {"gamma": gamma, **warmup})
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        # Detectron2 0.6 has no such key; its cosine ends at 0.
        end_factor = solver.get("BASE_LR_END", 0.0) / solver.BASE_LR
        return make_node(_part("build_cosine_multiplier"), {"end_factor": end_factor, **warmup})
    raise ValueError(
        "SOLVER.LR_SCHEDULER_NAME: expected 'WarmupMultiStepLR' or 'WarmupCosineLR', got "
        f"{solver.LR_SCHEDULER_NAME!r}"
    )


def evaluator_node(cfg: CfgNode) -> dict[str, Any]:
    """Return the node of the evaluator; data set and folder come when it is built."""
    dota = cfg.TEST.DOTA
    return make_node(
        _part("DotaEvaluator"),
        {
            "nms_iou_threshold": dota.MERGE_NMS_THRESH,
            "iou_threshold": dota.IOU_THRESH,
            "metric": dota.METRIC,
            "analysis": dota.ANALYSIS,
        },
    )


def _model(cfg: WatchedConfig) -> dict[str, Any]:
    name, key = cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE"
    part = find_part(META_ARCH_REGISTRY, name, key=key)
    if takes_nodes(part):
        node: dict[str, Any] = plain(part_node(META_ARCH_REGISTRY, name, cfg, key=key))
        return node
    # A foreign one: its from_config would build its parts here and now.
    whole = {"registry": META_ARCH_REGISTRY._name, "name": name, "cfg": yaml.safe_load(cfg.dump())}
    return make_node(build_registered, whole)


def _part(name: str) -> Any:
    return find_part(PART_REGISTRY, name, key="PART")


def _dataloader(cfg: CfgNode) -> dict[str, Any]:
    loader, test = cfg.DATALOADER, cfg.TEST
    groups, sampler = loader.ASPECT_RATIO_GROUPING, loader.SAMPLER_TRAIN
    if groups or sampler != "TrainingSampler":
        raise ValueError(
            "DATALOADER: expected SAMPLER_TRAIN 'TrainingSampler' and ASPECT_RATIO_GROUPING False, "
            f"got {sampler!r} and {groups}; others have no fixed order to resume in"
        )
    mapper = _part("RotatedDatasetMapper")
    return {
        "patch_dirs": cfg.DATASETS.PATCH_DIRS,
        "classes": cfg.DATASETS.CLASSES,
        "train": {
            "names": cfg.DATASETS.TRAIN,
            "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
            "num_workers": loader.NUM_WORKERS,
            "drop_empty": loader.FILTER_EMPTY_ANNOTATIONS,
            "patch_size_px": cfg.INPUT.PATCH_SIZE_PX,
            "mapper": make_node(mapper, mapper.from_config(cfg, is_train=True)),
        },
        "test": {
            "names": cfg.DATASETS.TEST,
            "num_workers": loader.NUM_WORKERS,
            "mapper": make_node(mapper, mapper.from_config(cfg, is_train=False)),
            "evaluator": evaluator_node(cfg),
            "tta": {
                "enabled": test.TTA.ENABLED,
                "flip": test.TTA.FLIP,
                "quarter_turns": test.TTA.QUARTER_TURNS,
                "scales": test.TTA.SCALES,
                "nms_threshold": test.TTA.NMS_THRESH,
                "merge": test.TTA.MERGE,
            },
            "window_scales": test.WINDOW_SCALES,
        },
    }


def _train(cfg: CfgNode) -> dict[str, Any]:
    solver, test, device = cfg.SOLVER, cfg.TEST, cfg.MODEL.DEVICE
    return {
        "output_dir": cfg.OUTPUT_DIR,
        "init_checkpoint": cfg.MODEL.WEIGHTS,
        # The default is this machine's; another machine's is another.
        "device": None if device == default_device() else device,
        "seed": cfg.SEED,
        "cudnn_benchmark": cfg.CUDNN_BENCHMARK,
        "max_epochs": solver.MAX_EPOCHS,
        "step_epochs": solver.STEP_EPOCHS,
        "checkpoint_period_epochs": solver.CHECKPOINT_PERIOD_EPOCHS,
        "eval_period_epochs": test.EVAL_PERIOD_EPOCHS,
        "max_iter": solver.MAX_ITER,
        "steps": solver.STEPS,
        "checkpoint_period": solver.CHECKPOINT_PERIOD,
        "eval_period": test.EVAL_PERIOD,
        "checkpoints_to_keep": solver.CHECKPOINTS_TO_KEEP,
        "early_stop_patience": solver.EARLY_STOP_PATIENCE,
        "log_period": cfg.LOG_PERIOD,
        "vis_period": cfg.VIS_PERIOD,
        "amp": {"enabled": solver.AMP.ENABLED, "dtype": solver.AMP.DTYPE},
        "accumulation_steps": solver.ACCUMULATION_STEPS,
        "ema_decay": solver.EMA_DECAY,
        "on_non_finite": solver.ON_NON_FINITE,
    }


def _warn_of_iterations(cfg: CfgNode, defaults: CfgNode) -> None:
    """Name the numbers of iterations that do not count, as epochs are given."""
    solver, others = cfg.SOLVER, defaults.SOLVER
    names = ("MAX_ITER", "STEPS", "CHECKPOINT_PERIOD")
    unused = [f"SOLVER.{name}" for name in names if solver[name] != others[name]]
    if cfg.TEST.EVAL_PERIOD != defaults.TEST.EVAL_PERIOD:
        unused.append("TEST.EVAL_PERIOD")
    if solver.MAX_EPOCHS > 0 and unused:
        logger.warning(
            "configuration: no effect with SOLVER.MAX_EPOCHS %d (0 counts iterations): %s",
            solver.MAX_EPOCHS,
            ", ".join(unused),
        )
