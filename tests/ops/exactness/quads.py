"""Quadrilaterals by family, and the operators on them against the oracle.

Letters: P pairs, M quads.
"""

from __future__ import annotations

import cv2
import numpy as np
import shapely
import torch
from numpy.typing import NDArray

from tcm_d2 import ops
from tests.ops.exactness import oracle
from tests.ops.exactness.checks import CHUNK, Real, Tally
from tests.ops.exactness.families import draw_pairs, ordinary_boxes

Quads = NDArray[np.float64]

# Quads per chunk that OpenCV and GEOS see, one by one.
SAMPLE = 40
DIRECTIONS_DEG = np.linspace(0, 90, 31)


def _of_boxes(boxes: NDArray[np.float64]) -> Quads:
    corners = oracle.box_corners(boxes, np.zeros((len(boxes), 2), Real))
    return np.stack([corners.x.T, corners.y.T], axis=2).astype(np.float64)


def _labels(rng: np.random.Generator, num: int) -> tuple[Quads, Quads]:
    """As people draw them: boxes with corners a few pixels off, in whole numbers."""
    boxes = ordinary_boxes(rng, num, extent=100)
    boxes[:, 2:4] = np.maximum(boxes[:, 2:4], 16)
    near = boxes + 3 * rng.standard_normal((num, 5))
    one, two = (_of_boxes(b) + 1.5 * rng.standard_normal((num, 4, 2)) for b in (boxes, near))
    return one.round(), two[:, ::-1].round()


def _convex(rng: np.random.Generator, num: int) -> tuple[Quads, Quads]:
    """Four points on two ellipses each, in order around them."""
    quads = []
    for _ in range(2):
        turn = np.sort(rng.uniform(0, 2 * np.pi, (num, 4)), axis=1)
        radii, centre = rng.uniform(5, 60, (num, 1, 2)), rng.uniform(0, 60, (num, 1, 2))
        quads.append(centre + radii * np.stack([np.cos(turn), np.sin(turn)], axis=2))
    return quads[0], quads[1]


def _any_order(rng: np.random.Generator, num: int) -> tuple[Quads, Quads]:
    """Four points anywhere: convex, concave or crossing itself."""
    return rng.uniform(0, 50, (num, 4, 2)), rng.uniform(0, 50, (num, 4, 2))


def _rectangles(rng: np.random.Generator, num: int) -> tuple[Quads, Quads]:
    """Nearly identical boxes."""
    boxes = draw_pairs("jitter 1e-5 ... 1", num, int(rng.integers(1 << 31)))
    return _of_boxes(boxes[0]), _of_boxes(boxes[1])


FAMILIES = {
    "labels": _labels,
    "convex": _convex,
    "any order of corners": _any_order,
    "nearly identical": _rectangles,
}


def check_quads(family: str, num_pairs: int, seed: int) -> Tally:
    """Draw pairs of one family; compare their IoU and their smallest boxes."""
    tally = Tally(num_pairs=num_pairs)
    index = list(FAMILIES).index(family)
    for start in range(0, num_pairs, CHUNK):
        rng = np.random.default_rng([index, seed + start])
        quads1, quads2 = FAMILIES[family](rng, min(CHUNK, num_pairs - start))
        _check_iou(tally, quads1, quads2)
        _check_smallest(tally, quads1)
    return tally


def _simple(quads: Quads) -> NDArray[np.bool_]:
    return np.asarray(shapely.is_valid(shapely.polygons(quads)))


def _check_iou(tally: Tally, quads1: Quads, quads2: Quads) -> None:
    exact = oracle.quad_iou_truth(quads1, quads2)
    tensor1, tensor2 = torch.from_numpy(quads1), torch.from_numpy(quads2)
    iou = ops.paired_quad_iou(tensor1, tensor2)
    in_range = np.asarray((exact >= 0) & (exact <= 1))
    tally.see_error("quad IoU fp64", iou.numpy()[in_range], exact[in_range])
    swapped = ops.paired_quad_iou(tensor2, tensor1).numpy()
    tally.see_error("quad IoU, exchanged", swapped[in_range], exact[in_range])
    simple = _simple(quads1) & _simple(quads2)
    slack = 1e-9
    outside = ~((iou.numpy() >= 0) & (iou.numpy() <= 1 + slack))
    tally.see_broken("simple quads: IoU outside [0, 1]", simple & outside)


def _check_smallest(tally: Tally, quads: Quads) -> None:
    """The box holds the corners, and no upright rectangle of 31 turned frames is smaller."""
    boxes = ops.minimum_area_boxes(torch.from_numpy(quads)).numpy()
    size = np.ptp(quads, axis=1).max(axis=1)
    depth = [oracle.inside_margin(quads[:, k], boxes) for k in range(4)]
    tally.see_error("corner outside its box, px", np.minimum(np.min(depth, 0), 0), Real(0))
    area = boxes[:, 2] * boxes[:, 3]
    for angle_rad in np.deg2rad(DIRECTIONS_DEG):
        along = quads @ np.array([np.cos(angle_rad), np.sin(angle_rad)])
        across = quads @ np.array([-np.sin(angle_rad), np.cos(angle_rad)])
        other = np.ptp(along, axis=1) * np.ptp(across, axis=1)
        tally.see_broken("a smaller box exists", area > other * (1 + 1e-8) + 1e-12 * size**2)
    by_opencv, by_geos = np.zeros(len(quads[:SAMPLE])), np.zeros(len(quads[:SAMPLE]))
    for i, quad in enumerate(quads[:SAMPLE]):
        _, (width, height), _ = cv2.minAreaRect(quad.astype(np.float32))
        by_opencv[i] = width * height
        by_geos[i] = shapely.minimum_rotated_rectangle(shapely.MultiPoint(quad)).area
    relative = size[:SAMPLE] ** 2
    tally.see_error("area - OpenCV's / size^2", area[:SAMPLE] / relative, by_opencv / relative)
    tally.see_error("area - GEOS's / size^2", area[:SAMPLE] / relative, by_geos / relative)
