"""Registration of the operators: opcheck, tracing, meta tensors, and life without the extension."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcm_d2 import ops
from tcm_d2.ops import extension_status
from tcm_d2.ops.registration import OPERATORS
from tests.ops.oracle import box_pairs

REPO_DIR = Path(__file__).resolve().parents[2]


def quad_pair_samples(quads1: Tensor, quads2: Tensor) -> dict[str, list[tuple[object, ...]]]:
    group, no_group, no_quads = torch.arange(6) // 2, torch.arange(0), quads1[:0]
    scores = torch.rand(6).double()
    return {
        "overlapping_quads": [
            (quads1, quads2, group, group, 0.0),
            (quads1, no_quads, group, no_group, 0.5),
        ],
        "nms_quads": [
            (quads1, scores, group, 0.1),
            (no_quads, scores[:0], no_group, 0.1),
        ],
    }


def op_samples() -> dict[str, list[tuple[object, ...]]]:
    """Arguments for each operator: ordinary, empty, of both dtypes, and leaves where it derives."""
    boxes1, boxes2 = box_pairs("random", 6, torch.float64)
    boxes1 = boxes1 * 0.3 + boxes2 * 0.7
    single1, single2 = boxes1.float(), boxes2.float()
    empty, no_quads = torch.zeros(0, 5), torch.zeros(0, 4, 2)
    leaf1, leaf2 = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
    scores = torch.linspace(1, 0, 6)
    quads1, quads2 = torch.rand(6, 4, 2) * 20, torch.rand(6, 4, 2) * 20
    paired = [(boxes1, boxes2), (single1, single2), (leaf1, leaf2), (leaf1, boxes2), (empty, empty)]
    grad_iou = torch.linspace(-1, 1, 6, dtype=torch.float64)
    backward = [(grad_iou, boxes1, boxes2), (grad_iou.float(), single1, single2)]
    samples: dict[str, list[tuple[object, ...]]] = {
        "box_iou_rotated": [
            (boxes1, boxes2[:4], False),
            (single1, single2, True),
            (empty, empty, True),
        ],
        "nms_rotated": [
            (single1, scores, None, 0.1),
            (boxes1, scores, torch.arange(6) % 2, 0.1),
            (single1, scores, torch.arange(6) % 2, 0.1, torch.arange(6) % 3, 0.2, 3),
            (single1, scores, torch.arange(6) % 2, 0.1, torch.arange(6) % 3, 0.2, 2),
            (empty, torch.zeros(0), None, 0.1),
        ],
        "points_in_rotated_boxes": [
            (boxes1[:4, :2].clone(), boxes2),
            (single1[:, :2].clone(), single2[:3]),
            (empty[:, :2].clone(), empty),
        ],
        "quad_iou": [(quads1, quads2[:4]), (quads1.double(), quads2.double()), (no_quads,) * 2],
        "paired_quad_iou": [(quads1, quads2), (no_quads, no_quads)],
        "minimum_area_boxes": [(quads1,), (quads2.double(),), (no_quads,)],
        **quad_pair_samples(quads1.double(), quads2.double()),
    }
    for name in ("paired_iou_rotated", "paired_giou_rotated", "paired_diou_rotated"):
        samples[name] = list(paired)
        samples[f"{name}_backward"] = list(backward)
    return samples


# Others may register more: see tests/cpu/test_operators.py.
OWN_OPERATORS = [
    name for name, op in OPERATORS.items() if op.reference.__module__.startswith("tcm_d2.ops.")
]


def test_every_operator_has_a_sample() -> None:
    assert set(op_samples()) == set(OWN_OPERATORS)


@pytest.mark.parametrize("name", OWN_OPERATORS)
def test_opcheck(name: str) -> None:
    operator = getattr(torch.ops.tcm_d2, name).default
    for sample in op_samples()[name]:
        torch.library.opcheck(operator, sample)


# Public functions with tensors of fixed shapes, by name: boxes, boxes, scores, labels, quads.
CALLS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "box_iou_rotated": lambda a, b, s, c, q: ops.box_iou_rotated(a, b),
    "paired_iou_rotated": lambda a, b, s, c, q: ops.paired_iou_rotated(a, b),
    "paired_giou_rotated": lambda a, b, s, c, q: ops.paired_giou_rotated(a, b),
    "paired_diou_rotated": lambda a, b, s, c, q: ops.paired_diou_rotated(a, b),
    "nms_rotated": lambda a, b, s, c, q: ops.nms_rotated(a, s, 0.1),
    "batched_nms_rotated": lambda a, b, s, c, q: ops.batched_nms_rotated(
        a, s, c, 0.1, image_ids=c % 2, score_threshold=0.05, max_detections=50
    ),
    "points_in_rotated_boxes": lambda a, b, s, c, q: ops.points_in_rotated_boxes(a[:, :2], b),
    "quad_iou": lambda a, b, s, c, q: ops.quad_iou(q, q.flip(0)),
    "paired_quad_iou": lambda a, b, s, c, q: ops.paired_quad_iou(q, q.flip(0)),
    "minimum_area_boxes": lambda a, b, s, c, q: ops.minimum_area_boxes(q),
}
NOT_OPERATORS = {"ExtensionStatus", "extension_status"}


def call_arguments(num: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    boxes1, boxes2 = box_pairs("random", num, torch.float32)
    quads = torch.rand(num, 4, 2) * 30
    return boxes1, boxes2, torch.rand(num), torch.arange(num) % 3, quads


def test_every_public_operator_is_traced_here() -> None:
    assert set(CALLS) == set(ops.__all__) - NOT_OPERATORS


def test_meta_tensors_give_shapes() -> None:
    boxes1, boxes2 = torch.zeros(7, 5, device="meta"), torch.zeros(3, 5, device="meta")
    quads = torch.zeros(7, 4, 2, device="meta")
    assert ops.box_iou_rotated(boxes1, boxes2).shape == (7, 3)
    assert ops.paired_iou_rotated(boxes1, boxes1).shape == (7,)
    assert ops.paired_giou_rotated(boxes1, boxes1).shape == (7,)
    assert ops.paired_diou_rotated(boxes1, boxes1).shape == (7,)
    inside = ops.points_in_rotated_boxes(boxes1[:, :2], boxes2)
    assert inside.shape == (7, 3) and inside.dtype == torch.bool
    assert ops.quad_iou(quads, quads[:3]).shape == (7, 3)
    assert ops.paired_quad_iou(quads, quads).shape == (7,)
    assert ops.minimum_area_boxes(quads).shape == (7, 5)


@pytest.mark.parametrize("name", CALLS)
def test_compiles_into_one_graph(name: str) -> None:
    arguments = call_arguments(12)
    arguments[0].requires_grad_()
    expected = CALLS[name](*arguments)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
        actual = compiled(*arguments)
    assert torch.equal(actual, expected)
    if expected.requires_grad:
        (ours,) = torch.autograd.grad(actual.sum(), arguments[0])
        (theirs,) = torch.autograd.grad(expected.sum(), arguments[0])
        assert torch.equal(ours, theirs) and ours.abs().max() > 0


class _Call(torch.nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(
        self, boxes1: Tensor, boxes2: Tensor, scores: Tensor, labels: Tensor, quads: Tensor
    ) -> Tensor:
        return CALLS[self.name](boxes1, boxes2, scores, labels, quads)


@pytest.mark.parametrize("name", CALLS)
def test_exports_with_a_dynamic_number_of_boxes(name: str) -> None:
    module = _Call(name)
    num = torch.export.Dim("num", min=2, max=64)
    shapes = {key: {0: num} for key in ("boxes1", "boxes2", "scores", "labels", "quads")}
    program = torch.export.export(module, call_arguments(5), dynamic_shapes=shapes)
    more = call_arguments(17)
    assert torch.equal(program.module()(*more), module(*more))


PAIRS = {
    name: getattr(ops, name)
    for name in (
        "box_iou_rotated",
        "paired_iou_rotated",
        "paired_giou_rotated",
        "paired_diou_rotated",
        "points_in_rotated_boxes",
        "quad_iou",
        "paired_quad_iou",
    )
}


def pair_arguments(name: str) -> tuple[Tensor, Tensor]:
    boxes1, boxes2, _, _, quads = call_arguments(4)
    if name == "points_in_rotated_boxes":
        return boxes1[:, :2], boxes2
    return (quads, quads.flip(0)) if "quad" in name else (boxes1, boxes2)


@pytest.mark.parametrize("name", PAIRS)
def test_bad_arguments_are_named(name: str) -> None:
    first, second = pair_arguments(name)
    for pair in ((first.int(), second), (first, second.long())):
        with pytest.raises(TypeError, match=r"expected a floating point tensor, got torch\.int"):
            PAIRS[name](*pair)
    for pair in ((first.tolist(), second), (first, None)):
        with pytest.raises(TypeError, match=r"expected a torch\.Tensor, got (list|NoneType)"):
            PAIRS[name](*pair)
    for pair in ((first[:, :1], second), (first, second[0])):
        with pytest.raises(ValueError, match=r"expected shape \("):
            PAIRS[name](*pair)
    for pair in ((first, second.to("meta")), (first.to("meta"), second)):
        with pytest.raises(ValueError, match=r"expected all tensors on one device, got .* on meta"):
            PAIRS[name](*pair)
    if name.startswith("paired"):
        with pytest.raises(ValueError, match=r"expected as many (boxes|quads) as .*, 4, got 3"):
            PAIRS[name](first, second[:3])


@pytest.mark.parametrize("name", PAIRS)
def test_the_wider_dtype_wins_and_half_is_cast_up(name: str) -> None:
    first, second = pair_arguments(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = PAIRS[name](first.bfloat16(), second.half())
    assert torch.equal(half, PAIRS[name](first.bfloat16().float(), second.half().float()))
    if half.dtype != torch.bool:
        assert half.dtype == torch.float32
        assert PAIRS[name](first, second.double()).dtype == torch.float64


def test_direct_calls_are_guarded_too() -> None:
    boxes, quads = torch.rand(3, 5), torch.rand(3, 4, 2)
    direct = torch.ops.tcm_d2
    wrong: list[tuple[Callable[..., object], tuple[Tensor, ...]]] = [
        (direct.paired_giou_rotated, (boxes, boxes[:2])),
        (direct.paired_diou_rotated, (boxes, boxes.double())),
        (direct.paired_giou_rotated_backward, (boxes[:2, 0].clone(), boxes, boxes)),
        (direct.points_in_rotated_boxes, (boxes, boxes)),
        (direct.quad_iou, (quads, quads.double())),
        (direct.paired_quad_iou, (quads, quads[:2])),
        (direct.minimum_area_boxes, (quads.int(),)),
    ]
    if not extension_status().cpu:
        pytest.skip("reference implementations rely on the public functions for checks")
    for operator, arguments in wrong:
        with pytest.raises(RuntimeError, match="expected"):
            operator(*arguments)


def test_status_tells_what_runs() -> None:
    status = extension_status()
    assert status.loaded == (status.path is not None)
    assert status.cpu == status.loaded
    assert status.reason


_WITHOUT_EXTENSION = """
import sys, warnings
sys.modules["tcm_d2._C"] = None  # importing it fails
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from tcm_d2.ops import *
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0], [1.0, 0.0, 4.0, 2.0, 0.0]])
    assert abs(box_iou_rotated(boxes, boxes)[0, 1].item() - 0.6) < 1e-6
    assert nms_rotated(boxes, boxes[:, 0], 0.5).tolist() == [1]
    boxes.requires_grad_()
    paired_iou_rotated(boxes, boxes.detach().flip(0)).sum().backward()
    assert boxes.grad.abs().max() > 0
    paired_giou_rotated(boxes, boxes.detach() + 1).sum().backward()
    paired_diou_rotated(boxes, boxes.detach() + 1).sum().backward()
    assert boxes.grad.isfinite().all()
    boxes = boxes.detach()
    assert points_in_rotated_boxes(boxes[:, :2], boxes).tolist() == [[True, True], [True, True]]
    quad = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [4.0, 2.0], [0.0, 2.0]]])
    assert quad_iou(quad, quad + 1).item() == paired_quad_iou(quad, quad + 1).item() > 0
    assert minimum_area_boxes(quad).tolist() == [[2.0, 1.0, 4.0, 2.0, 0.0]]
ours = [str(w.message) for w in caught if "tcm_d2._C" in str(w.message)]
assert len(ours) == 1 and "build_ext" in ours[0], ours
assert not extension_status().loaded and not extension_status().cpu
try:
    box_iou_rotated(boxes.int(), boxes)
except TypeError as error:
    assert "boxes1" in str(error)
else:
    raise AssertionError("the reference took integers")
"""


def test_references_run_without_the_extension_and_warn_once() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTENSION],
        cwd=REPO_DIR,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_import_is_silent_with_the_extension() -> None:
    if not extension_status().loaded:
        pytest.skip("the compiled extension is not built")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "-c", "import tcm_d2.ops"],
            cwd=REPO_DIR,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 0 and "tcm_d2._C" not in result.stderr


def test_records_name_the_sources_of_their_kernels() -> None:
    for operator in OPERATORS.values():
        for device_type, suffix in (("cpu", "_cpu.cpp"), ("cuda", "_cuda.cu")):
            path = REPO_DIR / "tcm_d2" / "csrc" / f"{operator.kernels}{suffix}"
            assert path.is_file() == (device_type in operator.devices), path
