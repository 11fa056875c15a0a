"""Find and build a trained detector from what a user points at: a folder, weights or a config."""

from __future__ import annotations

import difflib
import logging
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
from tcm_d2.checkpoint.inference_file import holds_config, inference_config
from tcm_d2.checkpoint.load import EMA_KEY, SafeCheckpointer, load_weights
from tcm_d2.config.lazy import TARGET_KEY, load_lazy_config
from tcm_d2.config.loader import load_config
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES, class_name_to_prompt
from tcm_d2.inference.shipped import find_shipped, list_shipped
from tcm_d2.modeling.clip.text import LABEL_FIELD
from tcm_d2.weight_files.reading import read_weight_file

logger = logging.getLogger(__name__)

WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")
YAML_SUFFIXES = (".yaml", ".yml")
# What a run writes: its whole configuration, of the one kind or the other.
CONFIG_COPIES = ("config.yaml", "config_lazy.yaml")
_LAZY_COPY = CONFIG_COPIES[1]
_FINAL_WEIGHTS = ("model_final.pth", "model.safetensors", "model_final.safetensors")
_LAST_CHECKPOINT = "last_checkpoint"
# What the copy of a Python configuration may call; nothing else in it is looked up.
_ALLOWED_TARGETS = frozenset(
    f"tcm_d2.modeling.{name}"
    for name in (
        "meta_arch.assembly.build_detector",
        "meta_arch.assembly.TCMConfig",
        "meta_arch.assembly.FPNConfig",
        "clip.weights.CLIPConfig",
        "clip.text.format_prompts",
        "heads.fcos.RotatedFCOSHead",
        "heads.atss.RotatedATSSHead",
        "heads.retinanet.RotatedRetinaNetHead",
        "dense.assigners.FCOSAssigner",
        "dense.anchor_assigners.ATSSAssigner",
        "dense.anchor_assigners.MaxIoUAssigner",
        "dense.anchors.AnchorGenerator",
    )
)


class Sources(NamedTuple):
    """The two files that a trained detector consists of."""

    config: Path
    weights: Path


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


def find_sources(
    path: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None,
    config_file: str | os.PathLike[str] | None,
) -> Sources:
    """Return the configuration and the weights that a path stands for.

    Args:
        path: an output folder, a weight file, a configuration, or a name of `list_shipped`.
        weights: the weights, where ``path`` is a configuration or a folder with several.
        config_file: the configuration, where it does not lie beside the weights.

    Raises:
        FileNotFoundError: something is not there; says what was looked for.
        ValueError: several files fit, or the path is of no kind known here.
    """
    target = find_shipped(path) or Path(path).expanduser()
    config = None if config_file is None else _existing(config_file, "configuration")
    chosen = None if weights is None else _existing(weights, "weights")
    if target.is_dir():
        return Sources(config or _config_in(target), chosen or _weights_in(target))
    if not target.is_file():
        raise FileNotFoundError(_missing_message(target))
    suffix = target.suffix.lower()
    if suffix in WEIGHT_SUFFIXES:
        if chosen is not None:
            raise ValueError(f"weights: given twice, as {target} and as {chosen}; give one")
        return Sources(config or _config_of(target), target)
    if suffix not in (*YAML_SUFFIXES, ".py"):
        raise ValueError(
            f"{target}: expected a folder, a weight file ({', '.join(WEIGHT_SUFFIXES)}) or a "
            f"configuration (.yaml, .py), got '{suffix or 'no suffix'}'"
        )
    if config is not None:
        raise ValueError(f"configuration: given twice, as {target} and as {config}; give one")
    return Sources(target, chosen or _weights_of(target))


def build_pretrained(
    sources: Sources,
    *,
    device: str | torch.device | None,
    class_names: Sequence[str] | None,
    prompts: Sequence[str] | None = None,
) -> Pretrained:
    """Build the model of a configuration and load its weights; every parameter must be there.

    Args:
        sources: see `find_sources`.
        device: None takes CUDA where there is one, else the CPU.
        class_names: names in label order; None takes those of the configuration.
        prompts: what the text tower reads for the classes, in label order; None takes those of the
            configuration.

    Raises:
        FileNotFoundError, ValueError: files that cannot be used, weights that do not fit, another
            number of class names or prompts than the model has, prompts for a model without a text
            tower, or a device that is not there.
    """
    place = usable_device(device)
    if sources.config.suffix == ".py":
        tree: Any = OmegaConf.to_container(load_lazy_config(sources.config), resolve=True)
        model, settings = _from_lazy(tree, str(sources.config))
    elif sources.config == sources.weights:
        file = read_weight_file(sources.weights)
        model, settings = _from_yaml(inference_config(file, source=str(sources.weights)))
    elif sources.config.name == _LAZY_COPY or _looks_lazy(sources.config):
        model, settings = _from_lazy(_read_lazy_copy(sources.config), str(sources.config))
    else:
        model, settings = _from_yaml(load_config(sources.config))
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


def _existing(path: str | os.PathLike[str], what: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(f"{what} '{found}': no such file{_near(found)}")
    return found


def _missing_message(path: Path) -> str:
    return (
        f"'{path}': no such file or folder{_near(path)}; expected an output folder with "
        f"{CONFIG_COPIES[0]} and {_FINAL_WEIGHTS[0]}, a weight file with {CONFIG_COPIES[0]} beside "
        f"it, a configuration, or a shipped detector ({', '.join(list_shipped())})"
    )


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor is there a folder '{path.parent}')"
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], cutoff=0.5)
    return f"; near it: {', '.join(near)}" if near else ""


def _config_in(folder: Path, *, beside: Path | None = None) -> Path:
    names = [f"{beside.stem}.yaml", *CONFIG_COPIES] if beside else list(CONFIG_COPIES)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"'{beside or folder}': found no configuration ({', '.join(names)} in {folder}); training "
        "writes one there, or name it: config_file='configs/tcm_fcos.yaml' (--config-file)"
    )


def _config_of(weights: Path) -> Path:
    """Return the configuration beside weights, or the weights themselves where it is in them."""
    try:
        return _config_in(weights.parent, beside=weights)
    except FileNotFoundError:
        if not _has_config_inside(weights):
            raise
    return weights


def _has_config_inside(weights: Path) -> bool:
    try:
        return holds_config(read_weight_file(weights))
    except ValueError:  # said in full where the weights are loaded
        return False


def _weights_in(folder: Path) -> Path:
    for name in _FINAL_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    last = folder / _LAST_CHECKPOINT
    if last.is_file():
        name = last.read_text(encoding="utf-8").strip()
        if Path(name).name == name and (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES and p.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"'{folder}': holds several weight files ({', '.join(p.name for p in found[:6])}); "
            "give the path of one"
        )
    raise FileNotFoundError(
        f"'{folder}': found no weights ({', '.join(_FINAL_WEIGHTS)} or one "
        f"{' or '.join(WEIGHT_SUFFIXES)} file); has the training finished?"
    )


def _weights_of(config: Path) -> Path:
    """Return the weights that a configuration names, or those beside it."""
    name = _named_weights(config)
    if name:
        return _existing(name, f"weights named in {config}:")
    try:
        return _weights_in(config.parent)
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"'{config}': a configuration without weights ({error}). Untrained, it would find "
            "nothing: give trained ones with weights='model_final.pth' (--weights)"
        ) from None


def _named_weights(config: Path) -> str:
    if config.suffix == ".py":
        return str(OmegaConf.select(load_lazy_config(config), "train.init_checkpoint") or "")
    if config.name == _LAZY_COPY or _looks_lazy(config):
        return ""
    return str(load_config(config).MODEL.WEIGHTS or "")


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
        if config["clip"]["weights"]:
            config = {**config, "clip": {**config["clip"], "weights": ""}}
        prompts = config["clip"]["class_prompts"] if config.get("tcm") is not None else None
        names = prompts["class_names"] if isinstance(prompts, dict) else prompts
        test = data["test"]
        factor = _lazy_resize_factor(test["mapper"]["augmentations"])
        settings = _Settings(
            _classes(data["classes"], names, config["head"]["num_classes"]),
            test["mapper"]["image_format"],
            factor,
            float(test["evaluator"]["nms_iou_threshold"]),
            dict(test.get("tta", {})),
            train["ema_decay"] > 0,
            prompts["template"] if isinstance(prompts, dict) else LABEL_FIELD,
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


def _looks_lazy(path: Path) -> bool:
    """Say whether a YAML file is the copy of a Python configuration."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return any(line.strip().startswith(f"{TARGET_KEY}:") for line in text.splitlines())


def _read_lazy_copy(path: Path) -> dict[str, Any]:
    """Read the copy of a Python configuration; only constructors of ours may stand in it."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ValueError(f"{path}: expected the copy of a Python configuration, with a model")
    refused = sorted(set(_targets(tree["model"])) - _ALLOWED_TARGETS)
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
