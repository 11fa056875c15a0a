"""Read a Python configuration (LazyConfig) into a plan; only this file reads keys of one.

Expected are ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier`` and ``train``, as in
configs/lazy.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import instantiate
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from tcm_d2.config.lazy import TARGET_KEY, check_calls
from tcm_d2.engine.assembly import assemble_experiment
from tcm_d2.engine.experiment import Experiment
from tcm_d2.engine.plan import Mapper, Plan, RunLength
from tcm_d2.inference.tta import TTAConfig

logger = logging.getLogger(__name__)

CONFIG_COPY = "config_lazy.yaml"

_CALLS = ("model", "optimizer", "lr_multiplier")
_LENGTH_KEYS = tuple(RunLength.__dataclass_fields__)
# Sections that are plain values, and all their keys.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        *_LENGTH_KEYS,
        *("output_dir", "init_checkpoint", "device", "seed", "cudnn_benchmark"),
        *(
            "checkpoints_to_keep",
            "log_period",
            "vis_period",
            "amp",
            "accumulation_steps",
            "ema_decay",
        ),
        "on_non_finite",
    ),
    "train.amp": ("enabled", "dtype"),
    "dataloader": ("patch_dirs", "classes", "train", "test"),
    "dataloader.train": ("names", "total_batch_size", "num_workers", "drop_empty", "mapper"),
    "dataloader.test": ("names", "num_workers", "mapper", "evaluator", "tta"),
    "dataloader.test.tta": ("enabled", *TTAConfig.__dataclass_fields__),
}


def build_lazy_experiment(
    cfg: DictConfig, *, for_training: bool, resume: bool = False
) -> Experiment:
    """Build the model, and for training the optimizer, schedule and loader, from ``cfg``.

    Args:
        cfg: not changed.
        for_training, resume: see `assemble_experiment`.

    Raises:
        ValueError, FileNotFoundError: a key is unknown or missing or has a value that does not
            fit, data are missing or empty, or their classes are not the model's.
    """
    return assemble_experiment(plan_from_lazy(cfg), for_training=for_training, resume=resume)


def plan_from_lazy(cfg: DictConfig) -> Plan:
    """Return the plan of a configuration.

    Args:
        cfg: not changed; later changes to it have no effect.

    Raises:
        ValueError: a key is unknown (near matches are named) or missing.
    """
    _check_sections(cfg)
    check_calls(cfg)
    if OmegaConf.select(cfg, "model.head.num_classes") is None:
        raise ValueError("configuration: model.head.num_classes: expected a number, got none")
    # Plain containers: constructors get lists, not OmegaConf's.
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    train, data = tree["train"], tree["dataloader"]
    return Plan(
        text=yaml.safe_dump(_with_target_names(tree), sort_keys=False),
        text_name=CONFIG_COPY,
        output_dir=train["output_dir"],
        seed=train["seed"],
        cudnn_benchmark=train["cudnn_benchmark"],
        device=train["device"],
        weights=train["init_checkpoint"],
        patch_dirs=data["patch_dirs"],
        classes=data["classes"],
        train_names=data["train"]["names"],
        test_names=data["test"]["names"],
        drop_empty=data["train"]["drop_empty"],
        total_batch_size=data["train"]["total_batch_size"],
        num_workers=data["train"]["num_workers"],
        num_test_workers=data["test"]["num_workers"],
        num_classes=tree["model"]["head"]["num_classes"],
        prompts=_prompts(tree["model"]),
        length=RunLength(**{key: train[key] for key in _LENGTH_KEYS}),
        checkpoints_to_keep=train["checkpoints_to_keep"],
        log_period=train["log_period"],
        vis_period=train["vis_period"],
        amp_dtype=train["amp"]["dtype"] if train["amp"]["enabled"] else None,
        accumulation_steps=train["accumulation_steps"],
        ema_decay=train["ema_decay"],
        on_non_finite=train["on_non_finite"],
        tta=_tta_config(data["test"]["tta"]),
        build_model=partial(_build_model, tree),
        build_mapper=partial(_build_mapper, data),
        build_optimizer=partial(_build_optimizer, tree),
        build_lr_multiplier=partial(_build_lr_multiplier, tree),
        build_evaluator=partial(_build_evaluator, data["test"]),
    )


def _check_sections(cfg: DictConfig) -> None:
    """Raise ValueError where a section lacks a key or has one that nothing reads."""
    for name in _CALLS:
        node = cfg.get(name)
        if not isinstance(node, DictConfig) or TARGET_KEY not in node:
            raise ValueError(
                f"configuration: {name}: expected a LazyCall, got {node!r}; import it from "
                "configs/lazy/common or write one"
            )
    for section, keys in _SECTIONS.items():
        node = OmegaConf.select(cfg, section)
        if not isinstance(node, DictConfig):
            raise ValueError(f"configuration: {section}: expected a section, got {node!r}")
        unknown = sorted(str(key) for key in node if key not in keys)
        if unknown:
            near = difflib.get_close_matches(unknown[0], keys, n=3, cutoff=0.5)
            raise ValueError(
                f"configuration: unknown key '{section}.{unknown[0]}'"
                + (f"; near matches: {', '.join(near)}" if near else "")
                + f"; known: {', '.join(keys)}"
            )
        missing = [key for key in keys if key not in node]
        if missing:
            raise ValueError(
                f"configuration: {section}: missing keys: {', '.join(missing)}; see "
                "configs/lazy/common"
            )
    unused = sorted(str(key) for key in cfg if key not in (*_CALLS, "train", "dataloader"))
    if unused:
        logger.info("configuration: not used: %s", ", ".join(unused))


def _prompts(model: dict[str, Any]) -> Sequence[str] | None:
    """Return the class prompts without their template; None for a model without text."""
    text = model.get("class_text")
    return None if text is None else text["class_names"]


def _tta_config(values: dict[str, Any]) -> TTAConfig | None:
    choices = {key: value for key, value in values.items() if key != "enabled"}
    return TTAConfig(**choices) if values["enabled"] else None


def _with_target_names(node: Any) -> Any:
    """Return plain containers with functions and classes replaced by their names."""
    if isinstance(node, dict):
        return {key: _with_target_names(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_with_target_names(value) for value in node]
    if callable(node):
        return f"{node.__module__}.{node.__qualname__}"
    return node if isinstance(node, (str, int, float, bool, type(None))) else repr(node)


def _build_model(tree: dict[str, Any], with_clip_weights: bool) -> nn.Module:
    config = tree["model"]
    if not with_clip_weights and config["backbone"].get("weights"):
        config = {**config, "backbone": {**config["backbone"], "weights": ""}}
        logger.info("model.backbone.weights is not read: a whole detector's weights follow")
    model: nn.Module = instantiate(config)
    return model.to(tree["train"]["device"])


def _build_mapper(data: dict[str, Any], is_train: bool) -> Mapper:
    mapper: Mapper = instantiate(data["train" if is_train else "test"]["mapper"])
    return mapper


def _build_optimizer(tree: dict[str, Any], model: nn.Module) -> Optimizer:
    batch_size = tree["dataloader"]["train"]["total_batch_size"]
    optimizer: Optimizer = instantiate(
        {**tree["optimizer"], "model": model, "batch_size": batch_size}
    )
    return optimizer


def _build_lr_multiplier(tree: dict[str, Any], max_iter: int, steps: list[int]) -> ParamScheduler:
    multiplier: ParamScheduler = instantiate(
        {**tree["lr_multiplier"], "max_iter": max_iter, "milestones": steps}
    )
    return multiplier


def _build_evaluator(test: dict[str, Any], name: str, folder: Path, distributed: bool) -> Any:
    return instantiate(
        {
            **test["evaluator"],
            "dataset_name": name,
            "output_dir": folder,
            "distributed": distributed,
        }
    )
