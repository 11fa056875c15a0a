"""The copy of a configuration, in a run's folder and inside weights made for inference.

It is the tree as plain YAML: parts by name, of which only registered ones are ever built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from omegaconf import OmegaConf

from tcm_d2.config.lazy import apply_overrides
from tcm_d2.config.loader import load_config_text, merge_overrides, read_yaml
from tcm_d2.config.old_names import upgrade_tree
from tcm_d2.config.plain import plain, with_names
from tcm_d2.config.yaml_text import parse_yaml
from tcm_d2.weight_files.reading import WeightFile, read_weight_file

COPY_NAME = "config.yaml"
# Copies of Python configurations had a name of their own.
COPY_NAMES = (COPY_NAME, "config_lazy.yaml")
# Under which a file of weights keeps facts about itself; all are text, as safetensors wants it.
METADATA_KEY = "metadata"
CONFIG_KEY, CLASS_NAMES_KEY = "config", "class_names"
# Sections and keys with places on the writer's machine, of no use elsewhere.
_PLACES: tuple[tuple[str, str, Any], ...] = (
    ("train", "init_checkpoint", ""),
    ("train", "output_dir", "output"),
    ("model.backbone", "weights", ""),
    ("dataloader", "patch_dirs", []),
)


def copy_text(tree: Mapping[str, Any]) -> str:
    """Return a tree as YAML."""
    text: str = yaml.safe_dump(with_names(plain(tree)), sort_keys=False)
    return text


def is_copy(path: Path) -> bool:
    """Say whether a YAML file holds a tree, and not keys in capitals."""
    return _is_tree(read_yaml(path))


def read_copy(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the tree of a copy, changed by ``key=value``; of this or of an earlier form.

    Raises:
        ValueError: the file or an override cannot be used.
    """
    return _tree(read_yaml(path), overrides)


def read_weight_copy(
    path: str | os.PathLike[str], overrides: Sequence[str] = ()
) -> dict[str, Any] | CfgNode:
    """Return the tree inside a file of weights, or the CfgNode inside an older one.

    Raises:
        FileNotFoundError, ValueError: the file or an override cannot be used, or it holds no
            configuration.
    """
    file = read_weight_file(path)
    if not holds_config(file):
        raise ValueError(
            f"weights '{path}': hold no configuration; give the one they were trained with, or "
            "write them with tcm-d2 convert --for-inference"
        )
    text, source = file.rest[METADATA_KEY][CONFIG_KEY], f"configuration in '{path}'"
    tree = parse_yaml(text, source)
    if _is_tree(tree):
        return _tree(tree, overrides)
    cfg = load_config_text(text, source=source)
    merge_overrides(cfg, overrides)
    return cfg


def holds_config(file: WeightFile) -> bool:
    """Return whether a file has a configuration in it."""
    metadata = file.rest.get(METADATA_KEY)
    return isinstance(metadata, Mapping) and isinstance(metadata.get(CONFIG_KEY), str)


def inference_metadata(text: str, class_names: Sequence[str]) -> dict[str, str]:
    """Return what to store beside the tensors of a model made for inference.

    Args:
        text: the copy of the configuration. Paths of files are taken out.
        class_names: in label order.
    """
    tree = yaml.safe_load(text)
    for section, key, value in _PLACES:
        node = tree
        for name in section.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict) and key in node:
            node[key] = value
    return {
        CONFIG_KEY: yaml.safe_dump(tree, sort_keys=False),
        CLASS_NAMES_KEY: json.dumps(list(class_names)),
    }


def _is_tree(values: Mapping[str, Any]) -> bool:
    return isinstance(values.get("model"), dict)


def _tree(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    cfg = OmegaConf.create(upgrade_tree(values))
    apply_overrides(cfg, overrides)
    tree: dict[str, Any] = plain(cfg)
    return tree
