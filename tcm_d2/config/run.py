"""A run as its configuration describes it: what training, inference, export and tools build from.

``open_config`` reads every kind of file: YAML, a Python configuration, the copy that a run writes
into its folder, and weights with such a copy inside.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

import torch
from detectron2.config import CfgNode
from torch import nn

from tcm_d2.config.device import usable_device
from tcm_d2.config.lazy import SUFFIX as PYTHON_SUFFIX
from tcm_d2.config.lazy import load_lazy_config, located
from tcm_d2.config.loader import load_config
from tcm_d2.config.old_names import without_retired_arguments
from tcm_d2.config.plain import TARGET_KEY, build, check_calls, plain
from tcm_d2.config.saved_copy import copy_text, is_copy, read_copy, read_weight_copy
from tcm_d2.config.tree import config_tree
from tcm_d2.messages import near_match_hint
from tcm_d2.packaged_configs import locate_config

logger = logging.getLogger(__name__)

YAML_SUFFIXES = (".yaml", ".yml")
WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors")
_Section = TypeVar("_Section")
Node = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """The section ``train.amp``: "float16" or "bfloat16", where it is enabled."""

    enabled: bool
    dtype: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The section ``train``; configs/lazy/common/train.py explains it."""

    output_dir: str
    init_checkpoint: str
    device: str | None
    seed: int
    cudnn_benchmark: bool
    max_epochs: int
    step_epochs: list[int]
    checkpoint_period_epochs: int
    eval_period_epochs: int
    max_iter: int
    steps: list[int]
    checkpoint_period: int
    eval_period: int
    checkpoints_to_keep: int
    early_stop_patience: int = 0
    log_period: int
    vis_period: int
    amp: Precision
    accumulation_steps: int
    ema_decay: float
    on_non_finite: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainData:
    """The section ``dataloader.train``; configs/lazy/common/data.py explains it."""

    names: list[str]
    total_batch_size: int
    num_workers: int
    drop_empty: bool
    patch_size_px: int = 0
    mapper: Node


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """The section ``dataloader.test.tta``: several views of each image in an evaluation alone."""

    enabled: bool
    flip: bool
    quarter_turns: list[int]
    scales: list[float]
    nms_threshold: float
    merge: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestData:
    """The section ``dataloader.test``; configs/lazy/common/data.py explains it."""

    names: list[str]
    num_workers: int
    mapper: Node
    evaluator: Node
    tta: Views
    window_scales: list[float] = dataclasses.field(default_factory=lambda: [1.0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The section ``dataloader``; configs/lazy/common/data.py explains it."""

    patch_dirs: list[str]
    classes: list[str]
    train: TrainData
    test: TestData


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The tree of a configuration, before any file of data or weights is opened.

    Attributes:
        model, optimizer, lr_multiplier: nodes, see `tcm_d2.config.nodes`.
        dataloader, train: values and further nodes.
        source: where it is from, for messages.
    """

    model: Node
    dataloader: DataSettings
    optimizer: Node
    lr_multiplier: Node
    train: TrainSettings
    source: str

    @property
    def text(self) -> str:
        """The copy for a run's folder: the tree as YAML."""
        return copy_text({key: _as_tree(getattr(self, key)) for key in _SECTIONS})

    @property
    def device(self) -> torch.device:
        """Where the model will be.

        Raises:
            ValueError: this machine has no such device.
        """
        return usable_device(self.train.device)

    @property
    def num_classes(self) -> int | None:
        """Outputs of the head; None where a foreign model does not say it."""
        places = (self.model.get("head"), self.model, self.dataloader.train.mapper)
        for node in places:
            number = node.get("num_classes") if isinstance(node, dict) else None
            if isinstance(number, int):
                return number
        return None

    @property
    def class_text(self) -> tuple[list[str], str] | None:
        """Class prompts and the template around them; None for a model without text."""
        text = self.model.get("class_text")
        return (text["class_names"], text["template"]) if isinstance(text, dict) else None

    @property
    def prompts(self) -> list[str] | None:
        """Class prompts without their template; None for a model without text."""
        return None if self.class_text is None else self.class_text[0]

    def build_model(
        self, *, with_part_weights: bool = True, device: str | torch.device | None = None
    ) -> nn.Module:
        """Build the model, untrained.

        Args:
            with_part_weights: False does not read the backbone's own weights (CLIP's), as a whole
                detector's weights will replace them.
            device: None takes the configuration's.

        Raises:
            ValueError, FileNotFoundError: a part refuses its arguments or cannot be built.
        """
        node, backbone = self.model, self.model.get("backbone")
        if not with_part_weights and isinstance(backbone, dict) and backbone.get("weights"):
            node = {**node, "backbone": {**backbone, "weights": ""}}
            logger.info("model.backbone.weights is not read: a whole detector's weights follow")
        model: nn.Module = build(node)
        return model.to(self.device if device is None else usable_device(device))

    def with_patch_size(self, size_px: int) -> Run:
        """Return the run with the side of its training images, unless it says one itself."""
        train = self.dataloader.train
        known = dataclasses.replace(train, patch_size_px=train.patch_size_px or size_px)
        data = dataclasses.replace(self.dataloader, train=known)
        return dataclasses.replace(self, dataloader=data)

    def build_mapper(self, *, is_train: bool) -> Any:
        """Build what turns a data set's dict into the model's input."""
        return build(self.dataloader.train.mapper if is_train else self.dataloader.test.mapper)


_SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
_NODES = ("model", "optimizer", "lr_multiplier")


def open_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Run:
    """Return the run that a file describes.

    Args:
        path: ``.yaml`` or ``.py``; or the ``config.yaml`` of a run's folder; or weights with a
            configuration inside; or, where there is no such file, a name of `locate_config`.
        overrides: ``KEY VALUE`` pairs for keys in capitals (YAML), ``key=value`` for all others;
            see `load_config` and `load_lazy_config`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, or a file or override that cannot be used.
    """
    path = locate_config(path)
    suffix = path.suffix.lower()
    if suffix == PYTHON_SUFFIX:
        return run_from_tree(located(plain(load_lazy_config(path, overrides))), source=str(path))
    if suffix in WEIGHT_SUFFIXES:
        found = read_weight_copy(path, overrides)
    elif suffix not in YAML_SUFFIXES:
        raise ValueError(
            f"config file '{path}': expected {', '.join(YAML_SUFFIXES)} or {PYTHON_SUFFIX}, got "
            f"'{suffix or 'no suffix'}'"
        )
    else:
        found = read_copy(path, overrides) if is_copy(path) else load_config(path, overrides)
    if isinstance(found, CfgNode):
        return run_from_cfg(found, source=str(path))
    return run_from_tree(found, source=str(path))


def run_from_cfg(cfg: CfgNode, *, source: str = "configuration") -> Run:
    """Return the run that a CfgNode describes; see `config_tree`."""
    return run_from_tree(config_tree(cfg), source=source)


def run_from_tree(tree: dict[str, Any], *, source: str = "configuration") -> Run:
    """Return the run that a tree describes.

    Args:
        tree: plain data, see `plain`; becomes the run's.
        source: where it is from, for messages.

    Raises:
        ValueError: a key is unknown (near matches are named) or missing.
    """
    for name in _NODES:
        node = tree.get(name)
        if not isinstance(node, dict) or TARGET_KEY not in node:
            raise ValueError(
                f"configuration: {name}: expected a LazyCall, got {node!r}; import it from "
                "configs/lazy/common or write one"
            )
    unused = sorted(str(key) for key in tree if key not in _SECTIONS)
    if unused:
        logger.info("configuration: not used: %s", ", ".join(unused))
    tree = without_retired_arguments(tree)
    check_calls(tree)
    return Run(
        **{name: tree[name] for name in _NODES},
        dataloader=_read_section(DataSettings, tree.get("dataloader"), "dataloader"),
        train=_read_section(TrainSettings, tree.get("train"), "train"),
        source=source,
    )


def _read_section(kind: type[_Section], values: Any, key: str) -> _Section:
    """Return a section of the tree; its keys are the fields of ``kind``."""
    if not isinstance(values, dict):
        raise ValueError(f"configuration: {key}: expected a section, got {values!r}")
    kinds = get_type_hints(kind)
    unknown = sorted(str(name) for name in values if name not in kinds)
    if unknown:
        raise ValueError(
            f"configuration: unknown key '{key}.{unknown[0]}'"
            f"{near_match_hint(unknown[0], kinds)}; known: {', '.join(kinds)}"
        )
    # Later keys, which older configurations lack, have a default: what was meant before them.
    missing = [name for name in _keys_without_default(kind) if name not in values]
    if missing:
        raise ValueError(
            f"configuration: {key}: missing keys: {', '.join(missing)}; see configs/lazy/common"
        )
    read = {
        name: _read_section(kinds[name], value, f"{key}.{name}")
        if dataclasses.is_dataclass(kinds[name])
        else value
        for name, value in values.items()
    }
    return kind(**read)


def _keys_without_default(kind: Any) -> list[str]:
    nothing = dataclasses.MISSING
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is nothing and field.default_factory is nothing
    ]


def _as_tree(section: Any) -> Any:
    """Return a section as the plain data it was read from."""
    if not dataclasses.is_dataclass(section):
        return section
    fields = dataclasses.fields(section)
    return {field.name: _as_tree(getattr(section, field.name)) for field in fields}
