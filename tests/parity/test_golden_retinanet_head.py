"""The rotated RetinaNet head against the reference's numbers."""

from __future__ import annotations

import pytest
import torch

from tcm_d2.modeling.heads.retinanet import RotatedRetinaNetHead
from tests.parity.anchor_heads import (
    check_candidates,
    check_gradients,
    check_losses,
    check_predictions,
    features,
    gradients_of_total_loss,
    ground_truths,
    make_head,
    open_golden,
)
from tests.parity.golden import Golden, relative_error


@pytest.fixture(scope="module", params=["committed", "full"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return open_golden(request, "f_head_retinanet", "f_head_retinanet")


@pytest.fixture(scope="module")
def head(golden: Golden) -> RotatedRetinaNetHead:
    return make_head("retinanet", golden)


def test_raw_outputs(golden: Golden, head: RotatedRetinaNetHead) -> None:
    output = head(features(golden))
    for kind, levels in zip(("cls", "bbox"), output):
        for level, values in enumerate(levels):
            name = f"train_{kind}_lvl{level}"
            if name in golden:  # the small copy lacks the two largest maps
                assert relative_error(values, golden[name]) < 1e-5, name


def test_losses_and_gradients(golden: Golden) -> None:
    head = make_head("retinanet", golden)
    inputs = [feature.requires_grad_() for feature in features(golden)]
    losses = head.losses(head(inputs), *ground_truths(golden))
    assert list(losses) == ["loss_cls", "loss_box"]
    check_losses(losses, golden, "loss")
    sum(losses.values()).backward()
    check_gradients(head, inputs, golden, "retinanet")


def test_losses_without_ground_truth(golden: Golden, head: RotatedRetinaNetHead) -> None:
    empty = [torch.zeros(0, 5)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    check_losses(head.losses(head(features(golden)), *empty), golden, "loss_empty")


def test_gradients_equal_those_in_float64(golden: Golden) -> None:
    single = gradients_of_total_loss(make_head("retinanet", golden), golden, torch.float32)
    double = gradients_of_total_loss(make_head("retinanet", golden), golden, torch.float64)
    for name, gradient in single.items():
        assert relative_error(gradient, double[name]) < 1e-4, name


@pytest.mark.parametrize("image", [0, 1])
def test_predictions_before_nms(golden: Golden, head: RotatedRetinaNetHead, image: int) -> None:
    check_candidates(head, golden, image)


@pytest.mark.parametrize("image", [0, 1])
def test_predictions_after_nms(golden: Golden, head: RotatedRetinaNetHead, image: int) -> None:
    check_predictions(head, golden, image)
