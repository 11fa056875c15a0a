"""S2A-Net's head: training, assignment to boxes that lie anywhere, sampling in a box."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling import build_model

from tcm_d2.modeling.dense.anchor_assigners import MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.heads.s2anet import RotatingConv, kernel_offsets
from tests.modeling.test_one_stage import tiny_config, two_inputs
from tests.modeling.test_seats import plain_config, train_a_step

HEAD = {"MODEL__ROTATED_HEAD__NAME": "RotatedS2ANetHead", "MODEL__ROTATED_HEAD__NORM": ""}


def test_a_step_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    losses = train_a_step(build_model(plain_config(**HEAD)))
    assert set(losses) == {"loss_cls_first", "loss_box_first", "loss_cls", "loss_box"}


def test_text_prompts_reach_both_stages() -> None:
    cfg = tiny_config(tcm=True)
    cfg.MODEL.ROTATED_HEAD.NAME, cfg.MODEL.ROTATED_HEAD.NORM = "RotatedS2ANetHead", ""
    losses = build_model(cfg).train()(two_inputs())
    sum(losses.values()).backward()
    assert "loss_score_map" in losses and all(torch.isfinite(v) for v in losses.values())


def test_images_without_objects_have_a_loss_of_classes_alone() -> None:
    model = build_model(plain_config(**HEAD)).train()
    inputs = two_inputs()
    for image in inputs:
        image["instances"] = image["instances"][:0]
    losses = model(inputs)
    assert losses["loss_box"] == 0 and losses["loss_box_first"] == 0 and losses["loss_cls"] > 0
    sum(losses.values()).backward()


def test_assignment_to_any_boxes_is_that_of_the_grid() -> None:
    torch.manual_seed(0)
    generator = AnchorGenerator(
        strides_px=[8, 16], base_side_strides=4.0, scales_per_octave=1, ratios=[1.0]
    )
    grid = generator.make_grid([(16, 16), (8, 8)], torch.device("cpu"))
    scale = torch.tensor([128.0, 128.0, 40.0, 20.0, 180.0])
    boxes = [torch.rand(n, 5) * scale + torch.tensor([0, 0, 21, 12, -90]) for n in (5, 0, 9)]
    assigner = MaxIoUAssigner(
        positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0, iou_rounding="exact"
    )
    of_grid = assigner.assign(grid, boxes)
    anywhere = assigner.assign_boxes(grid.boxes.expand(3, -1, -1), boxes)
    assert len(of_grid.location_index) > 14
    assert all(torch.equal(a, b) for a, b in zip(of_grid, anywhere, strict=True))


def test_kernel_lies_on_the_thirds_of_a_box() -> None:
    xs = torch.arange(4.0).repeat(3) * 8
    ys = torch.arange(3.0).repeat_interleave(4) * 8
    upright = torch.stack([xs, ys, *torch.full((2, 12), 24.0), torch.zeros(12)], dim=1)[None]
    still = torch.zeros(1, 12)
    assert kernel_offsets(upright, still, (3, 4), 8).abs().max() == 0
    # The width axis up: the kernel's right cell goes there.
    offsets = kernel_offsets(upright, still - math.pi / 2, (3, 4), 8)[0, :, 1, 1].reshape(9, 2)
    torch.testing.assert_close(offsets[5], torch.tensor([-1.0, -1.0]))  # y, x


def test_eight_turns_of_a_filter() -> None:
    conv = RotatingConv(1, 8)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(1.0, 10.0).reshape(1, 1, 1, 3, 3))
    delta = torch.zeros(1, 1, 5, 5)
    delta[0, 0, 2, 2] = 1
    kernels = conv(delta)[0, :, 1:4, 1:4].flip(1, 2)  # correlation turns it around
    quarter = torch.rot90(kernels[0], -1)
    torch.testing.assert_close(kernels[2], quarter)
    torch.testing.assert_close(kernels[4], torch.rot90(quarter, -1))


@pytest.mark.parametrize(
    "keys", [{"MODEL__ROTATED_HEAD__NORM": "GN"}, {"MODEL__ROTATED_HEAD__CHANNELS": 36}]
)
def test_settings_that_do_not_fit(keys: dict) -> None:
    with pytest.raises(ValueError, match="expected '', a multiple of 8"):
        build_model(plain_config(**{**HEAD, **keys}))
