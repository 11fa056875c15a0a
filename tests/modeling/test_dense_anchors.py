"""Anchors and the delta coder: drawn cases, round trips, edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.dense.anchors import AnchorGenerator
from tcm_d2.modeling.dense.delta_coder import MAX_SIDE_RATIO, DeltaBoxCoder
from tcm_d2.ops import paired_iou_rotated

CPU = torch.device("cpu")
SQUARE = torch.tensor([[16.0, 16.0, 32.0, 32.0, -90.0]])


def random_boxes(count: int) -> Tensor:
    boxes = torch.rand(count, 5) * torch.tensor([100.0, 100.0, 60.0, 40.0, 180.0])
    return boxes + torch.tensor([0.0, 0.0, 41.0, 1.0, -90.0])


def test_order_of_anchors() -> None:
    generator = AnchorGenerator(
        strides_px=[8, 16], base_side_strides=4.0, scales_per_octave=2, ratios=[1.0, 0.25]
    )
    assert generator.num_anchors == 4
    grid = generator.make_grid([(2, 3), (1, 1)], CPU)
    assert grid.level_num_anchors == [24, 4]
    # Cells row by row, centred on their corners; a cell's anchors together, ratio by ratio.
    assert grid.boxes[:24:4, :2].tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]
    root = math.sqrt(2)
    expected = [[32, 32], [32 * root, 32 * root], [64, 16], [64 * root, 16 * root]]
    torch.testing.assert_close(grid.boxes[:4, 2:4], torch.tensor(expected))
    assert grid.boxes[:4, 4].tolist() == [-90, -90, 0, 0]
    torch.testing.assert_close(grid.boxes[24:, 2:4], 2 * torch.tensor(expected))


def test_high_anchors_lie_on_their_side() -> None:
    generator = AnchorGenerator(
        strides_px=[8], base_side_strides=4.0, scales_per_octave=1, ratios=[4.0]
    )
    assert generator.make_grid([(1, 1)], CPU).boxes.tolist() == [[0, 0, 64, 16, -90]]


@pytest.mark.parametrize(("side", "angle_deg"), [("horizontal", 0), ("vertical", -90)])
def test_width_along_one_axis(side: str, angle_deg: int) -> None:
    generator = AnchorGenerator(
        strides_px=[8],
        base_side_strides=4.0,
        scales_per_octave=1,
        ratios=[1.0, 4.0, 0.25],
        width_side=side,
    )
    boxes = generator.make_grid([(1, 1)], CPU).boxes
    sides = [[32, 32], [16, 64], [64, 16]]  # along x, along y
    if side == "vertical":
        sides = [pair[::-1] for pair in sides]
    assert boxes[:, 2:4].tolist() == sides and (boxes[:, 4] == angle_deg).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width_side": "short"}, "width_side: expected one of long, horizontal, vertical"),
        ({"scales_per_octave": 0}, "scales_per_octave: expected >= 1"),
        ({"ratios": []}, "expected positive numbers"),
        ({"ratios": [1.0, -1.0]}, "expected positive numbers"),
        ({"base_side_strides": 0.0}, "expected positive numbers"),
    ],
)
def test_wrong_settings_are_refused(values: dict, message: str) -> None:
    settings = {
        "strides_px": [8],
        "base_side_strides": 4.0,
        "scales_per_octave": 1,
        "ratios": [1.0],
    }
    with pytest.raises(ValueError, match=message):
        AnchorGenerator(**{**settings, **values})


def test_deltas_by_hand() -> None:
    # The anchor's width axis points up (theta = -pi/2), its height axis to the right.
    box = torch.tensor([[24.0, 12.0, 64.0, 16.0, -80.0]])
    deltas = DeltaBoxCoder().encode(SQUARE, box)
    # The width axis of the box is turned by 10 degrees, clockwise is negative.
    expected = [[4 / 32, 8 / 32, math.log(2), -math.log(2), -math.radians(10)]]
    torch.testing.assert_close(deltas, torch.tensor(expected))


def test_edge_swap_keeps_the_turn_small() -> None:
    box = torch.tensor([[16.0, 16.0, 64.0, 16.0, -10.0]])
    deltas = DeltaBoxCoder().encode(SQUARE, box)
    # The long side runs along the anchor's height axis.
    expected = [[0.0, 0.0, -math.log(2), math.log(2), math.radians(10)]]
    torch.testing.assert_close(deltas, torch.tensor(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_gives_the_same_rectangle(dtype: torch.dtype) -> None:
    anchors, boxes = random_boxes(300).to(dtype), random_boxes(300).to(dtype)
    coder = DeltaBoxCoder()
    deltas = coder.encode(anchors, boxes)
    assert (deltas[:, 4].abs() <= math.pi / 4 + 1e-6).all()
    decoded = coder.decode(anchors, deltas)
    assert decoded.dtype == dtype
    assert paired_iou_rotated(decoded, boxes).min() > 0.9999
    assert (decoded[:, 2] >= decoded[:, 3]).all()
    assert ((decoded[:, 4] >= -90) & (decoded[:, 4] < 90)).all()


# The forms of mmrotate's oc (1.x and 0.x) and le135.
OTHER_FORMS = {
    "oc": DeltaBoxCoder(quarter_from_deg=-90.0, along_axes=False, swap_sides=False),
    "oc of 0.x": DeltaBoxCoder(quarter_from_deg=0.001, along_axes=False, swap_sides=False),
    "le135": DeltaBoxCoder(min_angle_deg=-45.0, swap_sides=False, turn_unit_rad=math.pi),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_round_trip_in_other_forms(form: str) -> None:
    thick = torch.tensor([0.0, 0.0, 10.0, 10.0, 0.0])  # no side changes by more than the limit
    anchors, boxes = (random_boxes(300).double() + thick for _ in range(2))
    deltas = OTHER_FORMS[form].encode(anchors, boxes)
    assert paired_iou_rotated(OTHER_FORMS[form].decode(anchors, deltas), boxes).min() > 0.9999


def test_other_forms_by_hand() -> None:
    box = torch.tensor([[24.0, 12.0, 64.0, 16.0, -80.0]])  # clockwise 80 degrees
    # Not along the axes; the side at -10 degrees is the short one, a turn of 80 from -90.
    (deltas,) = OTHER_FORMS["oc"].encode(SQUARE, box).tolist()
    expected = [8 / 32, -4 / 32, -math.log(2), math.log(2), math.radians(80)]
    assert deltas == pytest.approx(expected)
    # The width axis at 90 degrees instead of -90 points down; turns in half turns.
    (deltas,) = OTHER_FORMS["le135"].encode(SQUARE, box).tolist()
    expected = [-4 / 32, -8 / 32, math.log(2), -math.log(2), -10 / 180]
    assert deltas == pytest.approx(expected)


def test_upright_boxes_in_oc_have_a_vertical_width() -> None:
    upright = torch.tensor([[16.0, 16.0, 64.0, 32.0, 0.0]])
    flat = torch.tensor([[16.0, 16.0, 32.0, 32.0, 0.0]])  # as of 0.x, which turns by 90 degrees
    for form, anchor, turn in (("oc", SQUARE, 0.0), ("oc of 0.x", flat, math.pi / 2)):
        deltas = OTHER_FORMS[form].encode(anchor, upright)[0].tolist()
        assert deltas == pytest.approx([0, 0, 0, math.log(2), turn], abs=1e-6), form


def test_square_boxes_code_the_same_however_their_sides_are_named() -> None:
    coder = DeltaBoxCoder()
    box = torch.tensor([[20.0, 9.0, 25.0, 25.0, 20.0]])
    turned = torch.tensor([[20.0, 9.0, 25.0, 25.0, -70.0]])
    torch.testing.assert_close(coder.encode(SQUARE, box), coder.encode(SQUARE, turned))


def test_extreme_deltas_stay_finite_and_have_gradients() -> None:
    deltas = torch.tensor([[1e4, -1e4, 1e4, -1e4, 1e4]], requires_grad=True)
    boxes = DeltaBoxCoder().decode(SQUARE, deltas)
    assert boxes[0, 2].item() == pytest.approx(32 * MAX_SIDE_RATIO, rel=1e-5)
    assert boxes[0, 3].item() == pytest.approx(32 / MAX_SIDE_RATIO, rel=1e-5)
    boxes.sum().backward()
    assert torch.isfinite(deltas.grad).all()


def test_centres_move_into_the_image_only_on_demand() -> None:
    deltas = torch.tensor([[3.0, -3.0, 0.0, 0.0, 0.0]])  # 96 px up and to the left
    coder = DeltaBoxCoder()
    assert coder.decode(SQUARE, deltas)[0, :2].tolist() == pytest.approx([-80, -80], abs=1e-3)
    inside = coder.decode(SQUARE, -deltas, image_size_hw=(60, 40))
    assert inside[0, :2].tolist() == [39, 59]
    assert coder.decode(SQUARE, deltas, image_size_hw=(60, 40))[0, :2].tolist() == [0, 0]
