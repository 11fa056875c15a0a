"""Head names of mmrotate checkpoints: every one finds a tensor of our full-size heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from tcm_d2.checkpoint.head_names import HeadKind, convert_head_name, find_head_kind
from tcm_d2.config import load_config
from tcm_d2.modeling.meta_arch.builders import atss_head, fcos_head, retinanet_head
from tests.conftest import REPO_DIR

BUILDERS: dict[HeadKind, Callable[[CfgNode], nn.Module]] = {
    "fcos": fcos_head,
    "atss": atss_head,
    "retinanet": retinanet_head,
}
PREFIX = "bbox_head."


@pytest.mark.parametrize("kind", ["fcos", "atss", "retinanet"])
def test_every_full_size_tensor_has_its_place(golden_dir: Path, kind: HeadKind) -> None:
    shapes = {}
    for line in (golden_dir / f"param_names_{kind}.txt").read_text().splitlines():
        if line.startswith(PREFIX):
            name, shape = line.removeprefix(PREFIX).split()[:2]
            shapes[name] = tuple(int(n) for n in shape.strip("()").split(",") if n)
    assert find_head_kind(shapes) == kind
    head = BUILDERS[kind](load_config(REPO_DIR / "configs" / f"tcm_{kind}.yaml"))
    ours = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    assert {convert_head_name(name, kind): shape for name, shape in shapes.items()} == ours


def test_one_name_in_different_heads() -> None:
    assert convert_head_name("scales.3.scale", "fcos") == "distance_scales.3.scale"
    assert convert_head_name("scales.3.scale", "atss") == "delta_scales.3.scale"
    assert convert_head_name("scales.3.scale", "retinanet") is None
    assert convert_head_name("cls_convs.2.conv.weight", "atss") == "class_tower.6.weight"
    assert convert_head_name("cls_convs.2.conv.weight", "retinanet") == "class_tower.4.weight"
    assert convert_head_name("atss_cls.weight", "fcos") is None
    assert convert_head_name("atss_cls", "atss") is None


def test_head_of_unknown_names() -> None:
    assert find_head_kind([]) is None
    assert find_head_kind(["cls_convs.0.conv.weight", "gfl_cls.weight"]) is None


def test_loaded_atss_head_keeps_the_values() -> None:
    head = atss_head(load_config(REPO_DIR / "configs" / "tcm_atss.yaml"))
    scale = {convert_head_name("scales.0.scale", "atss"): torch.tensor(2.5)}
    missing, unexpected = head.load_state_dict(scale, strict=False)
    assert not unexpected and missing
    assert head.delta_scales[0].scale.item() == 2.5
