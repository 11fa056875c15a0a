"""Heads and backbones that are not of this package, by name, from YAML keys and from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone, build_model
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem
from torch import nn

from tcm_d2.config import get_tcm_config
from tcm_d2.config.nodes import part_node
from tcm_d2.config.registries import import_user_part
from tcm_d2.modeling.detector import RotatedOneStageDetector
from tcm_d2.modeling.neck.fpn import FPNConfig
from tests.modeling.test_one_stage import tiny_config, two_inputs

USER_FILE = '''
"""A head with one more convolution and a key of its own, and a backbone of three convolutions."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from tcm_d2.config.nodes import configurable_with_nodes
from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY
from tcm_d2.modeling.heads.retinanet import RotatedRetinaNetHead


@ROTATED_HEAD_REGISTRY.register()
class HeadOfAUser(RotatedRetinaNetHead):
    @configurable_with_nodes
    def __init__(self, *, gain, **settings):
        super().__init__(**settings)
        self.gain = gain

    @classmethod
    def add_config(cls, cfg):
        cfg.MODEL.HEAD_OF_A_USER = CfgNode({"GAIN": 2.0})

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), "gain": cfg.MODEL.HEAD_OF_A_USER.GAIN}

    def forward(self, features):
        return super().forward([self.gain * feature for feature in features])


class ConvBackbone(Backbone):
    def __init__(self, channels):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 8, stride=8)
        self.second = nn.Conv2d(channels, channels, 2, stride=2)
        self.third = nn.Conv2d(channels, channels, 2, stride=2)
        self.channels = channels

    def forward(self, images):
        c3 = self.stem(images)
        c4 = self.second(c3.relu())
        return {"c3": c3, "c4": c4, "c5": self.third(c4.relu())}

    def output_shape(self):
        return {n: ShapeSpec(channels=self.channels, stride=s) for n, s in
                (("c3", 8), ("c4", 16), ("c5", 32))}


@BACKBONE_REGISTRY.register()
def build_backbone_of_a_user(cfg, input_shape):
    assert input_shape.channels == 3
    return ConvBackbone(cfg.MODEL.RESNETS.STEM_OUT_CHANNELS)
'''


@pytest.fixture(scope="module", autouse=True)
def user_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user") / "seats_of_a_user.py"
    path.write_text(USER_FILE)
    import_user_part(path)
    return path


def plain_config(**keys: object) -> CfgNode:
    """Return a small detector's configuration without TCM; dots are double underscores."""
    cfg = get_tcm_config()  # anew: it has the keys of the user's parts
    cfg.merge_from_other_cfg(tiny_config(tcm=False))
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def resnet_config(**keys: object) -> CfgNode:
    own: dict[str, object] = dict(
        MODEL__BACKBONE__NAME="build_resnet_backbone",
        MODEL__BACKBONE__FREEZE_AT=0,
        MODEL__RESNETS__DEPTH=18,
        MODEL__RESNETS__RES2_OUT_CHANNELS=64,
        MODEL__RESNETS__NORM="BN",
        MODEL__RESNETS__OUT_FEATURES=["res3", "res4", "res5"],
    )
    return plain_config(**{**own, **keys})


def user_config() -> CfgNode:
    return plain_config(
        MODEL__BACKBONE__NAME="build_backbone_of_a_user",
        MODEL__RESNETS__STEM_OUT_CHANNELS=16,
        MODEL__ROTATED_FPN__IN_FEATURES=["c3", "c4", "c5"],
        MODEL__ROTATED_HEAD__NAME="HeadOfAUser",
        MODEL__HEAD_OF_A_USER__GAIN=0.5,
    )


def train_a_step(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the losses of a step that reached every parameter; detect once after it."""
    inputs = [{k: v for k, v in i.items() if k != "class_masks"} for i in two_inputs()]
    losses: dict[str, torch.Tensor] = model.train()(inputs)
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    model.eval()
    with torch.no_grad():
        assert len(model(inputs)) == 2
    return losses


@pytest.mark.parametrize("make_config", [resnet_config, user_config])
def test_a_foreign_part_trains_from_yaml_keys_and_as_a_tree(make_config) -> None:
    cfg = make_config()
    torch.manual_seed(0)
    first = build_model(cfg)
    key = "MODEL.META_ARCHITECTURE"
    node = part_node(META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE, cfg, key=key)
    torch.manual_seed(0)
    second = instantiate(node)
    assert type(second) is RotatedOneStageDetector
    losses, same_losses = train_a_step(first), train_a_step(second)
    assert losses.keys() == same_losses.keys()
    assert all(torch.equal(losses[name], same_losses[name]) for name in losses)


def make_regnet(*, norm: str) -> Backbone:
    return RegNet(
        stem_class=SimpleStem,
        stem_width=8,
        block_class=ResBottleneckBlock,
        depth=6,
        w_a=8.0,
        w_0=8,
        w_m=2.0,
        group_width=8,
        norm=norm,
        out_features=["s2", "s3", "s4"],
    )


def make_swin() -> Backbone:
    swin = pytest.importorskip(
        "detectron2.modeling.backbone.swin", reason="Detectron2 0.6 has no Swin; its main has"
    )
    return swin.SwinTransformer(
        embed_dim=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=4,
        out_indices=(1, 2, 3),
    )


def make_vitdet() -> Backbone:
    vit = pytest.importorskip(
        "detectron2.modeling.backbone.vit", reason="Detectron2 0.6 has no ViTDet; its main has"
    )
    network = vit.ViT(
        img_size=64, patch_size=16, embed_dim=16, depth=2, num_heads=2, out_feature="last_feat"
    )
    return vit.SimpleFeaturePyramid(
        network, in_feature="last_feat", out_channels=16, scale_factors=(2.0, 1.0, 0.5), norm="LN"
    )


# What to make, and the outputs of 8, 16 and 32 px.
BACKBONES = {
    "regnet": (L(make_regnet)(norm="BN"), ["s2", "s3", "s4"]),
    "swin": (L(make_swin)(), ["p1", "p2", "p3"]),
    "vitdet": (L(make_vitdet)(), ["p3", "p4", "p5"]),
}


@pytest.mark.parametrize(("backbone", "outputs"), BACKBONES.values(), ids=BACKBONES)
def test_other_backbones_of_detectron2_train_in_a_python_configuration(
    backbone: Any, outputs: list[str]
) -> None:
    tree = RotatedOneStageDetector.from_config(plain_config())
    tree["backbone"] = backbone
    tree["neck"] = L(FPNConfig)(
        in_features=outputs, out_channels=32, extra_levels_from="input", relu_before_extra=False
    )
    train_a_step(instantiate(L(RotatedOneStageDetector)(**tree)))


@pytest.mark.parametrize(("backbone", "outputs"), BACKBONES.values(), ids=BACKBONES)
def test_other_backbones_of_detectron2_train_by_a_registered_name(
    backbone: Any, outputs: list[str]
) -> None:
    """Detectron2 registers none of them: one function does it."""

    def build_other_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
        return instantiate(backbone)

    BACKBONE_REGISTRY.register(build_other_backbone)
    try:
        keys = {"BACKBONE__NAME": "build_other_backbone", "ROTATED_FPN__IN_FEATURES": outputs}
        train_a_step(build_model(plain_config(**{f"MODEL__{k}": v for k, v in keys.items()})))
    finally:
        del BACKBONE_REGISTRY._obj_map["build_other_backbone"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"MODEL__TCM__ENABLED": True}, r"ResNet has no text tower for TCM; use CLIP's"),
        (
            {"MODEL__RESNETS__OUT_FEATURES": ["res4", "res5"]},
            r"neck\.in_features: the backbone has no output res3; it has .*res4, res5",
        ),
        (
            {"MODEL__ROTATED_FPN__IN_FEATURES": ["res4", "res5"]},
            r"head\.strides_px: expected \[16, 32, 64, 128\], those of the pyramid",
        ),
        (
            {"MODEL__ROTATED_HEAD__NAME": "RotatedFCOS"},
            r"MODEL\.ROTATED_HEAD\.NAME: unknown name 'RotatedFCOS'; near .*RotatedFCOSHead",
        ),
        ({"MODEL__BACKBONE__NAME": "resnet"}, r"MODEL\.BACKBONE\.NAME: unknown name 'resnet'"),
    ],
)
def test_parts_that_do_not_fit_are_named(keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(resnet_config(**keys))


def test_the_key_of_a_user_and_the_shape_of_the_pyramid_reach_the_head() -> None:
    node = RotatedOneStageDetector.from_config(user_config())["head"]
    assert node.gain == 0.5 and node.in_channels == 32
