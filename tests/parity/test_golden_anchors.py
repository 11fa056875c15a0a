"""Anchors, delta coder and anchor assignment against the reference's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcm_d2.checkpoint.head_names import HeadKind
from tcm_d2.modeling.dense.anchor_assigners import ATSSAssigner
from tcm_d2.modeling.dense.delta_coder import DeltaBoxCoder
from tcm_d2.structures.conversions import boxes_to_le90, boxes_to_quads
from tests.conftest import DATA_DIR
from tests.parity.anchor_heads import count_ties, make_grid, make_max_iou_assigner
from tests.parity.golden import Golden, relative_error

NUM_IMAGES = 5


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "e_anchor_assignment.npz")


@pytest.fixture(scope="module")
def coder_golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "d_coders_boxes.npz")


@pytest.mark.parametrize("kind", ["atss", "retinanet"])
def test_anchors_to_the_last_bit(golden: Golden, kind: HeadKind) -> None:
    grid = make_grid(kind)
    assert grid.level_num_anchors == golden[f"{kind}_anchors_per_level"].tolist()
    for level, boxes in enumerate(grid.boxes.split(grid.level_num_anchors)):
        le90 = boxes_to_le90(boxes)
        name = f"{kind}_anchors_lvl{level}"
        assert torch.equal(le90[:18], golden[f"{name}_first18"])
        assert torch.equal(le90[-9:], golden[f"{name}_last9"])
        # The sum of angles counts the squares that rounding made wider than high.
        assert torch.equal(le90.double().sum(dim=0), golden[f"{name}_sum"])
        assert torch.equal(le90.double().abs().sum(dim=0), golden[f"{name}_abssum"])
    for level in (3, 4):
        boxes = grid.boxes.split(grid.level_num_anchors)[level]
        assert torch.equal(boxes_to_le90(boxes), golden[f"{kind}_anchors_lvl{level}"])


def test_deltas(coder_golden: Golden) -> None:
    anchors = coder_golden.boxes("delta_anchors")
    deltas = DeltaBoxCoder().encode(anchors, coder_golden.boxes("delta_gt"))
    for column in range(5):
        assert relative_error(deltas[:, column], coder_golden["delta_encoded"][:, column]) < 1e-5


@pytest.mark.parametrize(
    ("name", "size_hw"), [("delta_decoded", None), ("delta_decoded_maxshape_h600_w800", (600, 800))]
)
def test_decoded_boxes(coder_golden: Golden, name: str, size_hw: tuple[int, int] | None) -> None:
    anchors = coder_golden.boxes("delta_anchors")
    boxes = DeltaBoxCoder().decode(anchors, coder_golden["delta_in"], image_size_hw=size_hw)
    assert_same_rectangles(boxes, coder_golden.boxes(name))


def test_round_trip(coder_golden: Golden) -> None:
    anchors, coder = coder_golden.boxes("delta_anchors"), DeltaBoxCoder()
    boxes = coder.decode(anchors, coder.encode(anchors, coder_golden.boxes("delta_gt")))
    assert_same_rectangles(boxes, coder_golden.boxes("delta_roundtrip"))


def assert_same_rectangles(boxes: Tensor, expected: Tensor) -> None:
    quads, wanted = boxes_to_quads(boxes), boxes_to_quads(expected)
    shifts = [(quads - wanted.roll(s, dims=1)).abs().amax(dim=(1, 2)) for s in range(4)]
    assert (torch.stack(shifts).amin(dim=0) <= 1e-6 * wanted.abs().amax(dim=(1, 2))).all()


def labels(golden: Golden, location: Tensor, owner: Tensor, num_anchors: int) -> Tensor:
    """Return owners as the golden arrays count them, per image: 0 none, k > 0 the k-th box."""
    counts = [len(golden[f"gt{i}_boxes"]) for i in range(NUM_IMAGES)]
    first = torch.tensor([sum(counts[:i]) for i in range(NUM_IMAGES)])
    result = torch.zeros(NUM_IMAGES * num_anchors, dtype=torch.int64)
    result[location] = owner - first[location // num_anchors] + 1
    return result.view(NUM_IMAGES, num_anchors)


def all_boxes(golden: Golden) -> list[Tensor]:
    return [golden.boxes(f"gt{i}_boxes") for i in range(NUM_IMAGES)]


def test_atss_assignment(golden: Golden) -> None:
    grid = make_grid("atss")
    assigned = ATSSAssigner(topk=9).assign(grid, all_boxes(golden))
    actual = labels(golden, *assigned, len(grid.boxes))
    for image in range(NUM_IMAGES):
        assert torch.equal(actual[image], golden[f"atss_assign{image}_gt_inds"].long())


def test_max_iou_assignment(golden: Golden) -> None:
    grid, boxes = make_grid("retinanet"), all_boxes(golden)
    assigned = make_max_iou_assigner().assign(grid, boxes)
    actual = labels(golden, *assigned[:2], len(grid.boxes))
    actual.view(-1)[assigned.ignored_index] = -1
    num_ties = 0
    for image in range(NUM_IMAGES):
        expected = golden[f"retinanet_assign{image}_gt_inds"].long()
        if image < 2:  # with objects smaller than any anchor
            num_ties += count_ties(actual[image], expected, grid, boxes[image])
        else:
            assert torch.equal(actual[image], expected)
    assert num_ties == 138
