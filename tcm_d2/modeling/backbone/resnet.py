"""Detectron2's ResNet in torchvision's layout, as published detectors and ImageNet weights have it.

It is Detectron2's own ``build_resnet_backbone`` with the settings in sight, so that a Python
configuration can spell them and the copy in a run's folder is short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import ResNet, build_resnet_backbone

from tcm_d2.config.nodes import configurable_with_nodes


def torchvision_resnet_arguments(
    cfg: CfgNode, input_shape: ShapeSpec | None = None
) -> dict[str, Any]:
    """Return the arguments of `build_torchvision_resnet` for a Detectron2 configuration."""
    resnets = cfg.MODEL.RESNETS
    return {
        "depth": resnets.DEPTH,
        "stem_channels": resnets.STEM_OUT_CHANNELS,
        "res2_channels": resnets.RES2_OUT_CHANNELS,
        "num_groups": resnets.NUM_GROUPS,
        "width_per_group": resnets.WIDTH_PER_GROUP,
        "norm": resnets.NORM,
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        "out_features": list(cfg.MODEL.ROTATED_FPN.IN_FEATURES),
    }


@configurable_with_nodes(from_config=torchvision_resnet_arguments)
def build_torchvision_resnet(
    *,
    depth: int,
    stem_channels: int,
    res2_channels: int,
    num_groups: int,
    width_per_group: int,
    norm: str,
    freeze_at: int,
    out_features: Sequence[str],
) -> ResNet:
    """Return a ResNet or ResNeXt whose stride is in the 3x3 convolution, as torchvision has it.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stem_channels: 64 but in small models.
        res2_channels: of the first stage's output; 256, with depth 18 or 34 it is 64.
        num_groups: of the 3x3 convolutions; 1 but in ResNeXt.
        width_per_group: their channels per group in the first stage.
        norm: "FrozenBN" keeps statistics and factors, as detectors from ImageNet weights are
            trained; "BN" and "SyncBN" learn both.
        freeze_at: the stem (1) and so many stages less one get no gradients; 0 trains all.
        out_features: of "stem", "res2", ... "res5".
    """
    cfg = get_cfg()
    resnets = cfg.MODEL.RESNETS
    resnets.STRIDE_IN_1X1 = False
    resnets.DEPTH, resnets.NORM = depth, norm
    resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS = stem_channels, res2_channels
    resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = num_groups, width_per_group
    resnets.OUT_FEATURES = list(out_features)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


BACKBONE_REGISTRY._do_register("build_torchvision_resnet_backbone", build_torchvision_resnet)
