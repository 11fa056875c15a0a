"""The rows of the suite `ops`: what is computed, by whom, and how little work it could be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import _mmcv, _rotated_peers
from tcm_d2.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    nms_rotated,
    paired_iou_rotated,
)
from tcm_d2.ops.registration import OPERATORS

# Additions, multiplications, divisions and comparisons, counted by running csrc/rotated_geometry.h
# and csrc/rotated_gradient.h on numbers that count: to prepare a box, to compute an IoU of two, and
# its derivatives.
PREPARE, OVERLAP, GRADIENTS = 62, 233, 674
# Four comparisons of single-precision bounds, two of which count as one of double precision.
COMPARE_BOUNDS = 2
BOX_BYTES = 20
IOU_THRESHOLD = 0.1
NUM_CLASSES = 15


class Case(NamedTuple):
    """A row. `compare` says how the peer's result differs; goals are by a peer's first word."""

    name: str
    ours: Callable[[], Any]
    peers: dict[str, Callable[[], Any]]
    operations: float
    bytes: float
    goals: dict[str, str]
    compare: Callable[[Any, Any], str] | None = None


def make_boxes(
    num_boxes: int, extent_px: float, *, seed: int, sides_px: tuple[float, float] = (8, 64)
) -> tuple[Tensor, Tensor]:
    """Return boxes (num_boxes, 5) like objects, small ones oftener, and scores (num_boxes,)."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(num_boxes, 6, generator=generator)
    low, high = sides_px
    width = low + (high - low) * draws[:, 2] ** 2
    height = width * (0.2 + 0.8 * draws[:, 3])
    columns = [extent_px * draws[:, :2], width[:, None], height[:, None]]
    return torch.cat([*columns, 180 * draws[:, 4:5] - 90], dim=1), draws[:, 5]


def jitter(boxes: Tensor, *, share: float, seed: int) -> Tensor:
    """Return boxes moved and resized by a share of their size, and turned by some 5 degrees."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(boxes.shape, generator=generator)
    size = boxes[:, [2, 3, 2, 3]] * share
    moved = boxes + draws * torch.cat([size, torch.full_like(size[:, :1], 5.0)], dim=1)
    moved[:, 2:4].clamp_(min=1)
    return moved


def make_crowd(num_boxes: int, extent_px: float, *, each: int) -> tuple[Tensor, Tensor]:
    """Return as many detections `each` of some objects, as a detector finds them."""
    objects, _ = make_boxes(num_boxes // each, extent_px, seed=4, sides_px=(16, 128))
    boxes = jitter(objects.repeat_interleave(each, 0), share=0.1, seed=5)
    return boxes, torch.rand(len(boxes), generator=torch.Generator().manual_seed(6))


def make_mixed(num_boxes: int, extent_px: float) -> tuple[Tensor, Tensor]:
    """Return boxes of all sizes from 4 to 1024 px, equally many in each octave, up to 1:10."""
    boxes, scores = make_boxes(num_boxes, extent_px, seed=7)
    generator = torch.Generator().manual_seed(8)
    draws = torch.rand(num_boxes, 2, generator=generator)
    boxes[:, 2] = 4 * 256 ** draws[:, 0]
    boxes[:, 3] = boxes[:, 2] * 10 ** -draws[:, 1]
    return boxes, scores


def make_cases(
    device: torch.device, mmcv: _mmcv.MMCV | None, *, share: float = 1.0
) -> Iterator[Case]:
    """Yield the rows, each with a share of its boxes.

    Peers that need the CPU are left out on another device.
    """

    def number(num_boxes: int) -> int:
        return max(40, round(share * num_boxes))

    yield _pairwise(device, mmcv, number)
    yield from _paired(device, mmcv, number(100_000))
    yield _gradient(device, mmcv, number(2000))
    yield from _nms_of_patch(device, mmcv, number(10_000))
    num, extent = number(200_000), 30_000
    scenes = {
        "": make_boxes(num, extent, seed=3),
        ", 20 an object": make_crowd(num, extent, each=20),
        ", sides 4 ... 1024 px": make_mixed(num, extent),
    }
    for kind, (boxes, scores) in scenes.items():
        name = f"NMS {num:,} boxes over {extent:,} px{kind}"
        yield _nms(name, boxes.to(device), scores.to(device), goal="< 1000 ms")
    yield _images(device, number(4000))


def _difference(ours: Any, theirs: Any) -> str:
    gap = (torch.as_tensor(ours).cpu().double() - torch.as_tensor(theirs).cpu().double()).abs()
    return f"largest difference {gap.max():.1e}"


def _pairwise(device: torch.device, mmcv: _mmcv.MMCV | None, number: Callable[[int], int]) -> Case:
    large = device.type == "cuda"
    num_rows, num_columns, extent = (20_000, 2000, 4096.0) if large else (2000, 200, 1024.0)
    num_rows, num_columns = number(num_rows), number(num_columns)
    rows = make_boxes(num_rows, extent, seed=0)[0].to(device)
    columns = make_boxes(num_columns, extent, seed=1)[0].to(device)
    num_pairs = num_rows * num_columns
    num_common = int((box_iou_rotated(rows, columns) > 0).sum())
    peers: dict[str, Callable[[], Any]] = {}
    if mmcv is not None:
        radians = _mmcv.to_radians(rows), _mmcv.to_radians(columns)
        peers[mmcv.name] = lambda: mmcv.box_iou_rotated(*radians)
    torchvision = _rotated_peers.torchvision_pairwise()
    if torchvision is not None:
        peers["torchvision"] = lambda: torchvision(rows, columns)
    if not large:
        peers["shapely + STRtree"] = lambda: _rotated_peers.shapely_pairwise(rows, columns)
    peers["reference"] = lambda: OPERATORS["box_iou_rotated"].reference(rows, columns, False)
    prepared = PREPARE * (num_rows + num_columns)
    return Case(
        f"IoU {num_rows:,} x {num_columns:,} over {extent:.0f} px",
        lambda: box_iou_rotated(rows, columns),
        peers,
        prepared + COMPARE_BOUNDS * num_pairs + OVERLAP * num_common,
        4 * num_pairs + BOX_BYTES * (num_rows + num_columns),
        {"mmcv": ">= 40", "shapely": ">= 5"},
        _difference,
    )


def _paired(device: torch.device, mmcv: _mmcv.MMCV | None, num_pairs: int) -> list[Case]:
    boxes1 = make_boxes(num_pairs, 1024, seed=0)[0]
    seconds = {
        "overlapping": jitter(boxes1, share=0.15, seed=1).to(device),
        "random": make_boxes(num_pairs, 1024, seed=2)[0].to(device),
    }
    boxes1 = boxes1.to(device)
    return [_paired_case(kind, boxes1, boxes2, mmcv) for kind, boxes2 in seconds.items()]


def _paired_case(kind: str, boxes1: Tensor, boxes2: Tensor, mmcv: _mmcv.MMCV | None) -> Case:
    num_pairs = len(boxes1)
    num_common = int((paired_iou_rotated(boxes1, boxes2) > 0).sum())
    peers: dict[str, Callable[[], Any]] = {}
    if mmcv is not None:
        radians = _mmcv.to_radians(boxes1), _mmcv.to_radians(boxes2)
        peers[mmcv.name] = lambda: mmcv.box_iou_rotated(*radians, aligned=True)
    if boxes1.device.type == "cpu" and kind == "overlapping":
        peers["shapely"] = lambda: _rotated_peers.shapely_paired(boxes1, boxes2)
        peers["OpenCV"] = lambda: _rotated_peers.opencv_paired(boxes1, boxes2)
    peers["reference"] = lambda: OPERATORS["paired_iou_rotated"].reference(boxes1, boxes2)
    return Case(
        f"IoU of {num_pairs:,} pairs, {kind}",
        lambda: paired_iou_rotated(boxes1, boxes2),
        peers,
        2 * PREPARE * num_pairs + OVERLAP * num_common,
        (2 * BOX_BYTES + 4) * num_pairs,
        {"mmcv": ">= 15"},
        _difference,
    )


def _gradient(device: torch.device, mmcv: _mmcv.MMCV | None, num_pairs: int) -> Case:
    boxes1 = make_boxes(num_pairs, 1024, seed=0)[0]
    boxes2 = jitter(boxes1, share=0.15, seed=1).to(device)
    boxes1 = boxes1.to(device)

    def ours() -> Tensor | None:
        leaf = boxes1.clone().requires_grad_()
        paired_iou_rotated(leaf, boxes2).sum().backward()
        return leaf.grad

    peers: dict[str, Callable[[], Any]] = {}
    if mmcv is not None and mmcv.diff_iou_rotated_2d is not None:
        function = mmcv.diff_iou_rotated_2d
        radians = _mmcv.to_radians(boxes1), _mmcv.to_radians(boxes2)

        def theirs() -> Tensor | None:
            leaf = radians[0].clone().requires_grad_()
            function(leaf[None], radians[1][None]).sum().backward()
            return leaf.grad

        peers[f"{mmcv.name} diff_iou_rotated_2d"] = theirs
    num_common = int((paired_iou_rotated(boxes1, boxes2) > 0).sum())
    operations = 4 * PREPARE * num_pairs + (OVERLAP + GRADIENTS) * num_common
    return Case(
        f"IoU of {num_pairs:,} pairs and its gradient",
        ours,
        peers,
        operations,
        (4 * BOX_BYTES + 8) * num_pairs,
        {"mmcv": ">= 5"},
    )


def _nms_of_patch(device: torch.device, mmcv: _mmcv.MMCV | None, num: int) -> list[Case]:
    boxes, scores = make_boxes(num, 4000, seed=0)
    labels = torch.randint(0, NUM_CLASSES, (num,), generator=torch.Generator().manual_seed(2))
    boxes, scores, labels = boxes.to(device), scores.to(device), labels.to(device)
    crowd, crowd_scores = (tensor.to(device) for tensor in make_crowd(num, 4000, each=20))
    agnostic: dict[str, Callable[[], Any]] = {}
    crowded: dict[str, Callable[[], Any]] = {}
    aware: dict[str, Callable[[], Any]] = {}
    if mmcv is not None:
        radians, crowd_radians = _mmcv.to_radians(boxes), _mmcv.to_radians(crowd)

        def theirs_by_class() -> Tensor:
            kept = []
            for label in labels.unique():
                index = (labels == label).nonzero().squeeze(1)
                kept.append(index[mmcv.nms_rotated(radians[index], scores[index], IOU_THRESHOLD)])
            index = torch.cat(kept)
            return index[scores[index].argsort(descending=True)]

        agnostic[mmcv.name] = lambda: mmcv.nms_rotated(radians, scores, IOU_THRESHOLD)
        crowded[mmcv.name] = lambda: mmcv.nms_rotated(crowd_radians, crowd_scores, IOU_THRESHOLD)
        aware[mmcv.name] = theirs_by_class
    name = f"NMS {num:,} boxes over 4000 px"
    return [
        _nms(f"{name}, 20 an object", crowd, crowd_scores, peers=crowded, goal=">= 150"),
        _nms(name, boxes, scores, peers=agnostic, goal=">= 150"),
        _nms(
            f"{name}, {NUM_CLASSES} classes",
            boxes,
            scores,
            labels=labels,
            peers=aware,
            goal=">= 30",
        ),
    ]


def _nms(
    name: str,
    boxes: Tensor,
    scores: Tensor,
    *,
    labels: Tensor | None = None,
    peers: dict[str, Callable[[], Any]] | None = None,
    goal: str,
) -> Case:
    def ours() -> Tensor:
        if labels is None:
            return nms_rotated(boxes, scores, IOU_THRESHOLD)
        return batched_nms_rotated(boxes, scores, labels, IOU_THRESHOLD)

    def compare(ours: Tensor, theirs: Tensor) -> str:
        same = len(set(ours.tolist()) & set(theirs.tolist()))
        return f"{len(ours)} and {len(theirs)} kept, {same} by both"

    # To suppress a box takes one IoU; that the others are kept could be seen without any.
    num_suppressed = len(boxes) - len(ours())
    return Case(
        f"{name} ({num_suppressed:,} suppressed)",
        ours,
        peers or {},
        PREPARE * len(boxes) + OVERLAP * num_suppressed,
        (BOX_BYTES + 4 + (8 if labels is not None else 0)) * len(boxes),
        {"mmcv": goal, "": goal},
        compare,
    )


def _images(device: torch.device, each: int) -> Case:
    """Eight images in one call, with a score threshold and a limit, beside a call an image."""
    num_images = 8
    boxes, scores = make_crowd(num_images * each, 1024, each=20)
    boxes, scores = boxes.to(device), scores.to(device)
    generator = torch.Generator().manual_seed(9)
    labels = torch.randint(0, NUM_CLASSES, (len(boxes),), generator=generator).to(device)
    images = (torch.arange(len(boxes)) % num_images).to(device)
    limits: dict[str, Any] = {"score_threshold": 0.05, "max_detections": 300}

    def fused() -> Tensor:
        return batched_nms_rotated(boxes, scores, labels, IOU_THRESHOLD, image_ids=images, **limits)

    def separate() -> Tensor:
        kept = []
        for image in range(num_images):
            index = ((images == image) & (scores > limits["score_threshold"])).nonzero().squeeze(1)
            keep = batched_nms_rotated(boxes[index], scores[index], labels[index], IOU_THRESHOLD)
            kept.append(index[keep[: limits["max_detections"]]])
        return torch.cat(kept)

    def compare(ours: Tensor, theirs: Tensor) -> str:
        return "the same" if set(ours.tolist()) == set(theirs.tolist()) else "DIFFERENT"

    return Case(
        f"NMS of {num_images} images of {each:,} boxes, best 300 each",
        fused,
        {"a call an image": separate},
        PREPARE * len(boxes),
        (BOX_BYTES + 4 + 16) * len(boxes),
        {},
        compare,
    )
