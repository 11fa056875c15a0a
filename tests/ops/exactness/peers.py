"""The same pairs by other libraries, where they are installed: float32 IoU of aligned pairs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapely
import torch
import torchvision
from numpy.typing import NDArray

from tests.ops.exactness import oracle
from tests.ops.exactness.checks import BLOCK, CHUNK, Real
from tests.ops.exactness.families import draw_pairs

FloatArray = NDArray[np.floating]
Peer = Callable[[FloatArray, FloatArray], FloatArray]

# Errors above this change which boxes match or are suppressed.
LARGE_ERROR = 1e-3


def find_peers() -> dict[str, Peer]:
    """Return the libraries that are installed, by name and version."""
    peers: dict[str, Peer] = {f"shapely {shapely.__version__} (fp64)": _shapely}
    if hasattr(torch.ops.torchvision, "box_iou_rotated"):
        peers[f"torchvision {torchvision.__version__}"] = _torchvision
    if importlib.util.find_spec("mmcv") is not None:
        import mmcv

        peers[f"mmcv {mmcv.__version__}"] = _mmcv
    return peers


def _shapely(boxes1: FloatArray, boxes2: FloatArray) -> FloatArray:
    origins = boxes1[:, :2].astype(Real)
    one, two = (
        shapely.polygons(np.stack([c.x.T, c.y.T], axis=2).astype(np.float64))
        for c in (oracle.box_corners(boxes, origins) for boxes in (boxes1, boxes2))
    )
    common = shapely.area(shapely.intersection(one, two))
    union = shapely.area(one) + shapely.area(two) - common
    return np.asarray(np.where(union > 0, common / np.where(union > 0, union, 1), 0))


def _torchvision(boxes1: FloatArray, boxes2: FloatArray) -> FloatArray:
    one, two = (torch.from_numpy(b.astype(np.float32)) for b in (boxes1, boxes2))
    iou = [
        torch.ops.torchvision.box_iou_rotated(one[i : i + BLOCK], two[i : i + BLOCK]).diagonal()
        for i in range(0, len(one), BLOCK)
    ]
    return np.asarray(torch.cat(iou).numpy())


def _mmcv(boxes1: FloatArray, boxes2: FloatArray) -> FloatArray:
    from mmcv.ops import box_iou_rotated

    # Radians, clockwise.
    turn = np.array([1, 1, 1, 1, -np.pi / 180])
    one, two = (torch.from_numpy((b * turn).astype(np.float32)) for b in (boxes1, boxes2))
    return np.asarray(box_iou_rotated(one, two, aligned=True).numpy())


def peer_errors(peer: Peer, family: str, num_pairs: int, seed: int) -> tuple[float, float]:
    """Return the largest error on pairs rounded to float32, and the share of large errors."""
    largest, num_large = 0.0, 0
    for start in range(0, num_pairs, CHUNK):
        num = min(CHUNK, num_pairs - start)
        one, two = (b.astype(np.float32) for b in draw_pairs(family, num, seed + start))
        error = np.abs(peer(one, two).astype(Real) - oracle.pair_truth(one, two).iou)
        error = np.nan_to_num(error, nan=np.inf)
        largest = max(largest, float(error.max(initial=0)))
        num_large += int((error > LARGE_ERROR).sum())
    return largest, num_large / num_pairs


def recorded_errors(file: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Return (largest error, share of large errors) by category and library, of recorded values.

    Args:
        file: an archive of aligned pairs with what libraries gave for them: arrays category,
            category_names, iou_exact, and iou_mmcv and iou_d2 (Detectron2), each (P,).
    """
    with np.load(file, allow_pickle=False) as archive:
        names, category = archive["category_names"], archive["category"]
        exact = archive["iou_exact"]
        found = {}
        for library, key in (("mmcv", "iou_mmcv"), ("Detectron2", "iou_d2")):
            error = np.nan_to_num(np.abs(archive[key].astype(np.float64) - exact), nan=np.inf)
            by_category = [error[category == i] for i in range(len(names))]
            found[library] = {
                str(name): (float(e.max()), float((e > LARGE_ERROR).mean()))
                for name, e in zip(names, by_category)
            }
    return found
