"""The backbone of published detectors: torchvision's layout and weights, frozen statistics."""

from __future__ import annotations

import pytest
import torch
import torchvision
from detectron2.config import CfgNode, instantiate
from detectron2.config import LazyCall as L
from detectron2.modeling import build_model

from tcm_d2.checkpoint.load import load_weights
from tcm_d2.modeling.backbone.resnet import build_torchvision_resnet
from tcm_d2.modeling.detector import RotatedOneStageDetector
from tests.modeling.test_seats import plain_config, resnet_config, train_a_step

NAME = "build_torchvision_resnet_backbone"


def detector_config(depth: int, **keys: object) -> CfgNode:
    own: dict[str, object] = dict(
        MODEL__BACKBONE__NAME=NAME,
        MODEL__RESNETS__DEPTH=depth,
        MODEL__RESNETS__RES2_OUT_CHANNELS=64 if depth < 50 else 256,
        MODEL__RESNETS__NORM="FrozenBN",
    )
    return resnet_config(**{**own, **keys})


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_torchvision_weights_give_its_features(name: str) -> None:
    """With random statistics of the norms, so that none goes unnoticed."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().eval()
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    keys = {"MODEL__RESNETS__NUM_GROUPS": 32, "MODEL__RESNETS__WIDTH_PER_GROUP": 4}
    cfg = detector_config(18 if name == "resnet18" else 50, **(keys if "resnext" in name else {}))
    detector = build_model(cfg)
    report = load_weights(detector, theirs.state_dict(), source=f"{name}.pth")
    assert report.unexpected == [] and report.mismatched == []
    assert {n.partition(".")[0] for n in report.missing} == {"neck", "head"}
    assert {"fc.weight", "fc.bias"} <= set(report.dead) and report.converted_from == "torchvision"
    image = torch.randn(1, 3, 64, 96)
    parts = [*theirs.children()][:-2]  # without pooling and classifier
    with torch.no_grad():
        expected = torch.nn.Sequential(*parts)(image)
        actual = detector.eval().backbone(image)["res5"]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_resnext_trains_from_yaml_keys_and_in_a_python_configuration() -> None:
    groups = {"MODEL__RESNETS__NUM_GROUPS": 2, "MODEL__RESNETS__WIDTH_PER_GROUP": 4}
    widths = {"MODEL__RESNETS__STEM_OUT_CHANNELS": 8, "MODEL__RESNETS__RES2_OUT_CHANNELS": 32}
    cfg = detector_config(50, **groups, **widths)
    torch.manual_seed(0)
    first = build_model(cfg)
    tree = RotatedOneStageDetector.from_config(plain_config())
    tree["backbone"] = L(build_torchvision_resnet)(
        depth=50,
        stem_channels=8,
        res2_channels=32,
        num_groups=2,
        width_per_group=4,
        norm="FrozenBN",
        freeze_at=0,
        out_features=["res3", "res4", "res5"],
    )
    torch.manual_seed(0)
    second = instantiate(L(RotatedOneStageDetector)(**tree))
    before = {name: value.clone() for name, value in first.named_buffers()}
    losses, same_losses = train_a_step(first), train_a_step(second)
    assert all(torch.equal(losses[name], same_losses[name]) for name in losses)
    assert all(torch.equal(value, before[name]) for name, value in first.named_buffers())


def test_frozen_stages_get_no_gradient() -> None:
    backbone = build_model(detector_config(18, MODEL__BACKBONE__FREEZE_AT=2)).backbone
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}
