"""Heads of two stages: training, assignment to boxes that lie anywhere, sampling in a box."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from tcm_d2.modeling.dense.anchor_assigners import MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.heads.r3det import sample_bilinear
from tcm_d2.modeling.heads.s2anet import RotatingConv, kernel_offsets
from tests.modeling.test_one_stage import tiny_config, two_inputs
from tests.modeling.test_seats import plain_config, train_a_step

S2ANET = {"MODEL__ROTATED_HEAD__NAME": "RotatedS2ANetHead", "MODEL__ROTATED_HEAD__NORM": ""}
R3DET = {
    **S2ANET,
    "MODEL__ROTATED_HEAD__NAME": "RotatedR3DetHead",
    "MODEL__ROTATED_HEAD__ANCHOR_RATIOS": [1.0, 0.5, 2.0],
}
both_heads = pytest.mark.parametrize("keys", [S2ANET, R3DET], ids=["s2anet", "r3det"])


@both_heads
def test_a_step_reaches_every_parameter(keys: dict[str, Any]) -> None:
    torch.manual_seed(0)
    losses = train_a_step(build_model(plain_config(**keys)))
    assert set(losses) == {"loss_cls_first", "loss_box_first", "loss_cls", "loss_box"}


@both_heads
def test_text_prompts_reach_both_stages(keys: dict[str, Any]) -> None:
    cfg = tiny_config(tcm=True)
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    losses = build_model(cfg).train()(two_inputs())
    sum(losses.values()).backward()
    assert "loss_score_map" in losses and all(torch.isfinite(v) for v in losses.values())


@both_heads
def test_images_without_objects_have_a_loss_of_classes_alone(keys: dict[str, Any]) -> None:
    model = build_model(plain_config(**keys)).train()
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
    ("keys", "message"),
    [
        ({"MODEL__ROTATED_HEAD__NORM": "GN"}, "expected '' and at least 1, got 'GN'"),
        ({"MODEL__ROTATED_HEAD__CHANNELS": 36}, "a multiple of 8, got 1 and 36"),
        ({"MODEL__ROTATED_HEAD__ANCHOR_RATIOS": [1.0, 2.0]}, "expected 1 anchor per cell"),
    ],
)
def test_settings_that_do_not_fit(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(plain_config(**{**S2ANET, **keys}))


def test_the_best_of_a_cell_is_the_box_that_is_refined() -> None:
    model = build_model(plain_config(**R3DET)).eval()
    features = [torch.rand(1, 16, side, side) for side in (8, 4, 2, 1, 1)]
    head = model.head
    features = [f.repeat(1, head.first.class_tower[0].in_channels // 16, 1, 1) for f in features]
    with torch.no_grad():
        output = head(features)
    grid = head.make_grid(output.first)
    num_classes, cell, anchors_per_cell = head.num_classes, 13, 3
    scores = output.first.class_logits[0][0].flatten(1)[:, cell].reshape(anchors_per_cell, -1)
    assert scores.shape[1] == num_classes
    best = int(scores.amax(dim=1).argmax())
    deltas = output.first.deltas[0][0].flatten(1)[:, cell].reshape(anchors_per_cell, 5)[best]
    expected = head.coder.decode(grid.boxes[cell * anchors_per_cell + best, None], deltas[None])
    torch.testing.assert_close(output.anchors[0][0, cell], expected[0])


def test_sampling_between_cells_at_the_border_and_beyond() -> None:
    feature = torch.arange(6.0).reshape(1, 1, 2, 3)  # rows 0 1 2 and 3 4 5
    row = torch.tensor([[0.0, 0.5, 1.0, -0.5, 2.0, -1.5]])
    column = torch.tensor([[1.0, 0.5, 2.0, 0.0, 3.0, 0.0]])
    sampled = sample_bilinear(feature, row, column).flatten()
    torch.testing.assert_close(sampled, torch.tensor([1.0, 2.0, 5.0, 0.0, 5.0, 0.0]))
    one = sample_bilinear(feature[..., :1, :1] + 7, torch.zeros(1, 1), torch.zeros(1, 1))
    assert one.item() == 7
