"""Pairs of quads in groups, and NMS in groups: kernel and reference against plain double loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tcm_d2.ops import quad_pairs
from tcm_d2.ops.quad_pairs import nms_quads, overlapping_quads
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import box_pairs

PairsCall = Callable[..., tuple[Tensor, Tensor, Tensor]]


def kernel(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    quads1, quads2, group1, group2, min_iou = args
    return overlapping_quads(quads1, quads2, group1=group1, group2=group2, min_iou=min_iou)


def random_quads(num: int, *, extent_px: float) -> Tensor:
    """Rectangles and crooked quads around random centres, some alike."""
    centre = torch.rand(num, 1, 2, dtype=torch.float64) * extent_px
    quads = centre + torch.randn(num, 4, 2, dtype=torch.float64) * 8
    quads[1::3] = centre[1::3] + torch.tensor([[-9.0, -4], [9, -4], [9, 4], [-9, 4]]).double()
    quads[2::5] = quads[1].clone()
    return quads


@pytest.mark.parametrize("call", [kernel, OPERATORS["overlapping_quads"].reference])
@pytest.mark.parametrize("min_iou", [0.0, 0.3])
def test_pairs_are_those_of_all_against_all(call: PairsCall, min_iou: float) -> None:
    quads1 = random_quads(150, extent_px=90)
    quads2 = quads1[:120] + torch.randn(120, 4, 2).double()
    quads2[0] = torch.tensor([[0.0, 0], [90, 0], [90, 90], [0, 90]])  # one wide among many narrow
    group1, group2 = torch.arange(150) % 4 - 1, torch.arange(120) % 4 - 1
    quads1[5, 2, 1] = float("nan")
    quads2[6, 0, 0] = float("inf")
    iou = torch.ops.tcm_d2.quad_iou(quads1, quads2) * (group1[:, None] == group2)
    first, second = torch.nonzero(iou > min_iou, as_tuple=True)
    found = call(quads1, quads2, group1, group2, min_iou)
    assert len(first) > (200 if min_iou else 400)
    assert torch.equal(found[0], first) and torch.equal(found[1], second)
    assert torch.equal(found[2], iou[first, second])


def test_the_reference_splits_its_work_and_loses_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    quads, group = random_quads(60, extent_px=60), torch.arange(60) % 2
    whole = OPERATORS["overlapping_quads"].reference(quads, quads, group, group, 1e-9)
    monkeypatch.setattr(quad_pairs, "_CANDIDATES_PER_CHUNK", 7)
    parts = OPERATORS["overlapping_quads"].reference(quads, quads, group, group, 1e-9)
    assert len(whole[0]) > 150 and all(map(torch.equal, whole, parts))


@pytest.mark.parametrize("call", [kernel, OPERATORS["overlapping_quads"].reference])
def test_far_from_the_origin_and_touching(call: PairsCall) -> None:
    square = torch.tensor([[[0.0, 0], [1, 0], [1, 1], [0, 1]]]).double()
    shift = torch.tensor([1e5, -1e5]).double()
    moved = torch.cat([square + shift, square + shift + torch.tensor([1.0, 0]).double()])
    group = torch.zeros(2, dtype=torch.int64)
    first, second, iou = call(moved, moved, group, group, 0.0)
    assert first.tolist() == second.tolist() == [0, 1]
    assert iou.tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("call", [kernel, OPERATORS["overlapping_quads"].reference])
def test_no_quads(call: PairsCall) -> None:
    none, no_group = torch.zeros(0, 4, 2).double(), torch.zeros(0, dtype=torch.int64)
    some, group = random_quads(3, extent_px=5), torch.zeros(3, dtype=torch.int64)
    for one, two in (((none, no_group), (some, group)), ((some, group), (none, no_group))):
        first, second, iou = call(one[0], two[0], one[1], two[1], 0.1)
        assert len(first) == len(second) == len(iou) == 0
        assert first.dtype == torch.int64 and iou.dtype == torch.float64


def greedy(quads: Tensor, scores: Tensor, group: Tensor, iou_threshold: float) -> list[int]:
    iou = torch.ops.tcm_d2.quad_iou(quads, quads)
    kept: list[int] = []
    for index in torch.argsort(scores, stable=True, descending=True).tolist():
        if all(group[k] != group[index] or iou[k, index] <= iou_threshold for k in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("iou_threshold", [0.0, 0.1, 0.5])
def test_nms_is_greedy_inside_groups(iou_threshold: float) -> None:
    quads = random_quads(300, extent_px=80)
    scores = (torch.rand(300) * 20).round().double()  # many ties
    group = torch.randint(-2, 3, (300,))
    expected = greedy(quads, scores, group, iou_threshold)
    kept = nms_quads(quads, scores, group=group, iou_threshold=iou_threshold)
    assert 20 < len(expected) < 300 and kept.tolist() == expected
    reference = OPERATORS["nms_quads"].reference(quads, scores, group, iou_threshold)
    assert reference.tolist() == expected


def test_nms_keeps_what_is_not_finite() -> None:
    quads = random_quads(2, extent_px=1)[:1].repeat(3, 1, 1)
    quads[1, 0, 0] = float("nan")
    group = torch.zeros(3, dtype=torch.int64)
    scores = torch.tensor([0.5, 0.4, 0.6])
    assert nms_quads(quads, scores, group=group, iou_threshold=0.5).tolist() == [2, 1]
    reference = OPERATORS["nms_quads"].reference(quads, scores, group, 0.5)
    assert reference.tolist() == [2, 1]


def test_bad_arguments_are_named() -> None:
    quads, group = random_quads(3, extent_px=9), torch.arange(3)
    with pytest.raises(TypeError, match=r"group2: expected an integer tensor, got torch\.float32"):
        overlapping_quads(quads, quads, group1=group, group2=group.float(), min_iou=0.5)
    with pytest.raises(ValueError, match=r"group1: expected shape \(3,\)"):
        overlapping_quads(quads, quads, group1=group[:2], group2=group, min_iou=0.5)
    with pytest.raises(ValueError, match=r"quads1: expected shape \(N, 4, 2\)"):
        overlapping_quads(quads[0], quads, group1=group, group2=group, min_iou=0.5)
    with pytest.raises(ValueError, match="iou_threshold: expected a value in"):
        nms_quads(quads, torch.rand(3), group=group, iou_threshold=1.5)
    with pytest.raises(ValueError, match=r"scores: expected shape \(3,\)"):
        nms_quads(quads, torch.rand(2), group=group, iou_threshold=0.5)
    boxes, _ = box_pairs("random", 3, torch.float64)
    with pytest.raises(ValueError, match=r"quads: expected shape \(N, 4, 2\)"):
        nms_quads(boxes, torch.rand(3), group=group, iou_threshold=0.5)
