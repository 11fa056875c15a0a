"""Build a trained detector from its configuration, of either kind, and its weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from torch import nn

import tcm_d2.modeling  # noqa: F401 - registers the meta-architectures
from tcm_d2.checkpoint.inference_file import inference_config
from tcm_d2.checkpoint.load import EMA_KEY, SafeCheckpointer, load_weights
from tcm_d2.config.lazy import TARGET_KEY, load_lazy_config
from tcm_d2.config.loader import load_config
from tcm_d2.config.registries import registered_targets
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES, class_name_to_prompt
from tcm_d2.inference.find_files import Sources, is_lazy_copy
from tcm_d2.modeling.clip.text import LABEL_FIELD
from tcm_d2.weight_files.reading import read_weight_file


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A trained detector and what its configuration says about inference.

    Attributes:
        model: in evaluation mode, on its device.
        classes: class names in label order.
        image_format: order of the input's channels.
        resize_factor: on images before the model sees them.
        merge_nms_threshold: IoU above which merging windows suppresses.
        tta: the values of TEST.TTA, lower case.
    """

    model: nn.Module
    classes: tuple[str, ...]
    image_format: str
    resize_factor: float
    merge_nms_threshold: float
    tta: dict[str, Any]


class _Settings(NamedTuple):
    classes: tuple[str, ...]
    image_format: str
    resize_factor: float
    merge_nms_threshold: float
    tta: dict[str, Any]
    uses_average: bool
    prompt_template: str


def build_pretrained(
    sources: Sources,
    *,
    device: str | torch.device | None,
    class_names: Sequence[str] | None,
    prompts: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> Pretrained:
    """Build the model of a configuration and load its weights; every parameter must be there.

    Args:
        sources: see `find_sources`.
        device: None takes CUDA where there is one, else the CPU.
        class_names: names in label order; None takes those of the configuration.
        prompts: what the text tower reads for the classes, in label order; None takes those of the
            configuration.
        overrides: of a configuration file (not of a copy in an output folder of a Python one, nor
            of the one inside a weight file): see `load_config` and `load_lazy_config`.

    Raises:
        FileNotFoundError, ValueError: files or overrides that cannot be used, weights that do not
            fit, another number of class names or prompts than the model has, prompts for a model
            without a text tower, or a device that is not there.
    """
    place = usable_device(device)
    model, settings = _build(sources, overrides)
    checkpointer = SafeCheckpointer(model)
    rest = checkpointer.load(
        os.fspath(sources.weights), checkpointables=[], require_all_parameters=True
    )
    if settings.uses_average and EMA_KEY in rest:
        load_weights(model, rest[EMA_KEY], source=f"{sources.weights}, {EMA_KEY}")
    if prompts is not None:
        detector: Any = model
        detector.set_class_names(prompts, template=settings.prompt_template)
    num_classes = int(getattr(model.head, "num_classes"))  # noqa: B009 - typed as a tensor
    return Pretrained(
        model=model.to(place).eval(),
        classes=check_class_names(class_names, settings.classes, num_classes),
        image_format=settings.image_format,
        resize_factor=settings.resize_factor,
        merge_nms_threshold=settings.merge_nms_threshold,
        tta=settings.tta,
    )


def _build(sources: Sources, overrides: Sequence[str]) -> tuple[nn.Module, _Settings]:
    """Build the untrained model; the kind of its configuration is seen from the file."""
    config = sources.config
    if config.suffix == ".py":
        lazy = load_lazy_config(config, overrides)
        tree: Any = OmegaConf.to_container(lazy, resolve=True)
        return _from_lazy(tree, str(config))
    is_inside = config == sources.weights
    if not is_inside and not is_lazy_copy(config):
        return _from_yaml(load_config(config, overrides))
    if overrides:
        raise ValueError(
            f"overrides: expected a configuration file of configs/ or config.yaml, got {config} "
            f"and {list(overrides)}; name the file that the detector was trained with"
        )
    if is_inside:
        return _from_yaml(inference_config(read_weight_file(config), source=str(config)))
    return _from_lazy(_read_lazy_copy(config), str(config))


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return the device; None is CUDA where there is one.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected 'cuda', 'cuda:1' or 'cpu', got {device!r}") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        build = "is built without CUDA" if torch.version.cuda is None else "finds no GPU or driver"
        raise ValueError(
            f"device: {device!r} asked for, but torch {torch.__version__} {build}; leave device "
            "out or use device='cpu' (nvidia-smi shows whether the driver sees a GPU)"
        )
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: {device!r} asked for, but there are {torch.cuda.device_count()} GPUs, "
            "counted from 0"
        )
    return place


def check_class_names(
    given: Sequence[str] | None, configured: Sequence[str], num_classes: int
) -> tuple[str, ...]:
    """Return the class names of a model.

    Raises:
        ValueError: another number of names than the head has outputs, or a name twice.
    """
    names = tuple(configured) if given is None else tuple(given)
    if isinstance(given, str):
        raise ValueError(f"class_names: expected a list of names, got the text {given!r}")
    if len(names) != num_classes:
        known = ", ".join(configured)
        raise ValueError(
            f"class_names: expected {num_classes} names, one per output of the head, got "
            f"{len(names)} ({', '.join(names)}); the configuration says: {known}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"class_names: expected different names, got {twice} more than once")
    return names


def _from_yaml(cfg: CfgNode) -> tuple[nn.Module, _Settings]:
    cfg.MODEL.DEVICE = "cpu"
    # The detector's own weights replace them.
    cfg.MODEL.CLIP.WEIGHTS = ""
    prompts = cfg.MODEL.TCM.CLASS_NAMES if cfg.MODEL.TCM.ENABLED else None
    classes = _classes(cfg.DATASETS.CLASSES, prompts, cfg.MODEL.ROTATED_HEAD.NUM_CLASSES)
    model: nn.Module = build_model(cfg)
    return model, _Settings(
        classes,
        cfg.INPUT.FORMAT,
        float(cfg.INPUT.RESIZE_FACTOR_TEST),
        float(cfg.TEST.DOTA.MERGE_NMS_THRESH),
        {key.lower(): value for key, value in cfg.TEST.TTA.items()},
        cfg.SOLVER.EMA_DECAY > 0,
        cfg.MODEL.TCM.PROMPT_TEMPLATE,
    )


def _from_lazy(tree: dict[str, Any], source: str) -> tuple[nn.Module, _Settings]:
    try:
        config, data, train = tree["model"], tree["dataloader"], tree["train"]
        if config["backbone"].get("weights"):
            config = {**config, "backbone": {**config["backbone"], "weights": ""}}
        text = config.get("class_text")
        names = None if text is None else text["class_names"]
        test = data["test"]
        factor = _lazy_resize_factor(test["mapper"]["augmentations"])
        settings = _Settings(
            _classes(data["classes"], names, config["head"]["num_classes"]),
            test["mapper"]["image_format"],
            factor,
            float(test["evaluator"]["nms_iou_threshold"]),
            dict(test.get("tta", {})),
            train["ema_decay"] > 0,
            LABEL_FIELD if text is None else text["template"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{source}: expected a configuration as in configs/lazy, lacks {error}"
        ) from None
    model: nn.Module = instantiate(config)
    return model, settings


def _lazy_resize_factor(augmentations: Sequence[Any]) -> float:
    for augmentation in augmentations:
        if isinstance(augmentation, dict) and list(augmentation.get("factors", ())):
            return float(augmentation["factors"][0])
    return 1.0


def _read_lazy_copy(path: Path) -> dict[str, Any]:
    """Read the copy of a Python configuration; only constructors of ours may stand in it."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ValueError(f"{path}: expected the copy of a Python configuration, with a model")
    refused = sorted(set(_targets(tree["model"])) - registered_targets().keys())
    if refused:
        raise ValueError(
            f"{path}: refused, because its model would call {', '.join(refused)}; give the Python "
            "configuration that you trust instead (config_file='my_config.py')"
        )
    return tree


def _targets(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [str(node[TARGET_KEY])] if TARGET_KEY in node else []
        return own + [name for value in node.values() for name in _targets(value)]
    if isinstance(node, list):
        return [name for value in node for name in _targets(value)]
    return []


def _classes(
    configured: Sequence[str], prompts: Sequence[str] | None, num_classes: int
) -> tuple[str, ...]:
    """Return class names: the data set's, DOTA's, the prompts, or numbers."""
    if configured:
        return tuple(configured)
    dota = [class_name_to_prompt(name) for name in DOTA_V1_CLASSES]
    if prompts is None:
        if num_classes == len(DOTA_V1_CLASSES):
            return DOTA_V1_CLASSES
        return tuple(f"class {index}" for index in range(num_classes))
    if [class_name_to_prompt(prompt) for prompt in prompts] == dota:
        return DOTA_V1_CLASSES
    return tuple(prompts)
