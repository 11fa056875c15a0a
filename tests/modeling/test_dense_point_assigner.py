"""FCOS assignment: a drawn case, a dense reference, and its bounded cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.dense.anchors import PointGrid, make_point_grid
from tcm_d2.modeling.dense.point_assigner import FCOSAssigner

CPU = torch.device("cpu")


def make_assigner(radius: float = 1.5) -> FCOSAssigner:
    return FCOSAssigner(
        strides_px=[8, 16], regress_range_bounds_px=[32], center_sampling_radius=radius
    )


def dense_assignment(grid: PointGrid, boxes: Tensor, assigner: FCOSAssigner) -> Tensor:
    """Return the box of every location (-1 for none), by looking at all pairs in float64."""
    offset = (grid.points_xy[:, None] - boxes[None, :, :2]).double()
    angle = torch.deg2rad(boxes[:, 4].double())
    along_w = (angle.cos() * offset[..., 0] - angle.sin() * offset[..., 1]).abs()
    along_h = (angle.sin() * offset[..., 0] + angle.cos() * offset[..., 1]).abs()
    half_w, half_h = boxes[:, 2].double() / 2, boxes[:, 3].double() / 2
    radius = assigner.center_sampling_radius * grid.strides_px[:, None].double()
    low = torch.empty(len(grid.points_xy), 1).double()
    high = torch.empty_like(low)
    start = 0
    ranges = zip(assigner.regress_ranges_px, grid.level_num_points, strict=True)
    for (level_low, level_high), count in ranges:
        low[start : start + count], high[start : start + count] = level_low, level_high
        start += count
    farthest = torch.maximum(half_w + along_w, half_h + along_h)
    candidate = (along_w < torch.minimum(half_w, radius)) & (
        along_h < torch.minimum(half_h, radius)
    )
    candidate &= (farthest >= low) & (farthest <= high)
    area = (boxes[:, 2] * boxes[:, 3]).double().expand(len(grid.points_xy), -1)
    best, owner = torch.where(candidate, area, math.inf).min(dim=1)
    return torch.where(best.isinf(), -1, owner)


def test_drawn_case() -> None:
    # 4 x 4 cells of 8 px; a box 20 x 10 around (16, 12) covers the cell centres with
    # x in (6, 26) and y in (7, 17): columns 12 and 20, row 12.
    grid = make_point_grid([(4, 4), (2, 2)], [8, 16], CPU)
    assigned = make_assigner().assign(grid, [torch.tensor([[16.0, 12.0, 20.0, 10.0, 0.0]])])
    assert assigned.location_index.tolist() == [1 * 4 + 1, 1 * 4 + 2]
    assert assigned.ground_truth_index.tolist() == [0, 0]


def test_smaller_box_wins_and_lower_index_on_a_tie() -> None:
    grid = make_point_grid([(4, 4), (2, 2)], [8, 16], CPU)
    large, small = [12.0, 12.0, 20.0, 20.0, 0.0], [12.0, 12.0, 6.0, 6.0, 30.0]
    assigned = make_assigner().assign(grid, [torch.tensor([large, small, small])])
    owner = dict(zip(assigned.location_index.tolist(), assigned.ground_truth_index.tolist()))
    assert owner[1 * 4 + 1] == 1
    assert set(owner.values()) == {0, 1}


def test_box_larger_than_the_range_goes_to_the_next_level() -> None:
    grid = make_point_grid([(8, 8), (4, 4)], [8, 16], CPU)
    assigned = make_assigner().assign(grid, [torch.tensor([[32.0, 32.0, 100.0, 8.0, 0.0]])])
    assert (assigned.location_index >= 64).all() or len(assigned.location_index) == 0
    assigned = make_assigner().assign(grid, [torch.tensor([[32.0, 32.0, 100.0, 50.0, 0.0]])])
    assert len(assigned.location_index) == 4
    assert (assigned.location_index >= 64).all()


@pytest.mark.parametrize("radius", [0.7, 1.5, 3.0])
def test_equals_looking_at_all_pairs(radius: float) -> None:
    generator = torch.Generator().manual_seed(3)
    grid = make_point_grid([(20, 30), (10, 15)], [8, 16], CPU)
    images = []
    for count in (60, 0, 7):
        centres = torch.rand(count, 2, generator=generator) * torch.tensor([260.0, 180.0]) - 10
        sizes = torch.rand(count, 2, generator=generator) * 60 + 1
        angles = torch.rand(count, 1, generator=generator) * 180 - 90
        images.append(torch.cat([centres, sizes, angles], dim=1))
    assigner = make_assigner(radius)
    assigned = assigner.assign(grid, images)
    num_points = len(grid.points_xy)
    owner = torch.full((3 * num_points,), -1)
    owner[assigned.location_index] = assigned.ground_truth_index
    first = 0
    for image, boxes in enumerate(images):
        expected = torch.full((num_points,), -1)
        if len(boxes):
            expected = dense_assignment(grid, boxes, assigner)
            expected = torch.where(expected >= 0, expected + first, expected)
        assert torch.equal(owner[image * num_points : (image + 1) * num_points], expected)
        first += len(boxes)
    assert (owner >= 0).sum() > 20


def test_many_objects_need_little_memory() -> None:
    sizes = [(128, 128), (64, 64), (32, 32), (16, 16), (8, 8)]
    strides = [8, 16, 32, 64, 128]
    grid = make_point_grid(sizes, strides, CPU)
    assigner = FCOSAssigner(
        strides_px=strides,
        regress_range_bounds_px=[64, 128, 256, 512],
        center_sampling_radius=1.5,
    )
    boxes = torch.rand(5000, 5) * torch.tensor([1024.0, 1024.0, 60.0, 30.0, 90.0])
    largest = 0
    real_zeros = torch.Tensor.nonzero

    def watched(tensor: Tensor, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal largest
        largest = max(largest, tensor.numel())
        return real_zeros(tensor, **kwargs)

    torch.Tensor.nonzero = watched  # type: ignore[method-assign]
    try:
        assigned = assigner.assign(grid, [boxes])
    finally:
        torch.Tensor.nonzero = real_zeros  # type: ignore[method-assign]
    assert len(assigned.location_index) > 3000
    # Far below 5000 objects x 21824 locations.
    assert largest <= 5000 * 25


@pytest.mark.parametrize(
    ("bounds", "radius", "message"),
    [([], 1.5, "regress_range_bounds_px: expected 1"), ([32], 0.0, "center_sampling_radius")],
)
def test_wrong_settings_are_refused(bounds: list[float], radius: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCOSAssigner(
            strides_px=[8, 16], regress_range_bounds_px=bounds, center_sampling_radius=radius
        )
