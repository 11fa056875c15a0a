"""The synchronised norm in one process; tests/engine/test_data_parallel.py has it in two."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tcm_d2.layers.sync_norm import SyncBatchNorm2d
from tcm_d2.modeling.backbone.clip_resnet import CLIPResNet


def _tower() -> nn.Module:
    from open_clip.modified_resnet import ModifiedResNet

    torch.manual_seed(0)
    return ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=2, image_size=32, width=8)


def test_names_and_numbers_are_batch_norms() -> None:
    plain = CLIPResNet(_tower(), norm="BN")
    synchronised = CLIPResNet(_tower(), norm="SyncBN")
    assert list(synchronised.state_dict()) == list(plain.state_dict())
    kinds = {type(m) for m in synchronised.modules() if "Norm" in type(m).__name__}
    assert kinds == {SyncBatchNorm2d}
    images = torch.randn(2, 3, 64, 64)
    for model in (plain, synchronised):
        model(images)["res5"].square().sum().backward()
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter.grad, synchronised.get_parameter(name).grad), name
    for name, value in plain.state_dict().items():
        assert torch.equal(value, synchronised.state_dict()[name]), name


def test_replacing_keeps_tensors_and_mode() -> None:
    model = nn.Sequential(nn.Sequential(nn.BatchNorm2d(2, eps=0.1, momentum=0.3))).eval()
    old = model[0][0]
    SyncBatchNorm2d.replace_in(model)
    new = model[0][0]
    assert isinstance(new, SyncBatchNorm2d) and not new.training
    assert new.weight is old.weight and new.running_var is old.running_var
    assert (new.eps, new.momentum) == (0.1, 0.3)


@pytest.mark.parametrize(
    "options", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}]
)
def test_unusual_norms_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="BatchNorm to synchronise: expected one with parameters"):
        SyncBatchNorm2d.replace_in(nn.Sequential(nn.BatchNorm2d(2, **options)))
