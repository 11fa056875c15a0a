"""Anchors, delta coder, IoU rounding and anchor assignment against the reference's numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.dense.anchors import AnchorGrid
from tcm_d2.modeling.dense.delta_coder import DeltaBoxCoder
from tcm_d2.modeling.dense.reference_iou import reference_iou, to_reference_form
from tcm_d2.structures.conversions import boxes_to_le90, boxes_to_quads
from tests.conftest import DATA_DIR
from tests.parity.anchor_heads import full_boxes, make_assigner, make_grid, open_golden
from tests.parity.golden import Golden, relative_error
from tests.parity.heads import HeadKind

NUM_IMAGES = 5


@pytest.fixture(scope="module", params=["committed", "full"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return open_golden(request, "e_anchors_assign_targets", "e_anchor_assignment")


@pytest.fixture(scope="module")
def coder_golden() -> Golden:
    return Golden(DATA_DIR / "golden" / "d_coders_boxes.npz")


def golden_grid(golden: Golden, kind: HeadKind) -> AnchorGrid:
    """Return the anchors of the golden (square) image."""
    counts = golden[f"{kind}_anchors_per_level"].tolist()
    sides = [math.isqrt(count // (1 if kind == "atss" else 9)) for count in counts]
    grid = make_grid(kind, [(side, side) for side in sides])
    assert grid.level_num_anchors == counts
    return grid


@pytest.mark.parametrize("kind", ["atss", "retinanet"])
def test_anchors_to_the_last_bit(golden: Golden, kind: HeadKind) -> None:
    grid = golden_grid(golden, kind)
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


def test_reference_iou_to_the_last_bit() -> None:
    golden = Golden(DATA_DIR / "golden" / "a_box_iou_rotated.npz")
    expected = Golden(DATA_DIR / "golden" / "a_reference_iou.npz")
    # The arrays are radians already, and not clamped.
    boxes1, boxes2 = golden["boxes1"], golden["boxes2"]
    assert torch.equal(reference_iou(boxes1, boxes2), expected["iou_mmcv"])
    assert torch.equal(reference_iou(boxes2, boxes1), expected["iou_mmcv_swapped"])
    rows, columns = golden["pw_boxes1"], golden["pw_boxes2"]
    iou = reference_iou(rows.repeat_interleave(len(columns), dim=0), columns.repeat(len(rows), 1))
    assert torch.equal(iou.view(len(rows), len(columns)), expected["pw_iou_mmcv"])


@pytest.mark.parametrize("kind", ["atss", "retinanet"])
@pytest.mark.parametrize("image", range(NUM_IMAGES))
def test_highest_iou_to_the_last_bit(golden_dir: Path, kind: HeadKind, image: int) -> None:
    golden = Golden(golden_dir / "e_anchors_assign_targets.npz")  # too large to commit
    expected = golden[f"{kind}_assign{image}_max_overlaps"]
    anchors = to_reference_form(golden_grid(golden, kind).boxes)
    highest = torch.zeros(len(anchors))
    for box in to_reference_form(full_boxes(golden, NUM_IMAGES)[image]):
        pair = box.expand_as(anchors), anchors
        highest = torch.maximum(highest, reference_iou(*(pair[::-1] if kind == "atss" else pair)))
    # For ATSS only the positives have a value, which is that of their owner.
    given = expected >= 0
    assert (highest[given] >= expected[given]).all()
    if kind == "retinanet":
        assert torch.equal(highest, expected)


@pytest.mark.parametrize("kind", ["atss", "retinanet"])
def test_assignment(golden: Golden, kind: HeadKind) -> None:
    grid, boxes = golden_grid(golden, kind), full_boxes(golden, NUM_IMAGES)
    counts = torch.tensor([len(b) for b in boxes])
    first = counts.cumsum(0) - counts
    location, owner, *ignored = make_assigner(kind).assign(grid, boxes)
    # As the golden arrays count: 0 none, -1 ignored, k > 0 the k-th box of the image.
    actual = torch.zeros(NUM_IMAGES * len(grid.boxes), dtype=torch.int64)
    actual[location] = owner - first[location // len(grid.boxes)] + 1
    if kind == "retinanet":
        actual[ignored[0]] = -1
    for image, label in enumerate(actual.view(NUM_IMAGES, -1)):
        assert torch.equal(label, golden[f"{kind}_assign{image}_gt_inds"].long()), image
        if f"{kind}_assign{image}_labels" in golden:
            classes = torch.cat([torch.tensor([-1]), golden[f"gt{image}_labels"].long()])
            classes = classes[label.clamp(min=0)]
            assert torch.equal(classes, golden[f"{kind}_assign{image}_labels"].long()), image


@pytest.mark.parametrize(("kind", "limit"), [("atss", 2), ("retinanet", 150)])
def test_what_the_exact_iou_assigns_otherwise(golden: Golden, kind: HeadKind, limit: int) -> None:
    """Of 184 and 412 positive anchors; these boxes were chosen for their ties."""
    grid, boxes = golden_grid(golden, kind), full_boxes(golden, NUM_IMAGES)
    owners = []
    for rounding in ("reference", "exact"):
        location, owner, *_ = make_assigner(kind, rounding).assign(grid, boxes)
        owners.append(
            torch.full((NUM_IMAGES * len(grid.boxes),), -1).index_copy(0, location, owner)
        )
    assert (owners[0] != owners[1]).sum() <= limit
