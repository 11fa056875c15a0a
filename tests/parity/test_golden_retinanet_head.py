"""The rotated RetinaNet head against the reference's numbers."""

from __future__ import annotations

import pytest
import torch

from tcm_d2.modeling.heads.retinanet import RotatedRetinaNetHead
from tests.conftest import DATA_DIR
from tests.parity.anchor_heads import (
    StoredAssigner,
    check_candidates,
    check_gradients,
    check_losses,
    check_predictions,
    count_ties,
    features,
    gradients_of_total_loss,
    ground_truths,
    make_grid,
    make_head,
)
from tests.parity.golden import Golden, relative_error


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "f_head_retinanet.npz")


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


def test_losses_and_gradients_for_the_same_assignment(golden: Golden) -> None:
    head = make_head("retinanet", golden)
    boxes, classes = ground_truths(golden)
    head.assigner = StoredAssigner("f", [len(b) for b in boxes])
    inputs = [feature.requires_grad_() for feature in features(golden)]
    losses = head.losses(head(inputs), boxes, classes)
    assert list(losses) == ["loss_cls", "loss_box"]
    check_losses(losses, golden, "loss")
    sum(losses.values()).backward()
    check_gradients(head, inputs, golden, "retinanet")


def test_own_assignment_differs_by_ties_only(golden: Golden, head: RotatedRetinaNetHead) -> None:
    boxes, _ = ground_truths(golden)
    grid = make_grid("retinanet")
    ours = head.assigner.assign(grid, boxes)
    label = torch.zeros(2 * len(grid.boxes), dtype=torch.int64)
    label[ours.location_index] = ours.ground_truth_index + 1
    label[ours.ignored_index] = -1
    theirs = StoredAssigner("f", [len(b) for b in boxes]).label
    for image, (actual, expected) in enumerate(zip(label.chunk(2), theirs.chunk(2))):
        first = image * len(boxes[0])
        actual, expected = (torch.where(x > 0, x - first, x) for x in (actual, expected))
        assert count_ties(actual, expected, grid, boxes[image]) < 200


def test_losses_without_ground_truth(golden: Golden, head: RotatedRetinaNetHead) -> None:
    empty = [torch.zeros(0, 5)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    check_losses(head.losses(head(features(golden)), *empty), golden, "loss_empty")


def test_gradients_equal_those_in_float64(golden: Golden) -> None:
    single = gradients_of_total_loss(make_head("retinanet", golden), golden, torch.float32)
    double = gradients_of_total_loss(make_head("retinanet", golden), golden, torch.float64)
    for name, gradient in single.items():
        assert relative_error(gradient, double[name]) < 1e-4, name


def test_predictions_before_nms(golden: Golden, head: RotatedRetinaNetHead) -> None:
    check_candidates(head, golden, 0)


def test_predictions_after_nms(golden: Golden, head: RotatedRetinaNetHead) -> None:
    check_predictions(head, golden, 0)
