"""Wrapping of angles and the canonical form."""

from __future__ import annotations

import math

import pytest
import torch

from tcm_d2.structures.angles import canonicalize_boxes, wrap_angle_deg, wrap_angle_rad
from tcm_d2.structures.conversions import boxes_to_quads


@pytest.mark.parametrize(
    ("angle_deg", "expected"),
    [
        (0.0, 0.0),
        (89.75, 89.75),
        (90.0, -90.0),
        (-90.0, -90.0),
        (-90.25, 89.75),
        (180.0, 0.0),
        (270.0, -90.0),
        (-450.0, -90.0),
        (3645.0, 45.0),
    ],
)
def test_wrap_by_hand(angle_deg: float, expected: float) -> None:
    assert wrap_angle_deg(torch.tensor(angle_deg)).item() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap_never_leaves_the_range(dtype: torch.dtype) -> None:
    seams = torch.arange(-50, 50, dtype=dtype) * 90
    angles = torch.cat(
        [
            seams,
            torch.nextafter(seams, seams + 1),
            torch.nextafter(seams, seams - 1),
            torch.rand(1000, dtype=dtype) * 1e4 - 5e3,
            torch.tensor([1e-30, -1e-30, 1e6, -1e6], dtype=dtype),
        ]
    )
    wrapped = wrap_angle_deg(angles)
    assert bool(((wrapped >= -90) & (wrapped < 90)).all())
    inside = (angles >= -90) & (angles < 90)
    assert torch.equal(wrapped[inside], angles[inside])
    wrapped = wrap_angle_rad(angles * math.pi / 180)
    assert bool(((wrapped >= -math.pi / 2) & (wrapped < math.pi / 2)).all())


def test_canonical_form_is_the_same_rectangle() -> None:
    boxes = torch.rand(500, 5, dtype=torch.float64) * 100
    boxes[:, 4] = boxes[:, 4] * 20 - 1000
    canonical = canonicalize_boxes(boxes)
    assert bool((canonical[:, 2] >= canonical[:, 3]).all())
    assert bool(((canonical[:, 4] >= -90) & (canonical[:, 4] < 90)).all())
    before, after = boxes_to_quads(boxes), boxes_to_quads(canonical)
    distance = torch.stack([(before - after.roll(k, 1)).abs().amax((1, 2)) for k in range(4)])
    assert distance.amin(0).max().item() < 1e-11
    assert torch.equal(canonicalize_boxes(canonical), canonical)


def test_squares_keep_their_angle() -> None:
    boxes = torch.tensor([[0.0, 0.0, 7.0, 7.0, 30.0], [0.0, 0.0, 7.0, 7.0, -90.0]])
    assert torch.equal(canonicalize_boxes(boxes), boxes)


def test_gradient_flows() -> None:
    boxes = torch.tensor([[1.0, 2.0, 3.0, 5.0, 100.0]], requires_grad=True)
    canonicalize_boxes(boxes).sum().backward()
    assert boxes.grad is not None and torch.equal(boxes.grad, torch.ones(1, 5))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"boxes: expected shape \(..., 5\), got \(3, 4\)"):
        canonicalize_boxes(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="boxes: expected a floating point"):
        canonicalize_boxes(torch.zeros(3, 5, dtype=torch.int64))
