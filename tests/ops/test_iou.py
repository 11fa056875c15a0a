"""Pairwise IoU: kernel and reference against shapely, and the checks of arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from tcm_d2.ops import box_iou_rotated, paired_iou_rotated
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import FAMILIES, box_pairs, exact_overlap

DTYPES = (torch.float32, torch.float64)
# float32 results are rounded once; near 1 that is 3e-8.
TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-11}
PAIRED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kernel": paired_iou_rotated,
    "reference": OPERATORS["paired_iou_rotated"].reference,
}

# name: two boxes, and the exact IoU of these numbers rounded to float32 (by tests/ops/exactness).
# The first six defeat hull-sorting implementations; G is a needle across a large box.
REGRESSION_PAIRS = {
    "A": (
        (706.145996, 286.346436, 184.361389, 48.2124443, 48.8246307),
        (706.146057, 286.346405, 184.361313, 48.2123909, 48.8246727),
        0.99999749026263862,
    ),
    "B": (
        (609.348938, 936.112549, 10.342104, 61.3134346, 61.6854935),
        (609.348328, 936.112549, 10.3421345, 61.3126602, 61.6849785),
        0.99992649153556412,
    ),
    "C": (
        (816.956543, 333.528809, 117.832512, 9.72192097, -30.3278866),
        (817.048828, 333.458771, 117.880173, 9.63078213, -30.2681007),
        0.97739769927625963,
    ),
    "D": (
        (472.118195, 665.974243, 10.6830521, 32.5860481, -17.7718792),
        (471.285431, 666.279907, 11.2089472, 33.5201721, -18.7096958),
        0.85340142161731591,
    ),
    "E": (
        (321.221008, 980.429688, 50.6502686, 129.434357, -62.3350258),
        (321.221008, 980.429688, 50.6502647, 129.434357, -62.3350182),
        0.99999979547204898,
    ),
    "F": (
        (174.13974, 1014.70264, 12.9692459, 399.01178, -0.795675278),
        (174.844223, 1015.43048, 12.1119099, 399.723053, -0.467953086),
        0.86702048571903623,
    ),
    "G": (
        (135.07, 406.72, 7.9445e-7, 1971.1, 5813.1953125),
        (151.008, 436.2173, 302.0159, 313.7347, 10237.1064453125),
        2.6087500777e-09,
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", PAIRED)
def test_paired_iou_equals_shapely(implementation: str, family: str, dtype: torch.dtype) -> None:
    boxes1, boxes2 = box_pairs(family, 2000, dtype)
    iou = PAIRED[implementation](boxes1, boxes2)
    assert iou.dtype == dtype
    assert bool(((iou >= 0) & (iou <= 1)).all())  # NaN fails too
    error = (iou.double() - exact_overlap(boxes1, boxes2)).abs().max().item()
    assert error <= TOLERANCE[dtype]
    assert torch.equal(iou, PAIRED[implementation](boxes2, boxes1))


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pairwise_overlap_equals_shapely(mode: str, dtype: torch.dtype) -> None:
    boxes1 = torch.cat([box_pairs(family, 6, dtype)[0] for family in FAMILIES])
    boxes2 = torch.cat([box_pairs(family, 6, dtype)[1] for family in FAMILIES])[:-5]
    kernel = box_iou_rotated(boxes1, boxes2, mode=mode)  # type: ignore[arg-type]
    reference = OPERATORS["box_iou_rotated"].reference(boxes1, boxes2, mode == "iof")
    num1, num2 = len(boxes1), len(boxes2)
    assert kernel.shape == (num1, num2)
    exact = exact_overlap(
        boxes1.repeat_interleave(num2, 0), boxes2.repeat(num1, 1), mode=mode
    ).reshape(num1, num2)
    torch.testing.assert_close(kernel.double(), exact, rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(reference.double(), exact, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", PAIRED)
@pytest.mark.parametrize("name", REGRESSION_PAIRS)
def test_regression_pairs(name: str, implementation: str, dtype: torch.dtype) -> None:
    first, second, exact = REGRESSION_PAIRS[name]
    box1, box2 = torch.tensor([first]).to(dtype), torch.tensor([second]).to(dtype)
    paired = PAIRED[implementation](box1, box2)
    exchanged = PAIRED[implementation](box2, box1)
    pairwise = box_iou_rotated(torch.cat([box1, box2]), torch.cat([box1, box2]))
    rel = 1e-7 if dtype == torch.float32 else 1e-12
    if name == "G":
        rel = 1e-6  # 1.6e-15 of 2.6e-9: 1971 px turned by 1 / 2^53 miss by a quarter needle
    assert paired.item() == pytest.approx(exact, rel=rel, abs=0)
    assert torch.equal(paired, exchanged)
    assert pairwise.diagonal().tolist() == [1.0, 1.0]
    assert pairwise[0, 1] == pairwise[1, 0]
    assert pairwise[0, 1].item() == pytest.approx(exact, rel=rel, abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_box_overlaps_itself_fully(dtype: torch.dtype) -> None:
    for family in FAMILIES:
        boxes = box_pairs(family, 300, dtype)[0]
        assert torch.equal(paired_iou_rotated(boxes, boxes), torch.ones(300, dtype=dtype))
        assert torch.equal(box_iou_rotated(boxes, boxes).diagonal(), torch.ones(300, dtype=dtype))


def test_angle_is_counter_clockwise_on_screen() -> None:
    # At +30 degrees the right end of a bar is up, at smaller y: it covers the point (4, -2.3).
    bar = torch.tensor([[0.0, 0.0, 10.0, 1.0, 30.0]])
    probes = torch.tensor([[4.0, -2.3, 0.1, 0.1, 0.0], [4.0, 2.3, 0.1, 0.1, 0.0]])
    assert box_iou_rotated(probes, bar, mode="iof")[:, 0].tolist() == [1.0, 0.0]


def test_upright_boxes_equal_torchvision() -> None:
    boxes1, boxes2 = box_pairs("random", 50, torch.float64)
    boxes1[:, 4], boxes2[:, 4] = 0.0, 90.0
    half1, half2 = boxes1[:, 2:4] / 2, boxes2[:, [3, 2]] / 2
    expected = box_iou(
        torch.cat([boxes1[:, :2] - half1, boxes1[:, :2] + half1], dim=1),
        torch.cat([boxes2[:, :2] - half2, boxes2[:, :2] + half2], dim=1),
    )
    torch.testing.assert_close(box_iou_rotated(boxes1, boxes2), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("implementation", PAIRED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nonsense_boxes_overlap_nothing(implementation: str, dtype: torch.dtype) -> None:
    good = [5.0, 5.0, 4.0, 2.0, 30.0]
    rows = []
    for column in range(5):
        for value in (float("nan"), float("inf"), -float("inf")):
            rows.append(good[:column] + [value] + good[column + 1 :])
    rows += [[5.0, 5.0, 0.0, 2.0, 0.0], [5.0, 5.0, 4.0, -2.0, 0.0], [5.0, 5.0, -4.0, -2.0, 0.0]]
    boxes = torch.tensor(rows, dtype=dtype)
    other = torch.tensor([good], dtype=dtype).expand_as(boxes)
    function = PAIRED[implementation]
    assert function(boxes, other).tolist() == [0.0] * len(rows)
    assert function(other, boxes).tolist() == [0.0] * len(rows)
    assert function(boxes, boxes).tolist() == [0.0] * len(rows)


@pytest.mark.parametrize("implementation", PAIRED)
def test_disjoint_boxes_overlap_exactly_zero(implementation: str) -> None:
    boxes1, boxes2 = box_pairs("random", 5000, torch.float64)
    exact = exact_overlap(boxes1, boxes2)
    iou = PAIRED[implementation](boxes1, boxes2)
    assert bool((exact == 0).any()) and bool((iou[exact == 0] == 0).all())


def test_extreme_sizes_stay_in_range() -> None:
    largest = torch.finfo(torch.float32).max
    boxes = torch.tensor(
        [
            [0, 0, largest, largest, 10],
            [0, 0, 1e-38, 1e-38, 20],
            [largest, -largest, 1, 1, 30],
            [0, 0, 1e-44, 1e38, 1e30],
        ]
    )
    iou = box_iou_rotated(boxes, boxes)
    assert bool(((iou >= 0) & (iou <= 1)).all())
    assert iou.diagonal().tolist() == [1.0] * 4


@pytest.mark.parametrize(("num1", "num2"), [(0, 0), (0, 3), (3, 0)])
def test_empty_inputs_give_empty_results(num1: int, num2: int) -> None:
    boxes1, boxes2 = torch.zeros(num1, 5), torch.zeros(num2, 5)
    assert box_iou_rotated(boxes1, boxes2).shape == (num1, num2)
    assert OPERATORS["box_iou_rotated"].reference(boxes1, boxes2, False).shape == (num1, num2)


def test_layout_in_memory_does_not_matter() -> None:
    boxes1, boxes2 = box_pairs("random", 40, torch.float32)
    strided1 = boxes1.t().contiguous().t()
    strided2 = torch.cat([boxes2, boxes2], dim=1)[:, 5:]
    expected = box_iou_rotated(boxes1, boxes2)
    assert torch.equal(box_iou_rotated(strided1, strided2), expected)
    assert torch.equal(paired_iou_rotated(strided1, strided2), expected.diagonal())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_cast_up(dtype: torch.dtype) -> None:
    boxes1, boxes2 = (boxes.to(dtype) for boxes in box_pairs("random", 20, torch.float32))
    expected = box_iou_rotated(boxes1.float(), boxes2.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(box_iou_rotated(boxes1, boxes2), expected)
    assert torch.equal(box_iou_rotated(boxes1, boxes2.float()), expected)
    assert box_iou_rotated(boxes1, boxes2.double()).dtype == torch.float64


def test_threads_do_not_change_the_result() -> None:
    boxes1, boxes2 = box_pairs("random", 300, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(box_iou_rotated(boxes1, boxes2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


GOOD = torch.ones(4, 5)


@pytest.mark.parametrize(
    ("boxes1", "boxes2", "error", "message"),
    [
        (GOOD[:, :4], GOOD, ValueError, r"boxes1: expected shape \(N, 5\).*got \(4, 4\)"),
        (GOOD, GOOD[0], ValueError, r"boxes2: expected shape \(N, 5\).*got \(5,\)"),
        (GOOD.int(), GOOD, TypeError, r"boxes1: expected a floating point.*int32"),
        (GOOD, GOOD.tolist(), TypeError, r"boxes2: expected a torch.Tensor, got list"),
        (GOOD, GOOD.to("meta"), ValueError, r"boxes1 on cpu, boxes2 on meta"),
    ],
)
@pytest.mark.parametrize("function", [box_iou_rotated, paired_iou_rotated])
def test_bad_arguments_are_named(
    function: Callable[..., Tensor],
    boxes1: Tensor,
    boxes2: Tensor,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        function(boxes1, boxes2)


def test_unknown_mode_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="mode: expected 'iou' or 'iof', got 'giou'"):
        box_iou_rotated(GOOD, GOOD, mode="giou")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="boxes2: expected as many boxes as boxes1, 4, got 3"):
        paired_iou_rotated(GOOD, GOOD[:3])
