"""Views of an image: pixels and boxes move together, and come back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.structures import Instances, RotatedBoxes
from torch import Tensor, nn

from tcm_d2.inference.tta import (
    RotatedTTA,
    TTAConfig,
    View,
    boxes_from_view,
    merge_views,
    view_image,
)
from tcm_d2.ops import paired_iou_rotated
from tcm_d2.structures.conversions import boxes_to_quads

SIZE_HW = (40, 70)
ALL_VIEWS = TTAConfig(
    flip=True, quarter_turns=[0, 1, 2, 3], scales=[1.0, 0.5, 2.0], nms_threshold=0.1, merge="max"
)
BOXES = torch.tensor(
    [[20.0, 12, 18, 6, 0], [50, 25, 20, 8, -90], [30, 20, 22, 5, 35], [55, 30, 9, 9, -60]],
    dtype=torch.float64,
)


def _corner_points(boxes: Tensor) -> set[tuple[float, float]]:
    return {tuple(p) for p in boxes_to_quads(boxes).reshape(-1, 2).mul(1e3).round().tolist()}


def _move_points(points: Tensor, view: View) -> Tensor:
    """Move points as the pixels of an image move, one elementary step after another."""
    height, width = SIZE_HW
    x, y = points.unbind(-1)
    if view.is_mirrored:
        x = width - x
    for _ in range(view.quarter_turns):
        x, y = y, width - x
        height, width = width, height
    return torch.stack([x, y], dim=-1)


class _Oracle(nn.Module):
    """Finds the marked pixels of an image (channel 0: number of the object), one box each."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        outputs = []
        for inputs in batch:
            image = inputs["image"]
            size_hw = (inputs["height"], inputs["width"])
            self.sizes.append(tuple(image.shape[1:]))
            factor = inputs["width"] / image.shape[2]
            y, x = (image[0] == image[0].max()).nonzero().double().mean(dim=0)
            centre = (torch.stack([x, y]) + 0.5) * factor
            instances = Instances(size_hw)
            box = torch.cat([centre, torch.tensor([12.0, 6.0, 0.0])])[None]
            instances.pred_boxes = RotatedBoxes(box)
            instances.scores = torch.tensor([0.5])
            instances.pred_classes = torch.tensor([2])
            outputs.append({"instances": instances})
        return outputs


def test_first_view_is_the_image_itself_and_all_differ() -> None:
    views = ALL_VIEWS.views
    assert views[0] == View(False, 0, 1.0) and len(set(views)) == len(views) == 24
    image = torch.arange(3 * 40 * 70, dtype=torch.float32).reshape(3, *SIZE_HW)
    assert torch.equal(view_image(image, views[0]), image)
    for view in views[1:8]:
        seen = view_image(image, view)
        assert not torch.equal(seen.flatten(), image.flatten())
        assert torch.equal(seen.flatten().sort().values, image.flatten())  # the same pixels
    shapes = {tuple(view_image(image, v).shape[1:]) for v in views}
    assert shapes == {(40, 70), (70, 40), (20, 35), (35, 20), (80, 140), (140, 80)}


@pytest.mark.parametrize("view", [v for v in ALL_VIEWS.views if v.scale == 1], ids=str)
def test_boxes_come_back_exactly(view: View) -> None:
    corners = boxes_to_quads(BOXES)
    moved = _move_points(corners, view)
    # The box with these corners, by its centre and sides.
    centre = moved.mean(dim=1)
    side = moved[:, 0] - moved[:, 3]
    angle_deg = torch.rad2deg(torch.atan2(-side[:, 1], side[:, 0]))
    boxes = torch.cat([centre, BOXES[:, 2:4], angle_deg[:, None]], dim=1)
    # A mirrored box has its corners in another order, but they are the same points.
    assert _corner_points(boxes) == {
        tuple(p) for p in moved.reshape(-1, 2).mul(1e3).round().tolist()
    }
    back = boxes_from_view(boxes, view, SIZE_HW)
    assert _corner_points(back) == _corner_points(BOXES)
    assert ((back[:, 2] >= back[:, 3]) & (back[:, 4] >= -90) & (back[:, 4] < 90)).all()


@pytest.mark.parametrize("view", [v for v in ALL_VIEWS.views if v.scale == 1], ids=str)
def test_pixels_and_points_move_alike(view: View) -> None:
    image = torch.zeros(1, *SIZE_HW)
    image[0, 7, 52] = 1
    y, x = view_image(image, view)[0].nonzero()[0].tolist()
    expected = _move_points(torch.tensor([52.5, 7.5]), view).tolist()
    assert [x + 0.5, y + 0.5] == expected


def test_all_views_agree_on_one_object() -> None:
    image = torch.zeros(3, *SIZE_HW)
    image[0, 10:14, 40:44] = 255  # even sides: scales keep the centre
    oracle = _Oracle()
    # Twice the width asked for: the answer is in that frame.
    inputs = [{"image": image, "height": 80, "width": 140}]
    square = TTAConfig(
        flip=True, quarter_turns=[0, 2], scales=[1.0, 2.0], nms_threshold=0.1, merge="mean"
    )
    (output,) = RotatedTTA(oracle, square).eval()(inputs)
    instances = output["instances"]
    assert instances.image_size == (80, 140) and len(instances) == 1
    torch.testing.assert_close(
        instances.pred_boxes.tensor.float(),
        torch.tensor([[84.0, 24, 24, 12, 0]]),
        atol=1e-3,
        rtol=0,
    )
    assert instances.scores.tolist() == [0.5] and instances.pred_classes.tolist() == [2]
    assert oracle.sizes == [(40, 70)] * 4 + [(80, 140)] * 4


def _instances(rows: list[list[float]], scores: list[float], classes: list[int]) -> Instances:
    instances = Instances((100, 100))
    instances.pred_boxes = RotatedBoxes(torch.tensor(rows).reshape(-1, 5))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def test_mean_counts_the_views_that_do_not_see_the_object() -> None:
    box = [50.0, 50, 20, 10, 0]
    # One object in both views (the second 2 px further and at 88 degrees of a turned box), one
    # only in the second.
    parts = [
        _instances([box], [0.8], [1]),
        _instances([[52.0, 50, 20, 10, 0], [20, 20, 8, 8, 0]], [0.4, 0.6], [1, 1]),
    ]
    mean = TTAConfig(flip=True, quarter_turns=[0], scales=[1], nms_threshold=0.1, merge="mean")
    merged = merge_views(parts, mean)
    torch.testing.assert_close(merged.scores, torch.tensor([0.6, 0.3]))
    # (0.8 * 50 + 0.4 * 52) / 1.2
    assert merged.pred_boxes.tensor[0].tolist() == pytest.approx([50 + 2 / 3, 50, 20, 10, 0])
    best = TTAConfig(flip=True, quarter_turns=[0], scales=[1], nms_threshold=0.1, merge="max")
    merged = merge_views(parts, best)
    torch.testing.assert_close(merged.scores, torch.tensor([0.8, 0.6]))
    assert merged.pred_boxes.tensor[0].tolist() == box


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([50.0, 50, 40, 10, 88], [50.0, 50, 40, 10, -88]),  # over the seam of angles
        ([50.0, 50, 20.5, 20, 10], [50.0, 50, 20.5, 20, -80]),  # nearly square, a quarter apart
    ],
)
def test_mean_of_boxes_is_between_them(first: list[float], second: list[float]) -> None:
    mean = TTAConfig(flip=True, quarter_turns=[0], scales=[1], nms_threshold=0.1, merge="mean")
    parts = [_instances([first], [0.5], [0]), _instances([second], [0.5], [0])]
    merged = merge_views(parts, mean)
    assert len(merged) == 1
    boxes = merged.pred_boxes.tensor.repeat(2, 1)
    ious = paired_iou_rotated(boxes, torch.tensor([first, second]))
    apart = paired_iou_rotated(torch.tensor([first]), torch.tensor([second]))
    assert ious.min() > apart.item() and ious.min() == pytest.approx(ious.max().item(), abs=1e-4)


def test_other_classes_and_empty_views_do_not_disturb() -> None:
    mean = TTAConfig(flip=True, quarter_turns=[0], scales=[1], nms_threshold=0.1, merge="mean")
    empty = _instances([], [], [])
    assert len(merge_views([empty, empty], mean)) == 0
    box = [50.0, 50, 20, 10, 0]
    merged = merge_views([_instances([box, box], [0.8, 0.6], [0, 1]), empty], mean)
    torch.testing.assert_close(merged.scores, torch.tensor([0.4, 0.3]))
    assert merged.pred_classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quarter_turns": [4]}, r"TEST\.TTA\.QUARTER_TURNS: expected numbers of 0, 1, 2, 3"),
        ({"quarter_turns": []}, r"TEST\.TTA\.QUARTER_TURNS"),
        ({"scales": [0.0]}, r"TEST\.TTA\.SCALES: expected positive factors, got \[0\.0\]"),
        ({"merge": "sum"}, r"TEST\.TTA\.MERGE: expected one of \('mean', 'max'\), got 'sum'"),
        ({"nms_threshold": 2}, r"TEST\.TTA\.NMS_THRESH: expected 0\.\.1, got 2"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TTAConfig(**{**vars(ALL_VIEWS), **change})


def test_training_mode_is_refused() -> None:
    tta = RotatedTTA(_Oracle(), ALL_VIEWS)
    with pytest.raises(ValueError, match=r"training mode; call eval\(\)"):
        tta([])
