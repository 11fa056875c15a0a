"""Box conversions against mmrotate's stored results (golden d)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tcm_d2.ops import paired_iou_rotated
from tcm_d2.structures.angles import wrap_angle_deg, wrap_angle_rad
from tcm_d2.structures.conversions import (
    boxes_to_hboxes,
    boxes_to_le90,
    boxes_to_quads,
    le90_to_boxes,
    quads_to_boxes,
)
from tests.conftest import DATA_DIR
from tests.parity.golden import Golden

# Corners are stored in float32 at up to 1000 px: two roundings of 6e-5.
CORNER_TOLERANCE_PX = 2e-4


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "d_coders_boxes.npz")


def boxes_deg(boxes_rad: Tensor) -> Tensor:
    """Clockwise radians to counter-clockwise degrees, without canonical form."""
    return torch.cat([boxes_rad[:, :4], -torch.rad2deg(boxes_rad[:, 4:])], dim=1)


def corner_distance(quads1: Tensor, quads2: Tensor) -> Tensor:
    """Largest corner distance of each pair in the best of the four cyclic orders."""
    return torch.stack(
        [(quads1 - quads2.roll(shift, dims=1)).abs().amax(dim=(1, 2)) for shift in range(4)]
    ).amin(dim=0)


def test_corner_points_in_the_same_order(golden: Golden) -> None:
    quads = boxes_to_quads(boxes_deg(golden["reg_in"])).flatten(1)
    torch.testing.assert_close(quads, golden["rbox2qbox"], rtol=0, atol=CORNER_TOLERANCE_PX)


def test_upright_boxes(golden: Golden) -> None:
    hboxes = boxes_to_hboxes(boxes_deg(golden["reg_in"]))
    torch.testing.assert_close(hboxes, golden["rbox2hbox"], rtol=0, atol=CORNER_TOLERANCE_PX)


def test_le90_form_with_its_quirk_for_squares(golden: Golden) -> None:
    le90 = boxes_to_le90(boxes_deg(golden["reg_in"]), square_quirk=True)
    expected = golden["reg_le90"]
    assert torch.equal(le90[:, :4], expected[:, :4])
    # Equal modulo pi: rounding decides on which end of the range an angle at the seam lands.
    turns = (le90[:, 4] - expected[:, 4]) / math.pi
    assert (turns - turns.round()).abs().max().item() < 1e-6
    assert (turns.round() == 0).float().mean().item() > 0.98
    assert bool(((le90[:, 4] >= -math.pi / 2) & (le90[:, 4] < math.pi / 2)).all())


def test_square_anchors_stand_at_minus_half_pi(golden: Golden) -> None:
    anchors = golden["delta_anchors"]
    anchors = anchors[anchors[:, 2] == anchors[:, 3]]
    assert len(anchors) > 0
    upright = torch.cat([anchors[:, :4], torch.zeros(len(anchors), 1)], dim=1)
    le90 = boxes_to_le90(upright, square_quirk=True)
    torch.testing.assert_close(le90, anchors, rtol=0, atol=1e-6)
    assert bool((boxes_to_le90(upright)[:, 4] == 0).all())


def test_our_form_is_the_same_rectangle(golden: Golden) -> None:
    for name in ("reg_in", "reg_le90", "reg_le135", "reg_oc"):
        boxes = le90_to_boxes(golden[name])
        assert bool((boxes[:, 2] >= boxes[:, 3]).all())
        assert bool(((boxes[:, 4] >= -90) & (boxes[:, 4] < 90)).all())
        distance = corner_distance(boxes_to_quads(boxes), boxes_to_quads(boxes_deg(golden[name])))
        assert distance.max().item() <= 2e-3  # degrees in float32, at a radius of up to 500 px


def test_wrapping(golden: Golden) -> None:
    angles_rad, expected_rad = golden["norm_angle_in"], golden["norm_angle_le90"]
    for ours, period, expected in (
        (wrap_angle_rad(angles_rad), math.pi, expected_rad),
        (wrap_angle_deg(torch.rad2deg(angles_rad)), 180.0, torch.rad2deg(expected_rad)),
    ):
        assert bool(((ours >= -period / 2) & (ours < period / 2)).all())
        turns = (ours - expected) / period
        assert (turns - turns.round()).abs().max().item() < 1e-6


@pytest.mark.parametrize("version", ["", "_cv410"])
def test_minimum_area_rectangles(golden: Golden, version: str) -> None:
    quads = golden["qbox_in"].reshape(-1, 4, 2)
    boxes = quads_to_boxes(quads)
    expected = le90_to_boxes(golden[f"qbox2rbox_le90{version}"])
    areas, expected_areas = boxes[:, 2] * boxes[:, 3], expected[:, 2] * expected[:, 3]
    relative = (areas - expected_areas) / expected_areas
    assert relative.abs().max().item() <= 1e-5
    # Several rectangles can share the smallest area (each side of a triangular hull gives one):
    # other choices than OpenCV's are fine, if few.
    iou = paired_iou_rotated(boxes, expected)
    assert (iou < 0.999).float().mean().item() <= 0.03
    sides = quads.roll(-1, dims=1) - quads  # (M, 4, 2)
    skew = (sides[:, 0] + sides[:, 2]).norm(dim=1) + (sides[:, 0] * sides[:, 1]).sum(dim=1).abs()
    is_rectangle = skew < 1e-2
    assert bool(is_rectangle.any())
    assert iou[is_rectangle].min().item() > 0.9999  # true rectangles leave no choice


def test_arrays_and_tensors_give_the_same(golden: Golden) -> None:
    quads = golden["qbox_in"].reshape(-1, 4, 2)
    from_array = quads_to_boxes(quads.numpy())
    assert isinstance(from_array, np.ndarray) and from_array.dtype == np.float32
    assert torch.equal(torch.from_numpy(from_array), quads_to_boxes(quads))
