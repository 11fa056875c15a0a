"""Registration of the operators: opcheck, tracing, meta tensors, and life without the extension."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcm_d2.ops import (
    batched_nms_rotated,
    box_iou_rotated,
    extension_status,
    paired_iou_rotated,
)
from tests.ops.oracle import box_pairs

REPO_DIR = Path(__file__).resolve().parents[2]


def op_samples() -> dict[str, list[tuple[object, ...]]]:
    boxes1, boxes2 = box_pairs("random", 6, torch.float64)
    boxes1 = boxes1 * 0.3 + boxes2 * 0.7
    empty = torch.zeros(0, 5)
    leaf1, leaf2 = boxes1.clone().requires_grad_(), boxes2.float().double().requires_grad_()
    scores = torch.linspace(1, 0, 6)
    return {
        "box_iou_rotated": [(boxes1, boxes2[:4], False), (empty, empty, True)],
        "paired_iou_rotated": [(boxes1, boxes2), (leaf1, leaf2), (empty, empty)],
        "paired_iou_rotated_backward": [(boxes1[:, 0].clone(), boxes1, boxes2)],
        "nms_rotated": [
            (boxes1.float(), scores, None, 0.1),
            (boxes1, scores, torch.arange(6) % 2, 0.1),
            (empty, torch.zeros(0), None, 0.1),
        ],
    }


@pytest.mark.parametrize("name", list(op_samples()))
def test_opcheck(name: str) -> None:
    operator = getattr(torch.ops.tcm_d2, name).default
    for sample in op_samples()[name]:
        torch.library.opcheck(operator, sample)


def test_meta_tensors_give_shapes() -> None:
    boxes1, boxes2 = torch.zeros(7, 5, device="meta"), torch.zeros(3, 5, device="meta")
    assert box_iou_rotated(boxes1, boxes2).shape == (7, 3)
    assert paired_iou_rotated(boxes1, boxes1).shape == (7,)


def _loss_and_kept(boxes1: Tensor, boxes2: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    iou = paired_iou_rotated(boxes1, boxes2)
    keep = batched_nms_rotated(boxes1, scores, labels, 0.1)
    return (1 - iou).sum() + box_iou_rotated(boxes1, boxes2).sum() + scores[keep].sum()


def test_compiles_into_one_graph() -> None:
    boxes1, boxes2 = box_pairs("random", 12, torch.float32)
    boxes1.requires_grad_()
    arguments = (boxes1, boxes2, torch.rand(12), torch.arange(12) % 3)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(_loss_and_kept, fullgraph=True, backend="aot_eager")
        actual = compiled(*arguments)
    expected = _loss_and_kept(*arguments)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, boxes1), torch.autograd.grad(expected, boxes1)
    )


class _Overlaps(torch.nn.Module):
    def forward(self, boxes1: Tensor, boxes2: Tensor) -> Tensor:
        return box_iou_rotated(boxes1, boxes2)


def test_exports() -> None:
    boxes1, boxes2 = box_pairs("random", 5, torch.float32)
    rows = torch.export.Dim("rows")
    program = torch.export.export(
        _Overlaps(), (boxes1, boxes2), dynamic_shapes={"boxes1": {0: rows}, "boxes2": None}
    )
    more = torch.cat([boxes1, boxes2])
    assert torch.equal(program.module()(more, boxes2), box_iou_rotated(more, boxes2))


def test_status_tells_what_serves() -> None:
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
    from tcm_d2.ops import box_iou_rotated, extension_status, nms_rotated, paired_iou_rotated
    boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0], [1.0, 0.0, 4.0, 2.0, 0.0]])
    assert abs(box_iou_rotated(boxes, boxes)[0, 1].item() - 0.6) < 1e-6
    assert nms_rotated(boxes, boxes[:, 0], 0.5).tolist() == [1]
    boxes.requires_grad_()
    paired_iou_rotated(boxes, boxes.detach().flip(0)).sum().backward()
    assert boxes.grad.abs().max() > 0
ours = [str(w.message) for w in caught if "tcm_d2._C" in str(w.message)]
assert len(ours) == 1 and "build_ext" in ours[0], ours
assert not extension_status().loaded and not extension_status().cpu
try:
    box_iou_rotated(boxes.int(), boxes)
except TypeError as error:
    assert "boxes1" in str(error)
else:
    raise AssertionError("the twin took integers")
"""


def test_twins_serve_without_the_extension_and_warn_once() -> None:
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
