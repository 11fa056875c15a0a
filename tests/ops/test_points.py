"""Points in rotated boxes: kernel and reference against shapely and by hand."""

from __future__ import annotations

import pytest
import shapely
import torch
from torch import Tensor

from tcm_d2.ops import points as points_module
from tcm_d2.ops import points_in_rotated_boxes
from tcm_d2.ops.registration import OPERATORS
from tests.conftest import DATA_DIR
from tests.ops.oracle import FAMILIES, box_pairs, polygons
from tests.parity.golden import Golden

IMPLEMENTATIONS = {
    "kernel": points_in_rotated_boxes,
    "reference": OPERATORS["points_in_rotated_boxes"].reference,
}
DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_points_equal_shapely(implementation: str, family: str, dtype: torch.dtype) -> None:
    boxes = box_pairs(family, 40, dtype)[0]
    spread = boxes[:, 2:4].amax(dim=1, keepdim=True)
    points = (boxes[:, :2] + (torch.rand(40, 2, dtype=dtype) - 0.5) * spread).to(dtype)
    inside = IMPLEMENTATIONS[implementation](points, boxes)
    assert inside.shape == (40, 40) and inside.dtype == torch.bool
    assert inside.any() and not inside.all()
    origins = boxes[:, :2]
    for i, polygon in enumerate(polygons(boxes, origins)):
        moved = shapely.points((points.double() - origins[i].double()).numpy())
        covered = torch.from_numpy(shapely.covers(polygon, moved))
        near = torch.from_numpy(shapely.distance(polygon.boundary, moved)) < 1e-9 * spread[i].item()
        assert torch.equal(inside[:, i] | near, covered | near)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("angle_deg", [0.0, 90.0, -90.0, 180.0, 450.0])
def test_the_border_belongs_to_the_box(implementation: str, angle_deg: float) -> None:
    width, height = (6.0, 4.0) if angle_deg % 180 == 0 else (4.0, 6.0)
    box = torch.tensor([[10.0, 20.0, width, height, angle_deg]])
    on = torch.tensor([[13.0, 20.0], [7.0, 18.0], [10.0, 22.0], [13.0, 22.0]])
    out = torch.tensor([[13.001, 20.0], [10.0, 22.001], [13.001, 22.001]])
    assert bool(IMPLEMENTATIONS[implementation](on, box).all())
    assert not bool(IMPLEMENTATIONS[implementation](out, box).any())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_angle_is_counter_clockwise_on_screen(implementation: str) -> None:
    bar = torch.tensor([[0.0, 0.0, 10.0, 1.0, 30.0]])
    points = torch.tensor([[4.0, -2.3], [4.0, 2.3]])
    assert IMPLEMENTATIONS[implementation](points, bar)[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nonsense_is_outside(implementation: str) -> None:
    good = [5.0, 5.0, 4.0, 2.0, 30.0]
    rows = [[5.0, 5.0, 0.0, 2.0, 0.0], [5.0, 5.0, 4.0, -2.0, 0.0], [5.0, 5.0, -4.0, -2.0, 0.0]]
    for column in range(5):
        for value in (float("nan"), float("inf"), -float("inf")):
            rows.append(good[:column] + [value] + good[column + 1 :])
    points = torch.tensor([[5.0, 5.0], [float("nan"), 5.0], [5.0, float("inf")]])
    inside = IMPLEMENTATIONS[implementation]
    assert not bool(inside(points, torch.tensor(rows)).any())
    assert inside(points, torch.tensor([good]))[:, 0].tolist() == [True, False, False]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_golden_points(implementation: str) -> None:
    golden = Golden(DATA_DIR / "golden" / "d_coders_boxes.npz")
    boxes_rad = golden["flip_in"].double()
    boxes = torch.cat([boxes_rad[:, :4], -torch.rad2deg(boxes_rad[:, 4:])], dim=1)
    points, expected = golden["inside_points"].double(), golden["inside_matrix"].bool()
    inside = IMPLEMENTATIONS[implementation]
    # The reference asks for 0.01 px between a point and the border.
    smaller = boxes - boxes.new_tensor([0, 0, 0.02, 0.02, 0])
    assert torch.equal(inside(points, smaller), expected)
    assert bool((inside(points, boxes) | ~expected).all())


def test_many_points_take_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = box_pairs("random", 30, torch.float32)[0]
    points = torch.rand(200, 2) * 60
    expected = points_in_rotated_boxes(points, boxes)
    monkeypatch.setattr(points_module, "_MAX_TESTS", 70)
    assert torch.equal(OPERATORS["points_in_rotated_boxes"].reference(points, boxes), expected)


def test_layouts_half_and_empty() -> None:
    boxes, points = box_pairs("random", 30, torch.float32)[0], torch.rand(50, 2) * 60
    expected = points_in_rotated_boxes(points, boxes)
    assert torch.equal(
        points_in_rotated_boxes(points.t().contiguous().t(), boxes.repeat(1, 2)[:, :5]), expected
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = points_in_rotated_boxes(points.half(), boxes.bfloat16())
    assert torch.equal(half, points_in_rotated_boxes(points.half().float(), boxes.bfloat16()))
    assert torch.equal(points_in_rotated_boxes(points.double(), boxes), expected)
    for inside in IMPLEMENTATIONS.values():
        assert inside(points[:0], boxes).shape == (0, 30)
        assert inside(points, boxes[:0]).shape == (50, 0)
    leaf = boxes.clone().requires_grad_()
    assert not points_in_rotated_boxes(points, leaf).requires_grad


def test_threads_do_not_change_the_result() -> None:
    boxes, points = box_pairs("random", 100, torch.float32)[0], torch.rand(3000, 2) * 60
    before = torch.get_num_threads()
    results: list[Tensor] = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(points_in_rotated_boxes(points, boxes))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
