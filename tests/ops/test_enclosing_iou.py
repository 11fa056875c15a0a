"""GIoU and DIoU: values against shapely, gradients against differences, and kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import shapely
import torch
from torch import Tensor
from torchvision.ops import distance_box_iou, generalized_box_iou

from tcm_d2.ops import (
    paired_diou_rotated,
    paired_giou_rotated,
    paired_iou_rotated,
)
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import FAMILIES, box_pairs, corners, exact_overlap

Measure = Callable[[Tensor, Tensor], Tensor]

KERNELS: dict[str, Measure] = {"giou": paired_giou_rotated, "diou": paired_diou_rotated}
REFERENCES: dict[str, Measure] = {
    "giou": OPERATORS["paired_giou_rotated"].reference,
    "diou": OPERATORS["paired_diou_rotated"].reference,
}
REFERENCE_GRADIENTS = {
    "giou": OPERATORS["paired_giou_rotated_backward"].reference,
    "diou": OPERATORS["paired_diou_rotated_backward"].reference,
}
TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-11}
DTYPES = (torch.float32, torch.float64)


def exact_measure(name: str, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """GIoU or DIoU of aligned pairs by polygon overlay and all corner distances, float64."""
    boxes1, boxes2 = boxes1.double(), boxes2.double()
    outlines = [
        torch.cat([boxes[:, :2], boxes[:, 2:4].clamp(min=0), boxes[:, 4:]], dim=1)
        for boxes in (boxes1, boxes2)
    ]
    points = np.concatenate([corners(o, boxes1[:, :2]) for o in outlines], axis=1)  # (P, 8, 2)
    iou = exact_overlap(boxes1, boxes2)
    if name == "giou":
        area1, area2 = (outline[:, 2] * outline[:, 3] for outline in outlines)
        union = (area1 + area2) / (1 + iou)
        hull = torch.from_numpy(shapely.area(shapely.convex_hull(shapely.multipoints(points))))
        return iou - (1 - union / hull)
    across = points[:, :, None] - points[:, None]
    diameter2 = torch.from_numpy((across**2).sum(axis=3).max(axis=(1, 2)))
    distance2 = ((boxes1[:, :2] - boxes2[:, :2]) ** 2).sum(dim=1)
    return iou - distance2 / diameter2


def gradients(measure: Measure, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    boxes1, boxes2 = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
    grad1, grad2 = torch.autograd.grad(measure(boxes1, boxes2).sum(), (boxes1, boxes2))
    return grad1, grad2


def apart(num: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Pairs of disjoint boxes, up to a few hundred pixels from each other."""
    boxes1, boxes2 = box_pairs("random", num, dtype)
    boxes2[:, 0] += 150 + 100 * torch.rand(num, dtype=dtype)
    return boxes1, boxes2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", [*FAMILIES, "apart"])
@pytest.mark.parametrize("name", KERNELS)
def test_values_equal_shapely_and_are_symmetric(name: str, family: str, dtype: torch.dtype) -> None:
    boxes1, boxes2 = apart(500, dtype) if family == "apart" else box_pairs(family, 500, dtype)
    exact = exact_measure(name, boxes1, boxes2)
    for measure in (KERNELS[name], REFERENCES[name]):
        value = measure(boxes1, boxes2)
        assert value.dtype == dtype
        assert bool(((value >= -1) & (value <= 1)).all())  # NaN fails too
        assert torch.equal(value, measure(boxes2, boxes1))
        assert (value.double() - exact).abs().max().item() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_a_box_is_at_the_top_of_itself(name: str, dtype: torch.dtype) -> None:
    for family in FAMILIES:
        boxes = box_pairs(family, 100, dtype)[0]
        value = KERNELS[name](boxes, boxes)
        torch.testing.assert_close(value, torch.ones_like(value), rtol=0, atol=1e-14)
        for grad in gradients(KERNELS[name], boxes.double(), boxes.double()):
            slope = grad * boxes.double()[:, 2:4].amin(dim=1, keepdim=True)
            assert slope.abs().max().item() < 1e-9


def test_giou_is_never_above_the_iou_and_diou_neither() -> None:
    for family in ("random", "nested", "thin", "near_identical"):
        boxes1, boxes2 = box_pairs(family, 500, torch.float64)
        iou = paired_iou_rotated(boxes1, boxes2)
        for measure in KERNELS.values():
            assert bool((measure(boxes1, boxes2) <= iou + 1e-15).all())


@pytest.mark.parametrize("family", ["random", "nested", "far", "thin", "apart"])
@pytest.mark.parametrize("name", KERNELS)
def test_gradients_equal_central_differences(name: str, family: str) -> None:
    boxes1, boxes2 = apart(60) if family == "apart" else box_pairs(family, 60, torch.float64)
    pairs = torch.cat([boxes1, boxes2], dim=1)
    kernel = torch.cat(gradients(KERNELS[name], boxes1, boxes2), dim=1)
    # A step small against the shortest side, large against the rounding of far centres.
    step = 1e-4 * pairs[:, [2, 3, 7, 8]].amin(dim=1).clamp(max=1.0)
    for column in range(10):
        slopes = []
        for factor in (1.0, 0.5):
            shift = torch.zeros_like(pairs)
            shift[:, column] = factor * step
            up, down = pairs + shift, pairs - shift
            width = (up - down)[:, column]
            rise = KERNELS[name](up[:, :5], up[:, 5:]) - KERNELS[name](down[:, :5], down[:, 5:])
            slopes.append(rise / width)
        slope = (4 * slopes[1] - slopes[0]) / 3
        # Where the two steps disagree, a kink lies between them.
        smooth = (slopes[0] - slopes[1]).abs() <= 1e-4 * slope.abs().clamp(min=1e-6)
        assert smooth.double().mean().item() > 0.8
        error = (kernel[:, column] - slope).abs() / slope.abs().clamp(min=1e-3)
        assert error[smooth].max().item() <= 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", [*FAMILIES, "apart"])
@pytest.mark.parametrize("name", KERNELS)
def test_gradients_are_finite_and_equal_the_reference(
    name: str, family: str, dtype: torch.dtype
) -> None:
    boxes1, boxes2 = apart(500, dtype) if family == "apart" else box_pairs(family, 500, dtype)
    kernel = gradients(KERNELS[name], boxes1, boxes2)
    reference = REFERENCE_GRADIENTS[name](torch.ones_like(boxes1[:, 0]), boxes1, boxes2)
    for ours, expected in zip(kernel, reference):
        assert ours.dtype == dtype and bool(ours.isfinite().all())
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", KERNELS)
def test_gradient_pulls_disjoint_boxes_together(name: str) -> None:
    left = torch.tensor([[0.0, 0.0, 10.0, 4.0, 0.0]], dtype=torch.float64)
    right = torch.tensor([[30.0, 0.0, 10.0, 4.0, 0.0]], dtype=torch.float64)
    grad_left, grad_right = gradients(KERNELS[name], left, right)
    assert paired_iou_rotated(left, right).item() == 0
    # The hull is 40 x 4 with a union of 80; the diameter joins the outer corners.
    expected = {"giou": 80 * 4 / 160**2, "diou": (2 * 30 * 1616 - 2 * 40 * 900) / 1616**2}[name]
    assert grad_left[0, 0].item() == pytest.approx(expected, rel=1e-12)
    assert grad_right[0, 0].item() == pytest.approx(-expected, rel=1e-12)
    # Symmetric in y and in the angle, so no slope.
    assert grad_left[0, [1, 4]].abs().max().item() < 1e-15


def test_values_by_hand() -> None:
    square = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]], dtype=torch.float64)
    shifted = torch.tensor([[2.0, 2.0, 2.0, 2.0, 90.0]], dtype=torch.float64)
    # Two squares that share a corner: the hull is a hexagon of 12, its diameter sqrt(32).
    assert paired_giou_rotated(square, shifted).item() == pytest.approx(8 / 12 - 1, abs=1e-15)
    assert paired_diou_rotated(square, shifted).item() == pytest.approx(-8 / 32, abs=1e-15)


def test_upright_boxes_equal_torchvision_where_the_definitions_do() -> None:
    boxes1, boxes2 = box_pairs("random", 200, torch.float64)
    boxes1[:, 4], boxes2[:, 4] = 0.0, 90.0
    boxes2[:, [2, 3]] = boxes1[:, [3, 2]]  # equal sizes: the diagonals are those of corners
    half = boxes1[:, 2:4] / 2
    upright1 = torch.cat([boxes1[:, :2] - half, boxes1[:, :2] + half], dim=1)
    upright2 = torch.cat([boxes2[:, :2] - half, boxes2[:, :2] + half], dim=1)
    torch.testing.assert_close(
        paired_diou_rotated(boxes1, boxes2), distance_box_iou(upright1, upright2).diagonal()
    )
    boxes2[:, 1] = boxes1[:, 1]  # side by side: the hull is the upright box
    upright2 = torch.cat([boxes2[:, :2] - half, boxes2[:, :2] + half], dim=1)
    torch.testing.assert_close(
        paired_giou_rotated(boxes1, boxes2), generalized_box_iou(upright1, upright2).diagonal()
    )


@pytest.mark.parametrize("name", KERNELS)
def test_boxes_without_area_pull_too(name: str) -> None:
    flat = torch.tensor([[0.0, 0.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    box = torch.tensor([[20.0, 0.0, 10.0, 4.0, 0.0]] * 2)
    for measure in (KERNELS[name], REFERENCES[name]):
        value = measure(flat, box)
        assert bool(((value < 0) & (value >= -1)).all())
    grad = gradients(KERNELS[name], flat, box)[0]
    assert bool(grad.isfinite().all()) and bool((grad[:, 0] > 0).all())


@pytest.mark.parametrize("name", KERNELS)
def test_negative_sides_count_as_zero_and_stay(name: str) -> None:
    box = torch.tensor([[20.0, 0.0, 10.0, 4.0, 30.0]], dtype=torch.float64)
    negative = torch.tensor([[0.0, 0.0, -3.0, 4.0, 0.0]], dtype=torch.float64)
    zero = negative.clamp(min=0)
    for measure in (KERNELS[name], REFERENCES[name]):
        assert torch.equal(measure(negative, box), measure(zero, box))
    assert gradients(KERNELS[name], negative, box)[0][0, 2].item() == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_nonsense_boxes_give_minus_one_without_gradient(name: str, dtype: torch.dtype) -> None:
    good = torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]], dtype=dtype).expand(15, 5)
    bad = good.clone()
    for row in range(15):
        bad[row, row % 5] = (float("nan"), float("inf"), -float("inf"))[row // 5]
    for pair in ((good, bad), (bad, good)):
        for measure in (KERNELS[name], REFERENCES[name]):
            assert torch.equal(measure(*pair), torch.full((15,), -1, dtype=dtype))
        for grad in gradients(KERNELS[name], *pair):
            assert bool((grad == 0).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_extreme_sizes_stay_in_range_with_finite_gradients(name: str, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    sizes = (limits.tiny, limits.smallest_normal * 1e-3, 1e-20, 1e20, limits.max / 4)
    rows = [[x, 0.0, w, h, 20.0] for x in sizes for w in sizes for h in sizes]
    boxes1 = torch.tensor(rows, dtype=dtype)
    boxes2 = boxes1.flip(0)
    for measure in (KERNELS[name], REFERENCES[name]):
        value = measure(boxes1, boxes2)
        assert bool(((value >= -1) & (value <= 1)).all())
    for grad in gradients(KERNELS[name], boxes1, boxes2):
        assert bool(grad.isfinite().all())


@pytest.mark.parametrize("name", KERNELS)
def test_degenerate_pairs_in_one_place_are_zero(name: str) -> None:
    point = torch.zeros(1, 5)
    for measure in (KERNELS[name], REFERENCES[name]):
        assert measure(point, point).item() == 0
    for grad in gradients(KERNELS[name], point, point):
        assert bool((grad == 0).all())


@pytest.mark.parametrize("name", KERNELS)
def test_ascent_brings_two_boxes_together(name: str) -> None:
    target = torch.tensor([[60.0, 40.0, 30.0, 12.0, 25.0]], dtype=torch.float64)
    box = torch.tensor([[0.0, 0.0, 14.0, 9.0, -10.0]], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([box], lr=0.5)
    for _ in range(400):
        optimizer.zero_grad()
        (1 - KERNELS[name](box, target)).sum().backward()
        optimizer.step()
    assert paired_iou_rotated(box.detach(), target).item() > 0.8


@pytest.mark.parametrize("name", KERNELS)
def test_layouts_half_and_empty(name: str) -> None:
    measure = KERNELS[name]
    boxes1, boxes2 = box_pairs("random", 20, torch.float32)
    strided1, strided2 = boxes1.t().contiguous().t(), boxes2.repeat(2, 1)[::2]
    assert torch.equal(measure(strided1, boxes2), measure(boxes1, boxes2))
    assert torch.equal(measure(boxes1, strided2), measure(boxes1, strided2.contiguous()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = boxes1.half().requires_grad_()
        value = measure(half, boxes2)
        assert value.dtype == torch.float32
        value.sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.float16
    assert measure(boxes1, boxes2.double()).dtype == torch.float64
    empty = torch.zeros(0, 5, requires_grad=True)
    measure(empty, empty.detach()).sum().backward()
    assert empty.grad is not None and empty.grad.shape == (0, 5)


@pytest.mark.parametrize("name", KERNELS)
def test_second_derivative_is_refused(name: str) -> None:
    boxes1, boxes2 = box_pairs("random", 3, torch.float64)
    boxes1.requires_grad_()
    (grad,) = torch.autograd.grad(KERNELS[name](boxes1, boxes2).sum(), boxes1, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"paired_{name}_rotated has no second"):
        grad.sum().backward()
