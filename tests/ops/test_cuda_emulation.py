"""The CUDA kernels' logic on the CPU, thread by thread, against the CPU operators, to the bit.

It stands in for a GPU where there is none; see cuda_emulation/cuda_emulation.h for what it can't
show. tests/ops/test_cuda.py compares the real thing.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcm_d2 import build_config
from tcm_d2.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    extension_status,
    minimum_area_boxes,
    nms_rotated,
    paired_iou_rotated,
    points_in_rotated_boxes,
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


def int64(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


@pytest.fixture(params=[1, 3, 1 << 16])
def grids(kernels: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[None]:
    """Grids of at most so many blocks each way, so that blocks go round their loops."""
    kernels.limit_grids(int64(request.param), int64(request.param))
    yield
    kernels.limit_grids(int64(1 << 30), int64(65535))


@pytest.fixture(params=[1, 3, 1 << 16])
def rows(kernels: ctypes.CDLL, request: pytest.FixtureRequest) -> Iterator[None]:
    """Grids of at most so many rows of blocks: columns aren't looped over."""
    kernels.limit_grids(int64(1 << 30), int64(request.param))
    yield
    kernels.limit_grids(int64(1 << 30), int64(65535))


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("num", [(0, 3), (1, 1), (31, 129), (32, 128), (33, 127), (200, 300)])
def test_pairwise_iou(kernels: ctypes.CDLL, num: tuple[int, int]) -> None:
    boxes1, boxes2 = mixed_boxes(300)
    boxes1, boxes2 = boxes1[: num[0]].contiguous(), boxes2[: num[1]].contiguous()
    for mode in ("iou", "iof"):
        out = torch.full(num, -7.0)
        kernels.pairwise_iou(
            pointer(boxes1), int64(num[0]), pointer(boxes2), int64(num[1]),
            ctypes.c_bool(mode == "iof"), pointer(out),
        )  # fmt: skip
        assert torch.equal(out, box_iou_rotated(boxes1, boxes2, mode=mode))  # type: ignore[arg-type]


@pytest.mark.usefixtures("grids")
def test_paired_iou_and_its_gradient(kernels: ctypes.CDLL) -> None:
    boxes1, boxes2 = mixed_boxes(700, torch.float64)
    out = torch.full((700,), -7.0, dtype=torch.float64)
    kernels.paired_iou_of_boxes(pointer(boxes1), pointer(boxes2), int64(700), pointer(out))
    assert torch.equal(out, paired_iou_rotated(boxes1, boxes2))
    scale = torch.linspace(-1, 1, 700, dtype=torch.float64)
    grads = [torch.full((700, 5), -7.0, dtype=torch.float64) for _ in range(2)]
    kernels.paired_grads(
        pointer(scale), pointer(boxes1), pointer(boxes2), int64(700), *map(pointer, grads)
    )
    expected = torch.ops.tcm_d2.paired_iou_rotated_backward(scale, boxes1, boxes2)
    assert all(map(torch.equal, grads, expected))


@pytest.mark.usefixtures("grids")
@pytest.mark.parametrize("name", ["giou", "diou"])
def test_enclosed_iou_and_its_gradient(kernels: ctypes.CDLL, name: str) -> None:
    boxes1, boxes2 = mixed_boxes(700)
    of_hull = ctypes.c_bool(name == "giou")
    out = torch.full((700,), -7.0)
    kernels.enclosed_iou_of_boxes(
        of_hull, pointer(boxes1), pointer(boxes2), int64(700), pointer(out)
    )
    assert torch.equal(out, getattr(torch.ops.tcm_d2, f"paired_{name}_rotated")(boxes1, boxes2))
    scale = torch.linspace(-1, 1, 700)
    grads = [torch.full((700, 5), -7.0) for _ in range(2)]
    kernels.enclosed_grads(
        of_hull, pointer(scale), pointer(boxes1), pointer(boxes2), int64(700), *map(pointer, grads)
    )
    backward = getattr(torch.ops.tcm_d2, f"paired_{name}_rotated_backward")
    assert all(map(torch.equal, grads, backward(scale, boxes1, boxes2)))


@pytest.mark.usefixtures("rows")
def test_points(kernels: ctypes.CDLL) -> None:
    boxes = mixed_boxes(150)[0]
    points = torch.cat([boxes[:, :2], torch.rand(50, 2) * 60]).contiguous()
    out = torch.zeros(200, 150, dtype=torch.bool)
    kernels.points_in_boxes(pointer(points), int64(200), pointer(boxes), int64(150), pointer(out))
    assert torch.equal(out, points_in_rotated_boxes(points, boxes))


@pytest.mark.usefixtures("rows")
def test_pairwise_iou_of_quads(kernels: ctypes.CDLL) -> None:
    quads1, quads2 = torch.rand(70, 4, 2) * 80, torch.rand(140, 4, 2) * 80
    quads1[3, 0, 0] = float("nan")
    out = torch.full((70, 140), -7.0)
    kernels.pairwise_quad_iou(pointer(quads1), int64(70), pointer(quads2), int64(140), pointer(out))
    assert torch.equal(out, torch.ops.tcm_d2.quad_iou(quads1, quads2))


@pytest.mark.usefixtures("grids")
def test_paired_iou_and_smallest_boxes_of_quads(kernels: ctypes.CDLL) -> None:
    quads1, quads2 = torch.rand(300, 4, 2) * 80, torch.rand(300, 4, 2) * 80
    quads1[3, 0, 0] = float("nan")
    out = torch.full((300,), -7.0)
    kernels.paired_iou_of_quads(pointer(quads1), pointer(quads2), int64(300), pointer(out))
    assert torch.equal(out, torch.ops.tcm_d2.paired_quad_iou(quads1, quads2))
    boxes = torch.full((300, 5), -7.0)
    kernels.smallest_boxes(pointer(quads1), int64(300), pointer(boxes))
    torch.testing.assert_close(boxes, minimum_area_boxes(quads1), rtol=0, atol=0, equal_nan=True)


def emulated_nms(
    kernels: ctypes.CDLL,
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    labels: Tensor | None = None,
    images: Tensor | None = None,
    max_kept: int = 2**62,
) -> Tensor:
    """Return the kept indices, best score first."""
    order = torch.argsort(scores, descending=True, stable=True)
    rows = [None if v is None else v[order].contiguous() for v in (boxes, labels, images)]
    kept = torch.ones(len(boxes), dtype=torch.bool)
    kernels.nms(
        *map(pointer, rows), int64(len(boxes)), ctypes.c_double(threshold), int64(max_kept),
        pointer(kept),
    )  # fmt: skip
    return order[kept]


@pytest.mark.parametrize("num", [1, 63, 64, 65, 129, 700])
def test_nms(kernels: ctypes.CDLL, num: int) -> None:
    boxes, scores, labels = crowd(num, extent=200)
    boxes[::50, 2] = 0
    for threshold in (0.1, 0.5):
        keep = emulated_nms(kernels, boxes, scores, threshold)
        assert keep.tolist() == nms_rotated(boxes, scores, threshold).tolist()
        keep = emulated_nms(kernels, boxes, scores, threshold, labels=labels)
        assert keep.tolist() == batched_nms_rotated(boxes, scores, labels, threshold).tolist()
    images = torch.arange(num) % 3 - 1
    keep = emulated_nms(kernels, boxes, scores, 0.1, labels=labels, images=images)
    expected = batched_nms_rotated(boxes, scores, labels, 0.1, image_ids=images)
    assert keep.tolist() == expected.tolist()


def test_nms_of_several_tiles_stops_when_enough_are_kept(kernels: ctypes.CDLL) -> None:
    boxes, scores, _ = crowd(4800, extent=700)
    expected = nms_rotated(boxes, scores, 0.1)
    keep = emulated_nms(kernels, boxes, scores, 0.1)
    assert keep.tolist() == expected.tolist()
    early = emulated_nms(kernels, boxes, scores, 0.1, max_kept=10)
    assert 10 <= len(early) < len(keep) and early[:10].tolist() == expected[:10].tolist()
