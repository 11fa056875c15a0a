"""NMS on sets made to break it: kernel, reference and a loop, whatever the threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tcm_d2.ops import batched_nms_rotated, box_iou_rotated, nms_rotated
from tcm_d2.ops.registration import OPERATORS

SETTINGS = settings(max_examples=30, deadline=None, derandomize=True, database=None)
THRESHOLDS = (0.0, 0.1, 0.25, 0.5, 1.0)


@contextmanager
def threads(num: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def greedy(boxes: Tensor, scores: Tensor, labels: Tensor | None, threshold: float) -> list[int]:
    """Greedy NMS by its definition, over all pairs."""
    suppresses = box_iou_rotated(boxes.double(), boxes.double()) > threshold
    if labels is not None:
        suppresses &= labels[:, None] == labels
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    gone = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for i in order:
        if not gone[i]:
            kept.append(i)
            gone |= suppresses[i]
    return kept


def check(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> None:
    for classes in (None, labels):
        expected = greedy(boxes, scores, classes, threshold)
        for num in (1, 2, 5):
            with threads(num):
                keep = (
                    nms_rotated(boxes, scores, threshold)
                    if classes is None
                    else batched_nms_rotated(boxes, scores, classes, threshold)
                )
            assert keep.tolist() == expected
        assert (
            OPERATORS["nms_rotated"].reference(boxes, scores, classes, threshold).tolist()
            == expected
        )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _random(num: int, seed: int) -> Tensor:
    unit = torch.rand(num, 5, generator=_generator(seed))
    return unit * torch.tensor([100.0, 100.0, 40.0, 15.0, 360.0]) - torch.tensor(
        [50.0, 50.0, -2.0, -2.0, 180.0]
    )


def chain(num: int, seed: int) -> Tensor:
    """Each overlaps the next alone: whether one is kept depends on all before it."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 4.0, 0.0]]).repeat(num, 1)
    boxes[:, 0] = 6.0 * torch.arange(num)
    return boxes


def tiles(num: int, seed: int) -> Tensor:
    """Whole numbers, upright: borders touch, and many IoUs are 1/3 or 1 to the bit."""
    cells = torch.randint(0, 6, (num, 2), generator=_generator(seed))
    boxes = torch.full((num, 5), 4.0)
    boxes[:, :2] = 2.0 * cells
    boxes[:, 4] = 90.0 * torch.randint(-2, 3, (num,), generator=_generator(seed + 1))
    return boxes


def duplicates(num: int, seed: int) -> Tensor:
    """A few boxes, many times, some by other numbers for the same rectangle."""
    boxes = _random(5, seed)[torch.randint(0, 5, (num,), generator=_generator(seed))]
    boxes[::3] = boxes[::3][:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, 90.0])
    return boxes


def near_duplicates(num: int, seed: int) -> Tensor:
    noise = torch.randn(num, 5, generator=_generator(seed)) * 1e-3
    return duplicates(num, seed) + noise


def all_sizes(num: int, seed: int) -> Tensor:
    """Sides from 1e-2 to 1e5 px around one place."""
    boxes = _random(num, seed)
    boxes[:, 2:4] = 10 ** (torch.rand(num, 2, generator=_generator(seed)) * 7 - 2)
    return boxes


def far(num: int, seed: int) -> Tensor:
    return _random(num, seed) + torch.tensor([-9e4, 9e4, 0, 0, 0])


def clusters_far_apart(num: int, seed: int) -> Tensor:
    boxes = _random(num, seed)
    boxes[:, :2] += 1e5 * torch.randint(-1, 2, (num, 2), generator=_generator(seed))
    return boxes


def nonsense(num: int, seed: int) -> Tensor:
    """Among ordinary boxes: no area, negative sides, NaN, infinities, the largest float."""
    boxes = _random(num, seed)
    values = torch.tensor([0.0, -3.0, math.nan, math.inf, -math.inf, 3e38])
    column = torch.randint(0, 5, (num,), generator=_generator(seed))
    odd = torch.arange(num) % 4 == 0
    boxes[odd, column[odd]] = values[torch.arange(int(odd.sum())) % len(values)]
    return boxes


def needles(num: int, seed: int) -> Tensor:
    """Aspects from 8 to 1e5 around one place, nearly along eight directions, sides either way."""
    draws = torch.rand(num, 4, generator=_generator(seed), dtype=torch.float64)
    boxes = torch.zeros(num, 5)
    boxes[:, :2] = 2 * draws[:, :2]
    boxes[:, 2] = 10 ** (1 + 2 * draws[:, 2])
    boxes[:, 3] = boxes[:, 2] / 10 ** (0.9 + 4 * draws[:, 3])
    direction = 45 * torch.randint(-4, 4, (num,), generator=_generator(seed + 1))
    boxes[:, 4] = direction + 3 * torch.randn(num, generator=_generator(seed + 2))
    boxes[::2] = boxes[::2][:, [0, 1, 3, 2, 4]]
    return boxes


SETS = {
    "random": _random,
    "chain": chain,
    "tiles": tiles,
    "duplicates": duplicates,
    "near duplicates": near_duplicates,
    "all sizes": all_sizes,
    "far": far,
    "clusters far apart": clusters_far_apart,
    "needles": needles,
    "nonsense": nonsense,
}


def draw_scores(kind: str, num: int, seed: int) -> Tensor:
    scores = torch.rand(num, generator=_generator(seed + 1))
    if kind == "tied":
        return (scores * 4).round() / 4
    if kind == "equal":
        return torch.ones(num)
    if kind == "falling":
        return torch.linspace(1, 0, num)
    if kind == "odd":
        odd = torch.tensor([math.inf, -math.inf, -0.0, 0.0, math.nan])
        return torch.where(torch.arange(num) % 3 == 0, odd[torch.arange(num) % 5], scores)
    return scores


@pytest.mark.parametrize("score_kind", ["any", "tied", "equal", "falling", "odd"])
@pytest.mark.parametrize("name", SETS)
def test_kernel_and_reference_equal_the_loop(name: str, score_kind: str) -> None:
    boxes = SETS[name](50, 1)
    labels = torch.randint(-1, 2, (50,), generator=_generator(1)) * 2**40
    check(boxes, draw_scores(score_kind, 50, 1), labels, 0.1)


@SETTINGS
@given(
    name=st.sampled_from(sorted(SETS)),
    num=st.integers(0, 40),
    seed=st.integers(0, 2**20),
    score_kind=st.sampled_from(["any", "tied", "equal", "odd"]),
    threshold=st.one_of(st.sampled_from(THRESHOLDS), st.floats(0, 1)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_set_equals_the_loop(
    name: str, num: int, seed: int, score_kind: str, threshold: float, dtype: torch.dtype
) -> None:
    boxes = SETS[name](num, seed).to(dtype)
    labels = torch.randint(0, 3, (num,), generator=_generator(seed))
    check(boxes, draw_scores(score_kind, num, seed), labels, threshold)


_NUMBER = st.one_of(st.integers(-6, 6).map(float), st.floats(-1e6, 1e6, width=32))


@SETTINGS
@given(
    rows=st.lists(
        st.tuples(_NUMBER, _NUMBER, _NUMBER.map(abs), _NUMBER.map(abs), _NUMBER, st.integers(0, 3)),
        max_size=10,
    ),
    threshold=st.sampled_from(THRESHOLDS),
)
def test_any_few_boxes_equal_the_loop(
    rows: list[tuple[float, float, float, float, float, int]], threshold: float
) -> None:
    values = torch.tensor(rows).reshape(-1, 6)
    check(values[:, :5].clone(), values[:, 5].clone(), values[:, 5].long() % 2, threshold)


def test_order_of_the_rows_does_not_matter() -> None:
    for name in ("random", "near duplicates", "all sizes", "far"):
        boxes = SETS[name](300, 5)
        scores = torch.randperm(300, generator=_generator(6)).float()
        keep = nms_rotated(boxes, scores, 0.2)
        shuffle = torch.randperm(300, generator=_generator(7))
        again = nms_rotated(boxes[shuffle], scores[shuffle], 0.2)
        assert torch.equal(shuffle[again], keep)


@pytest.mark.parametrize("name", SETS)
def test_what_is_kept_does_not_overlap_and_the_rest_does(name: str) -> None:
    boxes, scores = SETS[name](1500, 8), draw_scores("tied", 1500, 8)
    keep = nms_rotated(boxes, scores, 0.3)
    assert torch.equal(scores[keep], scores[keep].sort(descending=True).values)
    iou = box_iou_rotated(boxes[keep], boxes)
    position = torch.full((1500,), len(keep))
    position[keep] = torch.arange(len(keep))
    better = torch.arange(len(keep))[:, None] < position
    assert not bool(((iou[:, keep] > 0.3) & better[:, keep]).any())
    dropped = position == len(keep)
    assert bool(((iou > 0.3).any(dim=0) | ~dropped).all())


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_many_needles_equal_the_loop(threshold: float) -> None:
    boxes, scores = needles(1500, 3), draw_scores("any", 1500, 3)
    boxes[:, 4] += 180 * torch.rand(1500, generator=_generator(4))
    assert nms_rotated(boxes, scores, threshold).tolist() == greedy(boxes, scores, None, threshold)
