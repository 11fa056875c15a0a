"""Detectors to load weights into: full-size ones without values, small ones with."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

import tcm_d2.modeling  # noqa: F401  registers the meta-architectures
from tcm_d2.config import load_config
from tests.conftest import REPO_DIR
from tests.parity.detector import small_config
from tests.parity.heads import HeadKind


def full_size_model(kind: HeadKind, **keys: object) -> nn.Module:
    """Return the published model on the meta device: names and shapes without values.

    Args:
        kind: its head.
        keys: configuration keys, dots written as double underscores.
    """
    cfg = _config(kind, {"MODEL.DEVICE": "meta", **keys})
    with torch.device("meta"):
        return build_model(cfg)


def full_size_state(kind: HeadKind, **keys: object) -> dict[str, Tensor]:
    """Return the state dict of `full_size_model`."""
    return dict(full_size_model(kind, **keys).state_dict())


def small_detector(kind: HeadKind = "fcos", **keys: object) -> nn.Module:
    """Return a detector with the golden models' CLIP, narrow everywhere else.

    Args:
        kind, keys: see `full_size_model`.
    """
    cfg = _config(kind, {"MODEL.DEVICE": "cpu"})
    cfg.MODEL.CLIP = small_config().MODEL.CLIP
    cfg.MODEL.TCM.DECODER_WIDTH = 16
    cfg.MODEL.TCM.DECODER_LAYERS = 1
    cfg.MODEL.ROTATED_FPN.OUT_CHANNELS = 32
    cfg.MODEL.ROTATED_HEAD.CHANNELS = 32
    cfg.MODEL.ROTATED_HEAD.NUM_CONVS = 2
    _set(cfg, keys)
    return build_model(cfg).eval()


def _config(kind: HeadKind, keys: dict[str, object]) -> CfgNode:
    cfg = load_config(REPO_DIR / "configs" / f"tcm_{kind}.yaml")
    _set(cfg, keys)
    return cfg


def _set(cfg: CfgNode, keys: dict[str, object]) -> None:
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])


def read_reference_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and kind (param, frozen, buffer) of each tensor of a full-size reference."""
    rows = {}
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            name, shape, _, kind = line.split()
            rows[name] = (tuple(int(n) for n in shape.strip("()").split(",") if n), kind)
    return rows


def reference_state(path: Path) -> dict[str, Tensor]:
    """Return a full-size reference's state dict on the meta device."""
    shapes = read_reference_shapes(path)
    return {name: torch.empty(shape, device="meta") for name, (shape, _) in shapes.items()}
