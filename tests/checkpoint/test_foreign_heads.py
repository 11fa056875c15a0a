"""Head names of mmrotate checkpoints: every one finds a tensor of our full-size heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tcm_d2.checkpoint.convert import convert_head_name, find_foreign_head, find_own_head
from tcm_d2.config import load_config
from tests.conftest import REPO_DIR
from tests.modeling.small_clip import build_head
from tests.parity.heads import FOREIGN_NAMES, HeadKind

PREFIX = "bbox_head."


def full_size_head(kind: HeadKind) -> nn.Module:
    return build_head(load_config(REPO_DIR / "configs" / f"tcm_{kind}.yaml"))


@pytest.mark.parametrize("kind", ["fcos", "atss", "retinanet"])
def test_every_full_size_tensor_has_its_place(golden_dir: Path, kind: HeadKind) -> None:
    shapes = {}
    for line in (golden_dir / f"param_names_{kind}.txt").read_text().splitlines():
        if line.startswith(PREFIX):
            name, shape = line.removeprefix(PREFIX).split()[:2]
            shapes[name] = tuple(int(n) for n in shape.strip("()").split(",") if n)
    foreign = find_foreign_head(shapes)
    assert foreign is FOREIGN_NAMES[kind]
    state = full_size_head(kind).state_dict()
    ours = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert {convert_head_name(name, foreign): shape for name, shape in shapes.items()} == ours
    assert find_own_head(f"head.{name}" for name in ours) is foreign


def test_one_name_in_different_heads() -> None:
    fcos, atss, retinanet = (FOREIGN_NAMES[kind] for kind in ("fcos", "atss", "retinanet"))
    assert convert_head_name("scales.3.scale", fcos) == "distance_scales.3.scale"
    assert convert_head_name("scales.3.scale", atss) == "delta_scales.3.scale"
    assert convert_head_name("scales.3.scale", retinanet) is None
    assert convert_head_name("cls_convs.2.conv.weight", atss) == "class_tower.6.weight"
    assert convert_head_name("cls_convs.2.conv.weight", retinanet) == "class_tower.4.weight"
    assert convert_head_name("atss_cls.weight", fcos) is None
    assert convert_head_name("atss_cls", atss) is None


def test_head_of_unknown_names() -> None:
    assert find_foreign_head([]) is None
    assert find_foreign_head(["cls_convs.0.conv.weight", "gfl_cls.weight"]) is None
    assert find_own_head(["head.class_predictor.weight", "head.class_tower.0.weight"]) is None
    assert find_own_head(["head.class_predictor.weight", "head.gfl_scale"]) is None


def test_loaded_atss_head_keeps_the_values() -> None:
    head = full_size_head("atss")
    scale = {convert_head_name("scales.0.scale", FOREIGN_NAMES["atss"]): torch.tensor(2.5)}
    missing, unexpected = head.load_state_dict(scale, strict=False)
    assert not unexpected and missing
    assert head.delta_scales[0].scale.item() == 2.5
