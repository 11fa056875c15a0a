"""The reference's IoU rounding, beside its golden values: chunks, order, defects, coarse angles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.dense import reference_iou as module
from tcm_d2.modeling.dense.reference_iou import reference_iou, to_reference_form
from tcm_d2.ops import paired_iou_rotated


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator)
    return boxes * torch.tensor([30.0, 30.0, 40.0, 20.0, 180.0]) + torch.tensor(
        [0.0, 0.0, 20.0, 1.0, -90.0]
    )


def test_near_the_exact_iou_but_not_equal() -> None:
    boxes1, boxes2 = random_boxes(500, 0), random_boxes(500, 1)
    iou = reference_iou(to_reference_form(boxes1), to_reference_form(boxes2))
    exact = paired_iou_rotated(boxes1, boxes2)
    torch.testing.assert_close(iou, exact, rtol=0, atol=2e-6)
    assert (iou != exact).any() and (exact > 0).sum() > 100


def test_order_of_the_boxes_shows_in_the_last_bits() -> None:
    form1, form2 = to_reference_form(random_boxes(500, 0)), to_reference_form(random_boxes(500, 1))
    forth, back = reference_iou(form1, form2), reference_iou(form2, form1)
    torch.testing.assert_close(forth, back, rtol=0, atol=2e-6)
    assert (forth != back).any()


def test_size_of_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    # Repeated corners on whole numbers: points of one direction, up to 16 in a pair.
    form1, form2 = random_boxes(600, 2).round(), random_boxes(600, 3).round()
    form1[:, 4], form2[:, 4] = 0, torch.pi / 2 * (torch.arange(600) % 3 - 1)
    form2[::5, :4] = form1[::5, :4]
    expected = reference_iou(form1, form2)
    monkeypatch.setattr(module, "_MAX_PAIRS", 7)
    assert torch.equal(reference_iou(form1, form2), expected)
    assert torch.equal(reference_iou(form1[::5], form2[::5]), expected[::5])


def test_no_pairs() -> None:
    none = torch.zeros(0, 5)
    assert reference_iou(to_reference_form(none), to_reference_form(none)).shape == (0,)


def test_the_defect_where_sides_lie_on_one_line_is_kept() -> None:
    # One rectangle, its sides named either way (golden set a).
    box = torch.tensor([[941.39551, 720.61737, 5.5137873, 0.71624893, -1.3870543]])
    same = torch.tensor([[941.39551, 720.61737, 0.71624893, 5.5137873, -2.9578507]])
    assert reference_iou(box, same).item() < 0.2


def test_form_of_the_reference() -> None:
    boxes = torch.tensor([[1.0, 2.0, 8.0, 0.0, 30.0], [1.0, 2.0, 8.0, 4.0, -90.0]])
    before = boxes.clone()
    form = to_reference_form(boxes)
    assert torch.equal(boxes, before)
    assert form[0].tolist() == pytest.approx([1, 2, 8, 1e-3, -torch.pi / 6])
    assert form[1].tolist() == pytest.approx([1, 2, 8, 4, -torch.pi / 2])


def test_float64_degrees_keep_every_float32_radian() -> None:
    radians = (torch.rand(20_000, generator=torch.Generator().manual_seed(0)) - 0.5) * torch.pi
    boxes = torch.ones(len(radians), 5)
    wide = torch.cat([boxes[:, :4].double(), -torch.rad2deg(radians.double())[:, None]], dim=1)
    assert torch.equal(to_reference_form(wide)[:, 4], radians)
    narrow = torch.cat([boxes[:, :4], -torch.rad2deg(radians)[:, None]], dim=1)
    kept = (to_reference_form(narrow)[:, 4] == radians).float().mean()
    assert 0.9 < kept < 0.92  # as many as there are float32 degrees
