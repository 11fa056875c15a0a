"""The CUDA kernels' logic on the CPU, thread by thread, against the CPU operators, to the bit.

It stands in for a GPU where there is none; see cuda_emulation/cuda_emulation.h for what it can't
show. tests/ops/test_cuda.py compares the real thing.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcm_d2 import build_config
from tcm_d2.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    extension_status,
    nms_rotated,
    paired_iou_rotated,
    points_in_rotated_boxes,
    quad_iou,
)
from tests.ops.oracle import FAMILIES, box_pairs
from tests.ops.test_nms import crowd

REPO_DIR = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).parent / "cuda_emulation" / "kernels.cpp"

pytestmark = pytest.mark.skipif(
    not extension_status().cpu, reason="the compiled operators are not built: nothing to equal"
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = build_config.find_compiler(os.environ)
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("cuda_emulation") / "kernels.so"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wno-psabi", "-shared", "-fPIC"]
    include = f"-I{REPO_DIR / 'tcm_d2' / 'csrc'}"
    result = subprocess.run(
        [compiler, *flags, include, str(SOURCE), "-o", str(library)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return ctypes.CDLL(str(library))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    assert tensor is None or tensor.is_contiguous()
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def mixed_boxes(num: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Pairs of all families, and some without sense."""
    pairs = [box_pairs(family, -(-num // len(FAMILIES)), dtype) for family in FAMILIES]
    boxes1, boxes2 = (torch.cat(boxes)[:num].contiguous() for boxes in zip(*pairs))
    boxes1[::17, 2], boxes2[::13, 3], boxes1[::29, 0] = 0, -1, float("nan")
    return boxes1, boxes2


@pytest.mark.parametrize("num", [(1, 1), (31, 129), (32, 128), (33, 127), (200, 300)])
@pytest.mark.parametrize("max_grid_y", [1, 3, 1 << 16])
def test_pairwise_iou(kernels: ctypes.CDLL, num: tuple[int, int], max_grid_y: int) -> None:
    boxes1, boxes2 = mixed_boxes(300)
    boxes1, boxes2 = boxes1[: num[0]].contiguous(), boxes2[: num[1]].contiguous()
    for mode in ("iou", "iof"):
        out = torch.full(num, -7.0)
        kernels.pairwise_iou(
            pointer(boxes1), ctypes.c_int64(num[0]), pointer(boxes2), ctypes.c_int64(num[1]),
            ctypes.c_bool(mode == "iof"), ctypes.c_uint(max_grid_y), pointer(out),
        )  # fmt: skip
        assert torch.equal(out, box_iou_rotated(boxes1, boxes2, mode=mode))  # type: ignore[arg-type]


@pytest.mark.parametrize("max_grid_x", [1, 2, 1 << 16])
def test_paired_iou(kernels: ctypes.CDLL, max_grid_x: int) -> None:
    boxes1, boxes2 = mixed_boxes(700, torch.float64)
    out = torch.full((700,), -7.0, dtype=torch.float64)
    kernels.paired_iou(
        pointer(boxes1), pointer(boxes2), ctypes.c_int64(700), ctypes.c_uint(max_grid_x),
        pointer(out),
    )  # fmt: skip
    assert torch.equal(out, paired_iou_rotated(boxes1, boxes2))


@pytest.mark.parametrize("max_grid_y", [1, 1 << 16])
def test_points(kernels: ctypes.CDLL, max_grid_y: int) -> None:
    boxes = mixed_boxes(150)[0]
    points = torch.cat([boxes[:, :2], torch.rand(50, 2) * 60]).contiguous()
    out = torch.zeros(200, 150, dtype=torch.bool)
    kernels.points_in_boxes(
        pointer(points), ctypes.c_int64(200), pointer(boxes), ctypes.c_int64(150),
        ctypes.c_uint(max_grid_y), pointer(out),
    )  # fmt: skip
    assert torch.equal(out, points_in_rotated_boxes(points, boxes))


@pytest.mark.parametrize("max_grid_y", [1, 1 << 16])
def test_quads(kernels: ctypes.CDLL, max_grid_y: int) -> None:
    quads1, quads2 = torch.rand(70, 4, 2) * 80, torch.rand(140, 4, 2) * 80
    quads1[3, 0, 0] = float("nan")
    out = torch.full((70, 140), -7.0)
    kernels.pairwise_quad_iou(
        pointer(quads1), ctypes.c_int64(70), pointer(quads2), ctypes.c_int64(140),
        ctypes.c_uint(max_grid_y), pointer(out),
    )  # fmt: skip
    assert torch.equal(out, quad_iou(quads1, quads2))


def emulated_nms(
    kernels: ctypes.CDLL,
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    labels: Tensor | None = None,
    images: Tensor | None = None,
    max_kept: int = 2**62,
) -> tuple[Tensor, int]:
    """Return the kept indices, best score first, and how many the walk counted."""
    order = torch.argsort(scores, descending=True, stable=True)
    rows = [None if v is None else v[order].contiguous() for v in (boxes, labels, images)]
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    kernels.nms.restype = ctypes.c_int64
    num_kept = kernels.nms(
        *map(pointer, rows), ctypes.c_int64(len(boxes)), ctypes.c_double(threshold),
        ctypes.c_int64(max_kept), pointer(kept),
    )  # fmt: skip
    return order[kept], num_kept


@pytest.mark.parametrize("num", [1, 63, 64, 65, 129, 700])
def test_nms(kernels: ctypes.CDLL, num: int) -> None:
    boxes, scores, labels = crowd(num, extent=200)
    boxes[::50, 2] = 0
    for threshold in (0.1, 0.5):
        keep, num_kept = emulated_nms(kernels, boxes, scores, threshold)
        assert keep.tolist() == nms_rotated(boxes, scores, threshold).tolist()
        assert num_kept == len(keep)
        keep, _ = emulated_nms(kernels, boxes, scores, threshold, labels=labels)
        assert keep.tolist() == batched_nms_rotated(boxes, scores, labels, threshold).tolist()
    images = torch.arange(num) % 3 - 1
    keep, _ = emulated_nms(kernels, boxes, scores, 0.1, labels=labels, images=images)
    expected = batched_nms_rotated(boxes, scores, labels, 0.1, image_ids=images)
    assert keep.tolist() == expected.tolist()


def test_nms_of_several_tiles_stops_when_enough_are_kept(kernels: ctypes.CDLL) -> None:
    boxes, scores, _ = crowd(4800, extent=700)
    expected = nms_rotated(boxes, scores, 0.1)
    keep, num_kept = emulated_nms(kernels, boxes, scores, 0.1)
    assert keep.tolist() == expected.tolist() and num_kept == len(expected)
    early, num_early = emulated_nms(kernels, boxes, scores, 0.1, max_kept=10)
    assert 10 <= num_early < num_kept and early[:10].tolist() == expected[:10].tolist()
