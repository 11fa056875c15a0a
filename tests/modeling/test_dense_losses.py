"""Losses and coders of the dense heads."""

from __future__ import annotations

import math

import pytest
import torch

from tcm_d2.modeling.dense.decode import make_instances, select_candidates
from tcm_d2.modeling.dense.point_coder import DistanceAnglePointCoder
from tcm_d2.modeling.losses.centerness import centerness_targets
from tcm_d2.modeling.losses.focal import focal_loss_sum
from tcm_d2.ops import paired_iou_rotated
from tcm_d2.structures.angles import wrap_angle_rad


def test_focal_loss_by_hand() -> None:
    logits = torch.zeros(2, 2)
    # Three negatives at p = 0.5: 0.75 * 0.25 * ln 2 each; one positive: 0.25 * 0.25 * ln 2.
    value = focal_loss_sum(
        logits, torch.tensor([1]), torch.tensor([0]), gamma=2.0, alpha=0.25
    ).item()
    assert value == pytest.approx((3 * 0.75 + 0.25) * 0.25 * math.log(2), rel=1e-5)


def test_centerness_by_hand() -> None:
    distances = torch.tensor([[1.0, 2.0, 4.0, 2.0], [3.0, 3.0, 3.0, 3.0], [-1e-9, 1.0, 2.0, 1.0]])
    values = centerness_targets(distances)
    assert values.tolist() == pytest.approx([0.5, 1.0, 0.0])


def test_coder_round_trip_gives_the_same_rectangle() -> None:
    boxes = torch.rand(200, 5) * torch.tensor([100.0, 100, 80, 80, 180]) + torch.tensor(
        [0.0, 0, 1, 1, -90]
    )
    points = boxes[:, :2] + torch.rand(200, 2) - 0.5
    coder = DistanceAnglePointCoder()
    decoded = coder.decode(points, *coder.encode(points, boxes))
    assert paired_iou_rotated(decoded.double(), boxes.double()).min() > 0.9999


@pytest.mark.parametrize("angle", [-1e-9, math.pi / 2, -math.pi / 2, 3 * math.pi, 0.3])
def test_wrapped_angles_stay_in_the_half_open_range(angle: float) -> None:
    wrapped = wrap_angle_rad(torch.tensor([angle]))
    assert (-math.pi / 2 - 1e-6 <= wrapped).all()
    assert (wrapped < math.pi / 2).all()
    assert math.sin(2 * (wrapped.item() - angle)) == pytest.approx(0, abs=1e-5)


def test_candidates_respect_threshold_order_and_limit() -> None:
    logits = torch.tensor([[0.0, -9.0], [2.0, 1.0], [1.0, -2.0]])
    chosen = select_candidates(logits, score_threshold=0.3, topk=3)
    assert chosen.location_index.tolist() == [1, 1, 2]
    assert chosen.classes.tolist() == [0, 1, 0]
    torch.testing.assert_close(chosen.scores, torch.tensor([2.0, 1.0, 1.0]).sigmoid())
    everything = select_candidates(logits, score_threshold=0.0, topk=100)
    assert len(everything.scores) == 6


def test_instances_keep_classes_apart_and_never_clip() -> None:
    boxes = torch.tensor([[-5.0, 2.0, 30.0, 10.0, 20.0]]).repeat(3, 1)
    scores = torch.tensor([0.5, 0.9, 0.7])
    classes = torch.tensor([0, 0, 1])
    instances = make_instances(
        boxes, scores, classes, image_size_hw=(64, 64), nms_threshold=0.1, max_detections=10
    )
    assert instances.scores.tolist() == pytest.approx([0.9, 0.7])
    assert instances.pred_classes.tolist() == [0, 1]
    assert torch.equal(instances.pred_boxes.tensor, boxes[:2])
