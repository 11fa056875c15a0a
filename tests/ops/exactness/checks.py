"""What the operators return on a batch of pairs, against the oracle: errors and broken promises.

Letters: P pairs, B boxes in a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcm_d2 import ops
from tests.ops.exactness import oracle
from tests.ops.exactness.families import Boxes, draw_pairs

DTYPES: dict[str, type[np.floating]] = {"fp32": np.float32, "fp64": np.float64}
# Pairs per call of the pairwise operators: B * B overlaps are computed, B of them compared.
BLOCK = 16
# Pairs worked on at a time: the oracle's temporaries stay inside the cache.
CHUNK = 2000
# Pairs per chunk that the slower oracle sees (GEOS).
SAMPLE = 100
# A point this close to a border, in roundings of the numbers involved, may lie on either side.
BORDER_ULPS = 16

# A hull of less area, relative to the square of its extent, is a line.
FLAT = 1e-12

Real = oracle.Real


@dataclass
class Tally:
    """Largest errors by column, and counts of broken promises by name."""

    num_pairs: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)

    def see_error(self, column: str, actual: NDArray[np.floating], exact: oracle.Array) -> None:
        """Keep the largest absolute difference; a NaN counts as infinite."""
        error = np.abs(actual.astype(Real) - exact)
        largest = float(np.nan_to_num(error, nan=np.inf).max(initial=0))
        self.errors[column] = max(self.errors.get(column, 0.0), largest)

    def see_broken(self, promise: str, where: NDArray[np.bool_] | Tensor) -> None:
        """Count the places where a promise is broken."""
        self.broken[promise] = self.broken.get(promise, 0) + int(where.sum())

    def add(self, other: Tally) -> None:
        """Take in the tally of more pairs."""
        self.num_pairs += other.num_pairs
        for column, error in other.errors.items():
            self.errors[column] = max(self.errors.get(column, 0.0), error)
        for promise, count in other.broken.items():
            self.broken[promise] = self.broken.get(promise, 0) + count


def check_family(family: str, num_pairs: int, seed: int) -> Tally:
    """Draw pairs of one family and compare all operators on boxes with the oracle."""
    tally = Tally()
    for start in range(0, num_pairs, CHUNK):
        boxes = draw_pairs(family, min(CHUNK, num_pairs - start), seed + start)
        tally.add(check_pairs(*boxes, seed=seed + start))
    return tally


def check_pairs(boxes1: Boxes, boxes2: Boxes, *, seed: int = 0) -> Tally:
    """Compare all operators on (P, 5) boxes with the oracle, in both dtypes."""
    tally = Tally(num_pairs=len(boxes1))
    for name, dtype in DTYPES.items():
        one, two = boxes1.astype(dtype), boxes2.astype(dtype)
        truth = oracle.pair_truth(one, two)
        tensor1, tensor2 = torch.from_numpy(one), torch.from_numpy(two)
        iou = ops.paired_iou_rotated(tensor1, tensor2)
        tally.see_error(f"IoU {name}", iou.numpy(), truth.iou)
        tally.see_broken("outside [0, 1] or NaN", ~((iou >= 0) & (iou <= 1)))
        tally.see_broken("IoU(a, b) != IoU(b, a)", iou != ops.paired_iou_rotated(tensor2, tensor1))
        has_area = (tensor1[:, 2] > 0) & (tensor1[:, 3] > 0)
        itself = ops.paired_iou_rotated(tensor1, tensor1.clone())
        tally.see_broken("IoU(a, a) != 1", has_area & (itself != 1))
        _check_blocks(tally, name, tensor1, tensor2, iou, truth)
        _check_enclosing(tally, name, tensor1, tensor2, truth)
        _check_gradients(tally, tensor1, tensor2)
        _check_points(tally, one, two, seed)
    return tally


def _blocks(*tensors: Tensor) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
    for start in range(0, len(tensors[0]), BLOCK):
        part = slice(start, start + BLOCK)
        yield part, tuple(tensor[part] for tensor in tensors)


def _check_blocks(
    tally: Tally,
    name: str,
    boxes1: Tensor,
    boxes2: Tensor,
    iou: Tensor,
    truth: oracle.PairTruth,
) -> None:
    """The pairwise operator: the diagonals of small blocks, and one block in full."""
    iof, again = torch.empty_like(iou), torch.empty_like(iou)
    for part, (one, two) in _blocks(boxes1, boxes2):
        again[part] = ops.box_iou_rotated(one, two).diagonal()
        iof[part] = ops.box_iou_rotated(one, two, mode="iof").diagonal()
    tally.see_error(f"iof {name}", iof.numpy(), truth.iof)
    tally.see_broken("outside [0, 1] or NaN", ~((iof >= 0) & (iof <= 1)))
    tally.see_broken("pairwise != paired", again != iou)
    one, two = boxes1[:BLOCK], boxes2[:BLOCK]
    every1, every2 = one.repeat_interleave(len(two), 0), two.repeat(len(one), 1)
    pairwise = ops.box_iou_rotated(one, two).flatten()
    tally.see_error(
        f"IoU {name}", pairwise.numpy(), oracle.pair_truth(every1.numpy(), every2.numpy()).iou
    )
    tally.see_broken("pairwise != paired", pairwise != ops.paired_iou_rotated(every1, every2))


def _check_enclosing(
    tally: Tally, name: str, boxes1: Tensor, boxes2: Tensor, truth: oracle.PairTruth
) -> None:
    diou, giou = (
        measure(boxes1, boxes2) for measure in (ops.paired_diou_rotated, ops.paired_giou_rotated)
    )
    tally.see_error(f"DIoU {name}", diou.numpy(), truth.diou)
    exact, defined = _giou_truth(
        boxes1[:SAMPLE].numpy(), boxes2[:SAMPLE].numpy(), truth.iou[:SAMPLE]
    )
    tally.see_error(f"GIoU {name}", giou[:SAMPLE].numpy()[defined], exact[defined])
    for value, swapped in (
        (diou, ops.paired_diou_rotated(boxes2, boxes1)),
        (giou, ops.paired_giou_rotated(boxes2, boxes1)),
    ):
        tally.see_broken("outside [-1, 1] or NaN", ~((value >= -1) & (value <= 1)))
        tally.see_broken("xIoU(a, b) != xIoU(b, a)", value != swapped)


def _giou_truth(
    boxes1: Boxes, boxes2: Boxes, iou: oracle.Array
) -> tuple[oracle.Array, NDArray[np.bool_]]:
    """GIoU (P,), the convex hull by GEOS, and where there is one: not for boxes on one line."""
    origins = boxes1[:, :2].astype(Real)
    corners = [oracle.box_corners(boxes, origins) for boxes in (boxes1, boxes2)]
    x, y = (np.concatenate([getattr(c, axis) for c in corners]).T for axis in ("x", "y"))
    points = np.stack([x, y], axis=2).astype(np.float64)  # (P, 8, 2)
    hull = shapely.area(shapely.convex_hull(shapely.multipoints(points))).astype(Real)
    defined = hull > FLAT * np.ptp(points, axis=1).max(axis=1) ** 2
    areas = [np.maximum(b[:, 2:4].astype(Real), 0).prod(axis=1) for b in (boxes1, boxes2)]
    union = (areas[0] + areas[1]) / (1 + iou)
    return iou - (1 - union / np.where(defined, hull, 1)), defined


def _check_gradients(tally: Tally, boxes1: Tensor, boxes2: Tensor) -> None:
    for measure in (ops.paired_iou_rotated, ops.paired_giou_rotated, ops.paired_diou_rotated):
        leaves = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
        for grad in torch.autograd.grad(measure(*leaves).sum(), leaves):
            tally.see_broken("gradient not finite", ~grad.isfinite().all(dim=1))


def _check_points(tally: Tally, boxes1: Boxes, boxes2: Boxes, seed: int) -> None:
    """Corners of the second boxes, and points around the first, in the first boxes."""
    num = min(BLOCK, len(boxes1))
    rng = np.random.default_rng(seed)
    boxes = boxes1[:num]
    around = boxes[:, :2] + rng.uniform(-1, 1, (num, 2)) * np.abs(boxes[:, 2:4])
    corners = oracle.box_corners(boxes2[:num], np.zeros((num, 2), Real))
    points = np.concatenate([around, boxes2[:num, :2], np.stack([corners.x[0], corners.y[0]], 1)])
    points = points.astype(boxes.dtype)
    inside = ops.points_in_rotated_boxes(torch.from_numpy(points), torch.from_numpy(boxes))
    every_point, every_box = np.repeat(points, num, 0), np.tile(boxes, (len(points), 1))
    margin = oracle.inside_margin(every_point, every_box)
    reach = np.abs(every_point - every_box[:, :2]).sum(axis=1) + np.abs(every_box[:, 2:4]).max(1)
    clear = np.abs(margin) > BORDER_ULPS * np.finfo(np.float64).eps * reach
    has_area = (every_box[:, 2:4] > 0).all(axis=1)
    wrong = clear & (inside.flatten().numpy() != ((margin > 0) & has_area))
    tally.see_broken("point on the wrong side", wrong)
