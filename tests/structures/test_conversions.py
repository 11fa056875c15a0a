"""Conversions between boxes, corners, upright boxes and le90."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
import torch
from torch import Tensor

from tcm_d2.ops import paired_iou_rotated
from tcm_d2.structures.conversions import (
    boxes_to_hboxes,
    boxes_to_le90,
    boxes_to_quads,
    le90_to_boxes,
    quads_to_boxes,
)


def random_boxes(num: int, dtype: torch.dtype = torch.float64) -> Tensor:
    unit = torch.rand(num, 5, dtype=torch.float64)
    scale = unit.new_tensor([1000, 1000, 100, 40, 180])
    return (unit * scale + unit.new_tensor([0, 0, 42, 1, -90])).to(dtype)


def test_corners_by_hand() -> None:
    # A bar of 10 x 2 at 90 degrees stands upright: its width axis points up the screen.
    quad = boxes_to_quads(torch.tensor([[5.0, 5.0, 10.0, 2.0, 90.0]], dtype=torch.float64))[0]
    expected = [[6.0, 0.0], [4.0, 0.0], [4.0, 10.0], [6.0, 10.0]]
    torch.testing.assert_close(quad, torch.tensor(expected, dtype=torch.float64))


def test_upright_box_is_the_corners_extent() -> None:
    boxes = random_boxes(100)
    quads = boxes_to_quads(boxes)
    expected = torch.cat([quads.amin(dim=1), quads.amax(dim=1)], dim=1)
    torch.testing.assert_close(boxes_to_hboxes(boxes), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 0, 1), (3, 2, 1, 0), (0, 2, 1, 3)])
def test_rectangle_survives_the_way_through_corners(
    dtype: torch.dtype, order: tuple[int, ...]
) -> None:
    boxes = random_boxes(300, dtype)
    back = quads_to_boxes(boxes_to_quads(boxes)[:, order])
    assert back.dtype == dtype
    assert bool((back[:, 2] >= back[:, 3]).all())
    assert bool(((back[:, 4] >= -90) & (back[:, 4] < 90)).all())
    assert paired_iou_rotated(boxes, back).min().item() > (
        1 - 5e-4 if dtype.itemsize == 4 else 1 - 1e-11
    )


def test_smallest_rectangle_equals_shapely() -> None:
    quads = torch.rand(400, 4, 2, dtype=torch.float64) * 100  # any order, crossing sides too
    boxes = quads_to_boxes(quads)
    expected = shapely.area(shapely.oriented_envelope(shapely.multipoints(quads.numpy())))
    np.testing.assert_allclose((boxes[:, 2] * boxes[:, 3]).numpy(), expected, rtol=1e-9)
    grown = boxes.clone()
    grown[:, 2:4] += 1e-9
    frames = shapely.polygons(boxes_to_quads(grown).numpy())
    assert bool(shapely.covers(frames, shapely.multipoints(quads.numpy())).all())


def test_far_corners_lose_nothing() -> None:
    boxes = random_boxes(100)
    boxes[:, :2] += 1e5
    back = quads_to_boxes(boxes_to_quads(boxes))
    assert (back[:, :4] - boxes[:, :4]).abs().max().item() < 1e-8


@pytest.mark.parametrize(
    ("quad", "expected"),
    [
        ([[3, 4], [3, 4], [3, 4], [3, 4]], [3, 4, 0, 0, 0]),  # one point
        ([[0, 0], [4, 0], [4, 0], [0, 0]], [2, 0, 4, 0, 0]),  # two points
        ([[0, 0], [1, 1], [3, 3], [2, 2]], [1.5, 1.5, 3 * math.sqrt(2), 0, -45]),  # on a line
    ],
)
def test_degenerate_corners_give_a_box_without_area(
    quad: list[list[float]], expected: list[float]
) -> None:
    box = quads_to_boxes(np.array([quad], dtype=np.float64))[0]
    np.testing.assert_allclose(box, expected, atol=1e-12)


def test_ties_go_to_the_first_side() -> None:
    square = torch.tensor([[[0.0, 0.0], [6.0, -2.0], [8.0, 4.0], [2.0, 6.0]]])
    angle_deg = quads_to_boxes(square)[0, 4].item()
    assert angle_deg == pytest.approx(math.degrees(math.atan2(2, 6)), abs=1e-4)
    turned = quads_to_boxes(square.roll(-1, dims=1))[0, 4].item()
    assert turned == pytest.approx(math.degrees(math.atan2(2, 6)) - 90, abs=1e-4)


def test_kinds_and_dtypes() -> None:
    quads = boxes_to_quads(random_boxes(3)).round()
    integers = quads_to_boxes(quads.numpy().astype(np.int32))
    assert isinstance(integers, np.ndarray) and integers.dtype == np.float32
    np.testing.assert_allclose(integers, quads_to_boxes(quads).numpy(), rtol=1e-5, atol=1e-4)
    assert torch.equal(quads_to_boxes(quads.flatten(1)), quads_to_boxes(quads))
    assert quads_to_boxes(torch.zeros(0, 4, 2)).shape == (0, 5)
    assert quads_to_boxes(np.zeros((0, 4, 2))).shape == (0, 5)
    read_only = quads.numpy()
    read_only.flags.writeable = False
    quads_to_boxes(read_only)


def test_bad_corners_are_named() -> None:
    with pytest.raises(ValueError, match=r"quads: expected shape \(M, 4, 2\), got \(2, 3, 2\)"):
        quads_to_boxes(torch.zeros(2, 3, 2))
    with pytest.raises(TypeError, match="quads: expected an array or a tensor, got list"):
        quads_to_boxes([[0.0] * 8])  # type: ignore[type-var]
    quads = torch.zeros(3, 4, 2)
    quads[1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match=r"quads: expected finite corners.*in row 1"):
        quads_to_boxes(quads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_le90_round_trip(dtype: torch.dtype) -> None:
    boxes = random_boxes(500, dtype)
    le90 = boxes_to_le90(boxes)
    assert bool(((le90[:, 4] >= -math.pi / 2) & (le90[:, 4] < math.pi / 2)).all())
    back = le90_to_boxes(le90)
    assert torch.equal(back[:, :4], boxes[:, :4])
    turns = (back[:, 4] - boxes[:, 4]) / 180
    assert (turns - turns.round()).abs().max().item() < 1e-6


def test_le90_by_hand() -> None:
    # theta = +30 degrees is clockwise: the right end of the bar is down, at larger y.
    box = le90_to_boxes(torch.tensor([[0.0, 0.0, 10.0, 2.0, math.radians(30)]]))
    assert box[0, 4].item() == pytest.approx(-30)
    # w < h, as mmrotate's FCOS can give: turned by a quarter.
    box = le90_to_boxes(torch.tensor([[0.0, 0.0, 2.0, 10.0, math.radians(30)]]))
    assert box[0, 2:].tolist() == pytest.approx([10, 2, 60])
    # The seam: theta = -90 degrees and +90 are one axis; ours names it -90.
    for theta_deg in (-90, 90):
        box = le90_to_boxes(torch.tensor([[0.0, 0.0, 10.0, 2.0, math.radians(theta_deg)]]))
        assert abs(box[0, 4].item()) == pytest.approx(90)
        assert -90 <= box[0, 4].item() < 90


def test_squares_turn_only_when_asked() -> None:
    square = torch.tensor([[0.0, 0.0, 5.0, 5.0, 0.0]])
    assert boxes_to_le90(square)[0, 4].item() == 0.0
    assert boxes_to_le90(square, square_quirk=True)[0, 4].item() == pytest.approx(-math.pi / 2)


def test_gradients_flow_through_conversions() -> None:
    boxes = random_boxes(5).requires_grad_()
    for convert in (boxes_to_quads, boxes_to_hboxes, boxes_to_le90, le90_to_boxes):
        assert torch.autograd.gradcheck(convert, (boxes,))


@pytest.mark.parametrize("convert", [boxes_to_quads, boxes_to_hboxes, boxes_to_le90, le90_to_boxes])
def test_wrong_boxes_are_refused(convert: object) -> None:
    with pytest.raises(ValueError, match=r"expected shape \(..., 5\), got \(2, 4\)"):
        convert(torch.zeros(2, 4))  # type: ignore[operator]
    with pytest.raises(TypeError, match="expected a floating point"):
        convert(torch.zeros(2, 5, dtype=torch.int32))  # type: ignore[operator]
