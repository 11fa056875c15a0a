"""Quadrilaterals: IoU and smallest boxes, kernels and reference implementations."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
import torch
from torch import Tensor

from tcm_d2.ops import minimum_area_boxes, paired_quad_iou, quad_iou, quads_iou
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import FAMILIES, box_pairs, corners
from tests.parity.golden import Golden

PAIRED = {"kernel": paired_quad_iou, "reference": OPERATORS["paired_quad_iou"].reference}
PAIRWISE = {"kernel": quad_iou, "reference": OPERATORS["quad_iou"].reference}
BOXES = {"kernel": minimum_area_boxes, "reference": OPERATORS["minimum_area_boxes"].reference}
DTYPES = (torch.float32, torch.float64)


def quads_of(boxes: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(corners(boxes, torch.zeros_like(boxes[:, :2]))).to(dtype)


def random_quads(num: int, *, extent: float = 50.0) -> Tensor:
    """Corners in any order: convex, concave and self-crossing quads."""
    return torch.rand(num, 4, 2, dtype=torch.float64) * extent


def shapely_iou(quads1: Tensor, quads2: Tensor) -> Tensor:
    one, two = (shapely.polygons(quads.double().numpy()) for quads in (quads1, quads2))
    common = shapely.area(shapely.intersection(one, two))
    return torch.from_numpy(common / (shapely.area(one) + shapely.area(two) - common))


@pytest.mark.parametrize("family", ["random", "near_identical", "shared_edge", "nested", "thin"])
@pytest.mark.parametrize("implementation", PAIRED)
def test_iou_of_rectangles_equals_shapely(implementation: str, family: str) -> None:
    quads1, quads2 = (quads_of(boxes) for boxes in box_pairs(family, 500, torch.float64))
    iou = PAIRED[implementation](quads1, quads2)
    assert (iou - shapely_iou(quads1, quads2)).abs().max().item() <= 1e-9
    assert bool(((iou >= 0) & (iou <= 1 + 1e-12)).all())


@pytest.mark.parametrize("implementation", PAIRED)
def test_iou_of_simple_quads_convex_or_not_equals_shapely(implementation: str) -> None:
    quads1, quads2 = random_quads(3000), random_quads(3000)
    polygons = [shapely.polygons(quads.numpy()) for quads in (quads1, quads2)]
    simple = torch.from_numpy(shapely.is_valid(polygons[0]) & shapely.is_valid(polygons[1]))
    concave = shapely.area(shapely.convex_hull(polygons[0])) > 1.01 * shapely.area(polygons[0])
    assert bool((simple & torch.from_numpy(concave)).any())
    quads1, quads2 = quads1[simple], quads2[simple]
    iou = PAIRED[implementation](quads1, quads2)
    assert (iou - shapely_iou(quads1, quads2)).abs().max().item() <= 1e-12
    for first, second in ((quads1.flip(1), quads2), (quads1, quads2.roll(1, 1)), (quads2, quads1)):
        torch.testing.assert_close(PAIRED[implementation](first, second), iou, rtol=0, atol=1e-12)


def test_iou_of_self_crossing_quads_stays_in_0_to_1() -> None:
    """The devkit's formula gave -586 and 188: signed areas cancel."""
    quads1, quads2 = random_quads(300).double(), random_quads(300).double().flip(0)
    raw = torch.ops.tcm_d2.quad_iou(quads1, quads2)
    assert bool((raw < 0).any()) and bool((raw > 1).any())
    for iou in (quad_iou(quads1, quads2), paired_quad_iou(quads1, quads2)):
        assert bool(((iou >= 0) & (iou <= 1)).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_and_reference_agree_on_all_quads(dtype: torch.dtype) -> None:
    quads1, quads2 = random_quads(400).to(dtype), random_quads(300).to(dtype)
    assert quad_iou(quads1, quads2).dtype == dtype
    iou = torch.ops.tcm_d2.quad_iou(quads1, quads2)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(
        OPERATORS["quad_iou"].reference(quads1, quads2), iou, rtol=tolerance, atol=1e-15
    )
    for paired in (torch.ops.tcm_d2.paired_quad_iou, PAIRED["reference"]):
        torch.testing.assert_close(
            paired(quads1[:300], quads2), iou.diagonal(), rtol=tolerance, atol=1e-15
        )


@pytest.mark.parametrize("implementation", PAIRED)
def test_iou_of_a_self_crossing_quad_is_the_devkits(implementation: str) -> None:
    # A bow tie of two triangles, 20 and 45, that count with opposite signs.
    bow_tie = torch.tensor([[[0.0, 0.0], [10.0, 15.0], [10.0, 0.0], [0.0, 10.0]]])
    cover = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [10.0, 15.0], [0.0, 15.0]]])
    assert PAIRED[implementation](bow_tie, cover).item() == pytest.approx(25 / 150, rel=1e-6)


@pytest.mark.parametrize("implementation", PAIRED)
def test_golden_iou_of_the_devkit(implementation: str, golden_dir: Path) -> None:
    golden = Golden(golden_dir / "a_box_iou_rotated.npz")
    quads = []
    for name in ("boxes1", "boxes2"):
        boxes_rad = golden[name].double()
        boxes = torch.cat([boxes_rad[:, :4], -torch.rad2deg(boxes_rad[:, 4:])], dim=1)
        quads.append(quads_of(boxes))
    areas = golden["boxes1"][:, 2:4].prod(dim=1).minimum(golden["boxes2"][:, 2:4].prod(dim=1))
    ordinary = (areas > 1.0) & (golden["boxes1"][:, 2:4].amax(dim=1) < 2000)
    assert ordinary.sum().item() > 2000
    iou = PAIRED[implementation](quads[0], quads[1])
    error = (iou - golden["iou_polyiou_f64"]).abs()
    assert error[ordinary].max().item() < 2e-8  # the devkit's own absolute epsilon is 1e-8


@pytest.mark.parametrize("implementation", PAIRWISE)
def test_quads_apart_touching_or_without_area_are_exactly_zero(implementation: str) -> None:
    square = torch.tensor([[[0.3, 0.3], [10.1, 0.3], [10.1, 10.7], [0.3, 10.7]]])
    others = torch.stack(
        [
            square[0] + torch.tensor([50.0, 0.0]),
            square[0] + (square[0, 2] - square[0, 0]),
            square[0, :1].expand(4, 2),
            square[0, [0, 2, 0, 2]],
            torch.full((4, 2), float("nan")),
            torch.where(torch.eye(4, 2).bool(), float("inf"), square[0]),
        ]
    )
    assert PAIRWISE[implementation](square, others).eq(0).all()
    assert PAIRWISE[implementation](others, square).eq(0).all()


@pytest.mark.parametrize("implementation", BOXES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_rectangle_is_its_own_smallest_box(implementation: str, family: str) -> None:
    boxes = box_pairs(family, 200, torch.float64)[0]
    quads = quads_of(boxes)
    found = BOXES[implementation](quads)
    assert bool((found[:, 2] >= found[:, 3]).all())
    assert bool(((found[:, 4] >= -90) & (found[:, 4] < 90)).all())
    size = boxes[:, 2:4].amax(dim=1)
    back = quads_of(found)
    # Every corner is there again, in some order.
    distance = torch.cdist(back, quads, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    assert (distance.amax(dim=1) / (size + boxes[:, :2].abs().amax(dim=1))).max().item() < 1e-11


@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_and_reference_find_the_same_box(dtype: torch.dtype) -> None:
    quads = torch.cat([random_quads(500), random_quads(500).round(), random_quads(200, extent=3)])
    quads[1000:] = quads[1000:].round()  # many coincide or lie on a line
    quads = quads.to(dtype)
    kernel, reference = minimum_area_boxes(quads), OPERATORS["minimum_area_boxes"].reference(quads)
    assert kernel.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-11}[dtype]
    torch.testing.assert_close(kernel, reference, rtol=0, atol=tolerance)


def has_one_smallest_box(quad: np.ndarray) -> bool:
    """Whether all rectangles of about the smallest area, along hull edges, have the same sides."""
    hull = shapely.get_coordinates(shapely.convex_hull(shapely.multipoints(quad)))
    if len(hull) < 4:
        return False
    edges = np.diff(hull, axis=0)
    axes = edges / np.linalg.norm(edges, axis=1, keepdims=True)
    along, across = (
        np.ptp(quad @ axes.T, axis=0),
        np.ptp(quad @ (axes[:, ::-1] * [-1, 1]).T, axis=0),
    )
    sides = np.sort(np.stack([along, across], axis=1), axis=1)
    areas = along * across
    smallest = sides[areas <= areas.min() * (1 + 1e-4)]
    return bool(np.ptp(smallest, axis=0).max() < 1e-3)


@pytest.mark.parametrize("implementation", BOXES)
def test_smallest_box_equals_opencv(implementation: str) -> None:
    whole = random_quads(300, extent=1000.0).round()  # exact in OpenCV's float32
    line = whole[:60, :1] + (torch.arange(4.0)[:, None] * torch.tensor([3.0, 4.0])).double()
    doubled = whole[:60, [0, 1, 1, 0]]
    quads = torch.cat([whole, line, doubled, whole[:20, :1].expand(-1, 4, -1)])
    found = BOXES[implementation](quads)
    sides = [sorted(cv2.minAreaRect(q.astype(np.float32))[1]) for q in quads.numpy()]
    expected = torch.tensor(sides, dtype=torch.float64)  # (M, 2) short, long
    size = expected[:, 1] + 1.0
    area_error = found[:, 2] * found[:, 3] - expected.prod(dim=1)
    assert (area_error.abs() / size**2).max().item() < 1e-5
    # Rectangles that touch three corners only come in threes of one area: OpenCV may take another.
    unique = torch.tensor([has_one_smallest_box(quad) for quad in quads.numpy()])
    assert 150 < unique.sum().item() < 300
    error = (found[:, [3, 2]] - expected).abs().amax(dim=1) / size
    assert error[unique].max().item() < 1e-5
    assert error[300:].max().item() < 1e-5
    # And each is around its corners.
    for box, quad in zip(found.tolist(), quads.numpy()):
        frame = cv2.boxPoints(((box[0], box[1]), (box[2] + 1e-2, box[3] + 1e-2), -box[4]))
        assert shapely.covers(shapely.polygons(frame), shapely.multipoints(quad))


@pytest.mark.parametrize("implementation", BOXES)
@pytest.mark.parametrize("angle_deg", [90.0, -90.0, 89.9999999, 0.0, 180.0, -89.9999999])
def test_angles_at_the_seam_stay_in_range(implementation: str, angle_deg: float) -> None:
    box = torch.tensor([[100.0, 50.0, 30.0, 10.0, angle_deg]], dtype=torch.float64)
    found = BOXES[implementation](quads_of(box).float())
    assert -90.0 <= found[0, 4].item() < 90.0
    turns = (found[0, 4].item() - angle_deg) / 180
    assert abs(turns - round(turns)) < 1e-6


@pytest.mark.parametrize("implementation", BOXES)
def test_a_corner_that_is_not_finite_gives_nan(implementation: str) -> None:
    quads = torch.rand(3, 4, 2)
    quads[0, 3, 1], quads[2, 0, 0] = float("nan"), float("inf")
    boxes = BOXES[implementation](quads)
    assert boxes.isnan().all(dim=1).tolist() == [True, False, True]
    assert bool(boxes[1].isfinite().all())


def test_layouts_half_and_empty() -> None:
    quads1, quads2 = random_quads(20).float(), random_quads(20).float()
    strided = quads1.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(quad_iou(strided, quads2), quad_iou(quads1, quads2))
    assert torch.equal(paired_quad_iou(quads2, strided), paired_quad_iou(quads2, quads1))
    assert torch.equal(minimum_area_boxes(strided), minimum_area_boxes(quads1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = quad_iou(quads1.half(), quads2)
    assert torch.equal(half, quad_iou(quads1.half().float(), quads2))
    assert quad_iou(quads1, quads2.double()).dtype == torch.float64
    assert minimum_area_boxes(quads1.bfloat16()).dtype == torch.float32
    for pairwise, paired, smallest in zip(PAIRWISE.values(), PAIRED.values(), BOXES.values()):
        assert pairwise(quads1[:0], quads2).shape == (0, 20)
        assert pairwise(quads1, quads2[:0]).shape == (20, 0)
        assert paired(quads1[:0], quads2[:0]).shape == (0,)
        assert smallest(quads1[:0]).shape == (0, 5)
    leaf = quads1.clone().requires_grad_()
    assert not quad_iou(leaf, leaf).requires_grad and not minimum_area_boxes(leaf).requires_grad


def test_reference_takes_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    quads1, quads2 = random_quads(30), random_quads(17)
    expected = OPERATORS["quad_iou"].reference(quads1, quads2)
    monkeypatch.setattr(quads_iou, "_MAX_PAIRS", 5)
    monkeypatch.setattr(quads_iou, "_MAX_BOUNDS", 40)
    assert torch.equal(OPERATORS["quad_iou"].reference(quads1, quads2), expected)


def test_threads_do_not_change_the_result() -> None:
    quads1, quads2 = random_quads(300), random_quads(300)
    before = torch.get_num_threads()
    results: list[Tensor] = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(quad_iou(quads1, quads2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_bad_arguments_are_named() -> None:
    good = torch.rand(4, 4, 2)
    with pytest.raises(ValueError, match=r"quads1: expected shape \(N, 4, 2\).*got \(4, 8\)"):
        quad_iou(good.flatten(1), good)
    with pytest.raises(TypeError, match=r"quads2: expected a floating point.*got torch\.int"):
        paired_quad_iou(good, good.int())
    with pytest.raises(ValueError, match="quads2: expected as many quads as quads1, 4, got 3"):
        paired_quad_iou(good, good[:3])
    with pytest.raises(ValueError, match="quads1 on cpu, quads2 on meta"):
        quad_iou(good, good.to("meta"))
    with pytest.raises(TypeError, match=r"quads: expected a torch.Tensor, got ndarray; use torch"):
        minimum_area_boxes(good.numpy())  # type: ignore[arg-type]
