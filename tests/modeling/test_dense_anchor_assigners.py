"""ATSS and max-IoU assignment: drawn cases, dense references, bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.dense.anchor_assigners import ATSSAssigner, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator, AnchorGrid
from tcm_d2.modeling.dense.reference_iou import reference_iou, to_reference_form
from tcm_d2.ops import box_iou_rotated
from tcm_d2.structures.angles import canonicalize_boxes
from tests.conftest import REPO_DIR

CPU = torch.device("cpu")
SIZES_HW = [(24, 32), (12, 16), (6, 8)]
KINDS = {
    # Largest width and height.
    "small": (20.0, 10.0),
    "mixed": (150.0, 80.0),
    "thin": (250.0, 3.0),
    "large": (400.0, 300.0),
    "dust": (0.02, 0.01),
    "hair": (200.0, 0.02),
}
both_roundings = pytest.mark.parametrize("rounding", ["reference", "exact"])


def make_grid(scales: int, ratios: list[float]) -> AnchorGrid:
    generator = AnchorGenerator(
        strides_px=[8, 16, 32], base_side_strides=4.0, scales_per_octave=scales, ratios=ratios
    )
    return generator.make_grid(SIZES_HW, CPU)


def one_anchor_grid() -> AnchorGrid:
    return make_grid(1, [1.0])


def nine_anchor_grid() -> AnchorGrid:
    return make_grid(3, [1.0, 0.5, 2.0])


def max_iou_assigner(rounding: str, min_positive_iou: float = 0.0) -> MaxIoUAssigner:
    return MaxIoUAssigner(
        positive_iou=0.5,
        negative_iou=0.4,
        min_positive_iou=min_positive_iou,
        iou_rounding=rounding,
    )


def atss_assigner(rounding: str) -> ATSSAssigner:
    return ATSSAssigner(topk=9, iou_rounding=rounding)


def random_images(kind: str, placing: str = "free") -> list[Tensor]:
    """Boxes of four images, one of them without any; some centres lie outside.

    Args:
        kind: of KINDS.
        placing: "free"; "whole" corners at whole pixels, upright, so that many pairs have equal
            overlaps and centres equal distances; "grid" likewise in steps of 8 px, so that sides
            lie on those of anchors; "turned" the latter, turned by 1e-3 degrees at most.
    """
    generator = torch.Generator().manual_seed(0)
    images = []
    for count in (30, 0, 5, 1):
        boxes = torch.rand(count, 5, generator=generator)
        boxes = boxes * torch.tensor([290.0, 220.0, *KINDS[kind], 180.0])
        boxes = boxes + torch.tensor([-15.0, -15.0, *(0.1 * side for side in KINDS[kind]), -90.0])
        if placing != "free":
            step = 1.0 if placing == "whole" else 8.0
            sides = (boxes[:, 2:4] / step).ceil() * step
            low = ((boxes[:, :2] - sides / 2) / step).round() * step
            angle = torch.where(boxes[:, 4:] < 0, -90.0, 0.0)
            centers = low + torch.where(angle < 0, sides.flip(1), sides) / 2
            if placing == "turned":
                angle = angle + 1e-3 * torch.rand(count, 1, generator=generator)
            boxes = torch.cat([centers, sides, angle], dim=1)
        images.append(canonicalize_boxes(boxes))
    return images


def all_overlaps(rounding: str, boxes: Tensor, grid: AnchorGrid, *, anchors_first: bool) -> Tensor:
    """Return the IoU (M, R) of all pairs."""
    if rounding == "exact":
        return box_iou_rotated(boxes, grid.boxes)
    boxes, anchors = to_reference_form(boxes), to_reference_form(grid.boxes)
    first = boxes.repeat_interleave(len(anchors), dim=0)
    second = anchors.repeat(len(boxes), 1)
    iou = reference_iou(second, first) if anchors_first else reference_iou(first, second)
    return iou.view(len(boxes), len(anchors))


def dense_atss(rounding: str, grid: AnchorGrid, boxes: Tensor, topk: int) -> Tensor:
    """Return the owner (-1 none) of every anchor, by looking at all pairs."""
    overlaps = all_overlaps(rounding, boxes, grid, anchors_first=True)
    offsets = grid.boxes[:, None, :2] - boxes[None, :, :2]  # (R, M, 2)
    exact_distances = offsets.double().norm(dim=2)
    distances = offsets.pow(2).sum(dim=2).sqrt()
    owner = torch.full((len(grid.boxes),), -1)
    owner_iou = torch.zeros(len(grid.boxes))
    levels, start = [], 0
    for count in grid.level_num_anchors:
        if rounding == "reference":
            level = distances[start : start + count]
            nearest = level.topk(min(topk, count), dim=0, largest=False).indices
        else:
            nearest = exact_distances[start : start + count].argsort(dim=0, stable=True)[:topk]
        levels.append(start + nearest)
        start += count
    for row, index in enumerate(torch.cat(levels).unbind(dim=1)):
        iou = overlaps[row, index]
        threshold = iou.mean() + iou.std()
        angle = torch.deg2rad(boxes[row, 4])
        offset = grid.boxes[index, :2] - boxes[row, :2]
        along_w = offset @ torch.stack([angle.cos(), -angle.sin()])
        along_h = offset @ torch.stack([angle.sin(), angle.cos()])
        inside = (along_w.abs() <= boxes[row, 2] / 2 - 0.01) & (
            along_h.abs() <= boxes[row, 3] / 2 - 0.01
        )
        for anchor in index[(iou >= threshold) & inside]:
            if owner[anchor] < 0 or overlaps[row, anchor] > owner_iou[anchor]:
                owner[anchor], owner_iou[anchor] = row, overlaps[row, anchor]
    return owner


def dense_max_iou(rounding: str, grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """Return the owner (-1 negative, -2 ignored) of every anchor, by looking at all pairs."""
    if len(boxes) == 0:
        return torch.full((len(grid.boxes),), -1)
    overlaps = all_overlaps(rounding, boxes, grid, anchors_first=False)
    best, argbest = overlaps.max(dim=0)
    owner = torch.where(best >= 0.4, -2, -1)
    owner = torch.where(best >= 0.5, argbest, owner)
    for row in range(len(boxes)):
        own_best = overlaps[row].max()
        if own_best > 0:
            owner[overlaps[row] == own_best] = row
    return owner


@both_roundings
@pytest.mark.parametrize("placing", ["free", "whole", "grid", "turned"])
@pytest.mark.parametrize("kind", ["small", "mixed", "thin", "large"])
@pytest.mark.parametrize("topk", [4, 9])
def test_atss_equals_looking_at_all_pairs(
    kind: str, placing: str, topk: int, rounding: str
) -> None:
    grid, images = one_anchor_grid(), random_images(kind, placing)
    assigned = ATSSAssigner(topk=topk, iou_rounding=rounding).assign(grid, images)
    owner = torch.full((len(images) * len(grid.boxes),), -1)
    owner[assigned.location_index] = assigned.ground_truth_index
    first = 0
    for image, boxes in enumerate(images):
        expected = dense_atss(rounding, grid, boxes, topk)
        expected = torch.where(expected >= 0, expected + first, expected)
        assert torch.equal(owner.view(len(images), -1)[image], expected)
        first += len(boxes)
    assert (owner >= 0).any() or kind == "thin"


@both_roundings
@pytest.mark.parametrize("placing", ["free", "whole", "grid", "turned"])
@pytest.mark.parametrize("kind", KINDS)
def test_max_iou_equals_looking_at_all_pairs(kind: str, placing: str, rounding: str) -> None:
    grid, images = nine_anchor_grid(), random_images(kind, placing)
    assigned = max_iou_assigner(rounding).assign(grid, images)
    owner = torch.full((len(images) * len(grid.boxes),), -1)
    owner[assigned.location_index] = assigned.ground_truth_index
    owner[assigned.ignored_index] = -2
    first = 0
    for image, boxes in enumerate(images):
        expected = dense_max_iou(rounding, grid, boxes)
        expected = torch.where(expected >= 0, expected + first, expected)
        assert torch.equal(owner.view(len(images), -1)[image], expected)
        first += len(boxes)
    # Nearly every object has an anchor.
    assert len(assigned.ground_truth_index.unique()) >= 0.7 * first


def test_of_tied_anchors_the_reference_takes_some_and_the_exact_rule_all() -> None:
    box = torch.tensor([[65.0, 61.0, 9.0, 5.0, 20.0]])
    grid = nine_anchor_grid()
    exact = max_iou_assigner("exact").assign(grid, [box]).location_index
    some = max_iou_assigner("reference").assign(grid, [box]).location_index
    # The anchors of 32 x 32, 45 x 23 and 23 x 45 px, all of one area, that contain the object.
    contains = (grid.boxes[:, :2] - box[:, :2]).abs() + torch.tensor([5.2, 4.0]) <= (
        torch.where(grid.boxes[:, 4:] == 0, grid.boxes[:, 2:4], grid.boxes[:, 2:4].flip(1)) / 2
    )
    area = grid.boxes[:, 2] * grid.boxes[:, 3]
    tied = (contains.all(dim=1) & ((area - 1024).abs() < 1)).nonzero(as_tuple=True)[0]
    assert set(exact.tolist()) <= set(tied.tolist())
    assert 0 < len(some) < len(tied)
    assert set(some.tolist()) <= set(tied.tolist())


@both_roundings
def test_atss_drawn_case(rounding: str) -> None:
    # The box is the anchor of cell (x=8, y=8) of level 0; with 1 candidate per level the IoUs are
    # 1, 1/4 and 1/16: mean + deviation = 0.934 is reached by the first only.
    grid = one_anchor_grid()
    assigner = ATSSAssigner(topk=1, iou_rounding=rounding)
    assigned = assigner.assign(grid, [torch.tensor([[64.0, 64.0, 32.0, 32.0, 0.0]])])
    assert assigned.location_index.tolist() == [8 * 32 + 8]
    assert assigned.ground_truth_index.tolist() == [0]


@both_roundings
def test_max_iou_drawn_case(rounding: str) -> None:
    grid = nine_anchor_grid()
    # A square of 32 px on the cell's corner: its own anchor, and nothing else above 0.7.
    box = torch.tensor([[64.0, 64.0, 32.0, 32.0, 0.0]])
    assigned = max_iou_assigner(rounding).assign(grid, [box])
    overlaps = box_iou_rotated(box, grid.boxes)[0]
    assert assigned.location_index.tolist() == (overlaps >= 0.5).nonzero()[:, 0].tolist()
    assert (8 * 32 + 8) * 9 in assigned.location_index
    between = (overlaps >= 0.4) & (overlaps < 0.5)
    assert assigned.ignored_index.tolist() == between.nonzero()[:, 0].tolist()
    assert between.any()


@both_roundings
def test_of_two_equal_objects_thresholds_take_the_first_and_best_anchors_the_last(
    rounding: str,
) -> None:
    box = torch.tensor([64.0, 64.0, 32.0, 32.0, 0.0])
    assigned = max_iou_assigner(rounding).assign(nine_anchor_grid(), [torch.stack([box, box])])
    owners = dict(zip(assigned.location_index.tolist(), assigned.ground_truth_index.tolist()))
    assert owners.pop((8 * 32 + 8) * 9) == 1
    assert set(owners.values()) == {0}
    assigned = atss_assigner(rounding).assign(one_anchor_grid(), [torch.stack([box, box])])
    assert set(assigned.ground_truth_index.tolist()) == {0}


@both_roundings
def test_objects_that_meet_no_anchor_take_none(rounding: str) -> None:
    strange = torch.tensor(
        [
            [-900.0, -900.0, 10.0, 10.0, 0.0],
            [64.0, 64.0, 0.0, 0.0, 0.0],
            [64.0, 64.0, 30.0, 0.0, 30.0],
            [1e6, 1e6, 1e5, 1.0, 45.0],
        ]
    )
    good = torch.tensor([[64.0, 64.0, 32.0, 32.0, 0.0]])
    for assigner, grid in (
        (atss_assigner(rounding), one_anchor_grid()),
        (max_iou_assigner(rounding), nine_anchor_grid()),
    ):
        assert len(assigner.assign(grid, [strange]).location_index) == 0
        owners = assigner.assign(grid, [strange, good]).ground_truth_index
        assert len(owners) > 0 and (owners == 4).all()


@both_roundings
def test_best_anchors_need_the_minimal_iou(rounding: str) -> None:
    tiny = torch.tensor([[64.0, 64.0, 6.0, 4.0, 20.0]])
    grid = nine_anchor_grid()
    assert len(max_iou_assigner(rounding, 0.0).assign(grid, [tiny]).location_index) > 0
    assert len(max_iou_assigner(rounding, 0.3).assign(grid, [tiny]).location_index) == 0


@pytest.mark.parametrize(
    ("rounding", "dtype"),
    [("reference", torch.float16), ("exact", torch.float16), ("exact", torch.float64)],
)
def test_assignment_does_not_depend_on_the_precision_of_equal_boxes(
    rounding: str, dtype: torch.dtype
) -> None:
    images = [boxes.half() for boxes in random_images("small")]
    for assigner, grid in (
        (atss_assigner(rounding), one_anchor_grid()),
        (max_iou_assigner(rounding), nine_anchor_grid()),
    ):
        single = assigner.assign(grid, [boxes.float() for boxes in images])
        other = assigner.assign(grid, [boxes.to(dtype) for boxes in images])
        assert all(torch.equal(a, b) for a, b in zip(single, other))


@both_roundings
def test_boxes_are_left_as_they_are(rounding: str) -> None:
    boxes = torch.tensor([[64.0, 64.0, 32.0, 1e-4, 0.0]])
    before = boxes.clone()
    atss_assigner(rounding).assign(one_anchor_grid(), [boxes])
    max_iou_assigner(rounding).assign(nine_anchor_grid(), [boxes])
    assert torch.equal(boxes, before)


@both_roundings
def test_without_objects(rounding: str) -> None:
    for assigner, grid in (
        (atss_assigner(rounding), one_anchor_grid()),
        (max_iou_assigner(rounding), nine_anchor_grid()),
    ):
        assert all(len(field) == 0 for field in assigner.assign(grid, [torch.zeros(0, 5)] * 2))


# In a fresh process, so that the peak is the assignment's own.
MEMORY_PROBE = """
import resource, sys, torch
from tcm_d2.modeling.dense.anchor_assigners import ATSSAssigner, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator
torch.set_num_threads(1)
atss = sys.argv[1] == "atss"
grid = AnchorGenerator(
    strides_px=[8, 16, 32, 64, 128],
    base_side_strides=4.0,
    scales_per_octave=1 if atss else 3,
    ratios=[1.0] if atss else [1.0, 0.5, 2.0],
).make_grid([(128, 128), (64, 64), (32, 32), (16, 16), (8, 8)], torch.device("cpu"))
assert len(grid.boxes) == (21824 if atss else 196416)
turned = torch.rand(5000, 5) * torch.tensor([1024.0, 1024.0, 60.0, 30.0, 180.0])
turned += torch.tensor([0.0, 0.0, 4.0, 4.0, -90.0])
upright = turned.round()  # at whole pixels: equal overlaps and distances
upright[:, 4] = 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for rounding in ("reference", "exact"):
    assigner = ATSSAssigner(topk=9, iou_rounding=rounding) if atss else MaxIoUAssigner(
        positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0, iou_rounding=rounding
    )
    for boxes in (turned, upright):
        assigned = assigner.assign(grid, [boxes])
        assert len(assigned.location_index) > 3000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["atss", "retinanet"])
def test_many_objects_need_little_memory(kind: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", MEMORY_PROBE, kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO_DIR, check=True)
    used_kib = int(done.stdout.split()[-1])
    # 5,000 objects x 196,416 anchors in float32 alone would be 3.7 GiB.
    assert used_kib < 1024 * 1024, f"{used_kib / 1024:.0f} MiB"


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="topk: expected >= 1"):
        ATSSAssigner(topk=0, iou_rounding="exact")
    with pytest.raises(ValueError, match="1 anchor per cell, got 9"):
        atss_assigner("exact").assign(nine_anchor_grid(), [torch.zeros(0, 5)])
    settings = dict(
        positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0, iou_rounding="reference"
    )
    with pytest.raises(ValueError, match="negative_iou and positive_iou"):
        MaxIoUAssigner(**{**settings, "positive_iou": 0.3})
    with pytest.raises(ValueError, match="min_positive_iou"):
        MaxIoUAssigner(**{**settings, "min_positive_iou": -1.0})
    with pytest.raises(ValueError, match="iou_rounding: expected one of"):
        MaxIoUAssigner(**{**settings, "iou_rounding": "mmcv"})
    with pytest.raises(ValueError, match="iou_rounding"):
        ATSSAssigner(topk=9, iou_rounding="mmcv")
