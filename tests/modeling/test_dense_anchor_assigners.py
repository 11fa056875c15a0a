"""ATSS and max-IoU assignment: drawn cases, dense references, bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tcm_d2.modeling.dense.anchor_assigners import ATSSAssigner, MaxIoUAssigner
from tcm_d2.modeling.dense.anchors import AnchorGenerator, AnchorGrid
from tcm_d2.ops import box_iou_rotated
from tests.conftest import REPO_DIR

CPU = torch.device("cpu")
SIZES_HW = [(24, 32), (12, 16), (6, 8)]


def make_grid(scales: int, ratios: list[float]) -> AnchorGrid:
    generator = AnchorGenerator(
        strides_px=[8, 16, 32], base_side_strides=4.0, scales_per_octave=scales, ratios=ratios
    )
    return generator.make_grid(SIZES_HW, CPU)


def one_anchor_grid() -> AnchorGrid:
    return make_grid(1, [1.0])


def nine_anchor_grid() -> AnchorGrid:
    return make_grid(3, [1.0, 0.5, 2.0])


def max_iou_assigner(min_positive_iou: float = 0.0) -> MaxIoUAssigner:
    return MaxIoUAssigner(positive_iou=0.5, negative_iou=0.4, min_positive_iou=min_positive_iou)


def random_images(kind: str) -> list[Tensor]:
    """Boxes of four images, one of them without any; some centres lie outside."""
    width, height = {"small": (20, 10), "mixed": (150, 80), "thin": (250, 3)}[kind]
    images = []
    for count in (30, 0, 5, 1):
        boxes = torch.rand(count, 5) * torch.tensor([290.0, 220.0, width, height, 180.0])
        images.append(boxes + torch.tensor([-15.0, -15.0, 2.0, 1.0, -90.0]))
    return images


def dense_atss(grid: AnchorGrid, boxes: Tensor, topk: int) -> Tensor:
    """Return the owner (-1 none) of every anchor, by looking at all pairs."""
    overlaps = box_iou_rotated(boxes, grid.boxes)  # (M, R)
    distances = torch.cdist(boxes[:, :2].double(), grid.boxes[:, :2].double())
    owner = torch.full((len(grid.boxes),), -1)
    owner_iou = torch.zeros(len(grid.boxes))
    for row in range(len(boxes)):
        candidates, start = [], 0
        for count in grid.level_num_anchors:
            order = distances[row, start : start + count].argsort(stable=True)
            candidates.append(start + order[:topk])
            start += count
        index = torch.cat(candidates)
        iou = overlaps[row, index].double()
        threshold = iou.mean() + iou.std()
        angle = torch.deg2rad(boxes[row, 4])
        offset = grid.boxes[index, :2] - boxes[row, :2]
        along_w = offset @ torch.stack([angle.cos(), -angle.sin()])
        along_h = offset @ torch.stack([angle.sin(), angle.cos()])
        inside = (along_w.abs() < boxes[row, 2] / 2 - 0.01) & (
            along_h.abs() < boxes[row, 3] / 2 - 0.01
        )
        for anchor in index[(iou >= threshold) & inside]:
            if owner[anchor] < 0 or overlaps[row, anchor] > owner_iou[anchor]:
                owner[anchor], owner_iou[anchor] = row, overlaps[row, anchor]
    return owner


def dense_max_iou(grid: AnchorGrid, boxes: Tensor) -> Tensor:
    """Return the owner (-1 negative, -2 ignored) of every anchor, by looking at all pairs."""
    if len(boxes) == 0:
        return torch.full((len(grid.boxes),), -1)
    overlaps = box_iou_rotated(boxes, grid.boxes)
    best, argbest = overlaps.max(dim=0)
    owner = torch.where(best >= 0.4, -2, -1)
    owner = torch.where(best >= 0.5, argbest, owner)
    for row in range(len(boxes)):
        own_best = overlaps[row].max()
        if own_best > 0:
            owner[overlaps[row] == own_best] = row
    return owner


@pytest.mark.parametrize("kind", ["small", "mixed", "thin"])
@pytest.mark.parametrize("topk", [1, 4, 9])
def test_atss_equals_looking_at_all_pairs(kind: str, topk: int) -> None:
    grid, images = one_anchor_grid(), random_images(kind)
    assigned = ATSSAssigner(topk=topk).assign(grid, images)
    owner = torch.full((len(images) * len(grid.boxes),), -1)
    owner[assigned.location_index] = assigned.ground_truth_index
    first = 0
    for image, boxes in enumerate(images):
        expected = dense_atss(grid, boxes, topk)
        expected = torch.where(expected >= 0, expected + first, expected)
        assert torch.equal(owner.view(len(images), -1)[image], expected)
        first += len(boxes)
    assert (owner >= 0).any() or kind == "thin" or topk == 1


@pytest.mark.parametrize("kind", ["small", "mixed", "thin"])
def test_max_iou_equals_looking_at_all_pairs(kind: str) -> None:
    grid, images = nine_anchor_grid(), random_images(kind)
    assigned = max_iou_assigner().assign(grid, images)
    owner = torch.full((len(images) * len(grid.boxes),), -1)
    owner[assigned.location_index] = assigned.ground_truth_index
    owner[assigned.ignored_index] = -2
    first = 0
    for image, boxes in enumerate(images):
        expected = dense_max_iou(grid, boxes)
        expected = torch.where(expected >= 0, expected + first, expected)
        assert torch.equal(owner.view(len(images), -1)[image], expected)
        first += len(boxes)
    assert (owner >= 0).sum() >= first - 5


def test_atss_drawn_case() -> None:
    # The box is the anchor of cell (x=8, y=8) of level 0; with 1 candidate per level the IoUs are
    # 1, 1/4 and 1/16: mean + deviation = 0.934 is reached by the first only.
    grid = one_anchor_grid()
    assigned = ATSSAssigner(topk=1).assign(grid, [torch.tensor([[64.0, 64.0, 32.0, 32.0, 0.0]])])
    assert assigned.location_index.tolist() == [8 * 32 + 8]
    assert assigned.ground_truth_index.tolist() == [0]


def test_max_iou_drawn_case() -> None:
    grid = nine_anchor_grid()
    # A square of 32 px on the cell's corner: its own anchor, and nothing else above 0.7.
    box = torch.tensor([[64.0, 64.0, 32.0, 32.0, 0.0]])
    assigned = max_iou_assigner().assign(grid, [box])
    overlaps = box_iou_rotated(box, grid.boxes)[0]
    assert assigned.location_index.tolist() == (overlaps >= 0.5).nonzero()[:, 0].tolist()
    assert (8 * 32 + 8) * 9 in assigned.location_index
    between = (overlaps >= 0.4) & (overlaps < 0.5)
    assert assigned.ignored_index.tolist() == between.nonzero()[:, 0].tolist()
    assert between.any()


def test_of_two_equal_objects_thresholds_take_the_first_and_best_anchors_the_last() -> None:
    box = torch.tensor([64.0, 64.0, 32.0, 32.0, 0.0])
    assigned = max_iou_assigner().assign(nine_anchor_grid(), [torch.stack([box, box])])
    owners = dict(zip(assigned.location_index.tolist(), assigned.ground_truth_index.tolist()))
    assert owners.pop((8 * 32 + 8) * 9) == 1
    assert set(owners.values()) == {0}
    assigned = ATSSAssigner(topk=9).assign(one_anchor_grid(), [torch.stack([box, box])])
    assert set(assigned.ground_truth_index.tolist()) == {0}


def test_objects_that_meet_no_anchor_take_none() -> None:
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
        (ATSSAssigner(topk=9), one_anchor_grid()),
        (max_iou_assigner(), nine_anchor_grid()),
    ):
        assert len(assigner.assign(grid, [strange]).location_index) == 0
        owners = assigner.assign(grid, [strange, good]).ground_truth_index
        assert len(owners) > 0 and (owners == 4).all()


def test_best_anchors_need_the_minimal_iou() -> None:
    tiny = torch.tensor([[64.0, 64.0, 6.0, 4.0, 20.0]])
    grid = nine_anchor_grid()
    assert len(max_iou_assigner(0.0).assign(grid, [tiny]).location_index) > 0
    assert len(max_iou_assigner(0.3).assign(grid, [tiny]).location_index) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_assignment_does_not_depend_on_the_precision_of_equal_boxes(dtype: torch.dtype) -> None:
    images = [boxes.half() for boxes in random_images("small")]
    for assigner, grid in (
        (ATSSAssigner(topk=9), one_anchor_grid()),
        (max_iou_assigner(), nine_anchor_grid()),
    ):
        single = assigner.assign(grid, [boxes.float() for boxes in images])
        other = assigner.assign(grid, [boxes.to(dtype) for boxes in images])
        assert all(torch.equal(a, b) for a, b in zip(single, other))


def test_without_objects() -> None:
    for assigner, grid in (
        (ATSSAssigner(topk=9), one_anchor_grid()),
        (max_iou_assigner(), nine_anchor_grid()),
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
assigner = ATSSAssigner(topk=9) if atss else MaxIoUAssigner(
    positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0
)
boxes = torch.rand(5000, 5) * torch.tensor([1024.0, 1024.0, 60.0, 30.0, 180.0])
boxes += torch.tensor([0.0, 0.0, 4.0, 4.0, -90.0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assigned = assigner.assign(grid, [boxes])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(assigned.location_index) > 3000
print(after - before)
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
        ATSSAssigner(topk=0)
    with pytest.raises(ValueError, match="1 anchor per cell, got 9"):
        ATSSAssigner(topk=9).assign(nine_anchor_grid(), [torch.zeros(0, 5)])
    with pytest.raises(ValueError, match="negative_iou and positive_iou"):
        MaxIoUAssigner(positive_iou=0.3, negative_iou=0.4, min_positive_iou=0.0)
    with pytest.raises(ValueError, match="min_positive_iou"):
        MaxIoUAssigner(positive_iou=0.5, negative_iou=0.4, min_positive_iou=-1.0)
