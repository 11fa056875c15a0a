"""The configuration inside a weight file made for inference, so that the file alone is a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode

from tcm_d2.config.loader import load_config_text
from tcm_d2.weight_files.reading import WeightFile

# Under which a file keeps facts about itself; all are text, as safetensors wants it.
METADATA_KEY = "metadata"
CONFIG_KEY, CLASS_NAMES_KEY = "config", "class_names"
# Places on the writer's machine, of no use elsewhere; of a YAML and of a Python configuration.
_PATHS: tuple[tuple[str, Any], ...] = (
    ("MODEL.WEIGHTS", ""),
    ("MODEL.CLIP.WEIGHTS", ""),
    ("OUTPUT_DIR", "output"),
    ("DATASETS.PATCH_DIRS", []),
    ("train.init_checkpoint", ""),
    ("model.clip.weights", ""),
    ("model.backbone.weights", ""),
    ("train.output_dir", "output"),
    ("dataloader.patch_dirs", []),
)


def inference_metadata(config_text: str, class_names: Sequence[str]) -> dict[str, str]:
    """Return what to store beside the tensors of a model made for inference.

    Args:
        config_text: the whole configuration as YAML, as a run writes it into its folder. Paths of
            files are taken out.
        class_names: in label order.
    """
    tree = yaml.safe_load(config_text)
    for key, value in _PATHS:
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.get(section, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict) and last in node:
            node[last] = value
    return {
        CONFIG_KEY: yaml.safe_dump(tree, sort_keys=False),
        CLASS_NAMES_KEY: json.dumps(list(class_names)),
    }


def holds_config(file: WeightFile) -> bool:
    """Return whether a file has a configuration in it."""
    metadata = file.rest.get(METADATA_KEY)
    return isinstance(metadata, Mapping) and isinstance(metadata.get(CONFIG_KEY), str)


def inference_config(file: WeightFile, *, source: str) -> CfgNode:
    """Return the configuration that a file made for inference holds.

    Args:
        file: as read.
        source: its name, for messages.

    Raises:
        ValueError: it holds none, or one of a Python configuration (which names functions to
            call, and these are not taken from weight files).
    """
    if not holds_config(file):
        raise ValueError(
            f"weights '{source}': hold no configuration; give the one they were trained with, or "
            "write them with tools/convert_checkpoint.py --for-inference"
        )
    text: str = file.rest[METADATA_KEY][CONFIG_KEY]
    if "\nMODEL:" not in f"\n{text}":
        raise ValueError(
            f"weights '{source}': were written with a Python configuration, which is not built "
            "from a weight file; give that configuration's file"
        )
    return load_config_text(text, source=f"configuration in '{source}'")
