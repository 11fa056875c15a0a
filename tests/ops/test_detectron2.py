"""What a Detectron2 without its compiled extension gets from us, and what stays as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tcm_d2.ops import _detectron2

REPO_DIR = Path(__file__).resolve().parents[2]


def make_detectron2(folder: Path, *files: str) -> Path:
    """Lay out an empty package detectron2 with some files in it; return the folder to search."""
    (folder / "detectron2").mkdir()
    for name in ("__init__.py", *files):
        (folder / "detectron2" / name).write_text("raise ImportError('nothing may import this')")
    return folder


def run(script: str, *path: Path) -> subprocess.CompletedProcess[str]:
    setup = f"import sys; sys.path[:0] = {[str(p) for p in (*path, REPO_DIR)]!r}\n"
    return subprocess.run(
        [sys.executable, "-c", setup + script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ((), True),
        (("_C.py",), False),
        (("_C.so",), sys.platform == "win32"),
        (("_Cuda.py", "C.so"), True),
    ],
)
def test_the_extension_is_looked_for_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, ...], lacks: bool
) -> None:
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    monkeypatch.delitem(sys.modules, "detectron2._C", raising=False)
    monkeypatch.syspath_prepend(make_detectron2(tmp_path, *files))
    assert _detectron2._lacks_extension() is lacks


def test_without_detectron2_nothing_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    assert _detectron2.register_missing_operators() == []


def test_a_loaded_extension_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2._C", sys)
    assert _detectron2.register_missing_operators() == []


_KEEPS_AN_EXISTING_OPERATOR = """
import torch
library = torch.library.Library("detectron2", "DEF")
library.define("nms_rotated(Tensor dets, Tensor scores, float thr) -> Tensor")
library.impl("nms_rotated", lambda dets, scores, thr: scores + 41, "CPU")
from tcm_d2.ops import _detectron2
boxes = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0], [1.0, 0.0, 4.0, 2.0, 0.0]])
assert torch.ops.detectron2.nms_rotated(boxes, torch.ones(2), 0.5).tolist() == [42.0, 42.0]
assert abs(torch.ops.detectron2.box_iou_rotated(boxes, boxes)[0, 1].item() - 0.6) < 1e-6
assert _detectron2.register_missing_operators() == []  # nothing twice
"""


def test_an_existing_operator_is_never_replaced(tmp_path: Path) -> None:
    result = run(_KEEPS_AN_EXISTING_OPERATOR, make_detectron2(tmp_path))
    assert result.returncode == 0, result.stderr


_LEAVES_A_COMPILED_ONE = """
import torch
import tcm_d2.ops
assert not hasattr(torch.ops.detectron2, "nms_rotated")
assert not hasattr(torch.ops.detectron2, "box_iou_rotated")
"""


def test_a_compiled_extension_keeps_its_names(tmp_path: Path) -> None:
    result = run(_LEAVES_A_COMPILED_ONE, make_detectron2(tmp_path, "_C.py"))
    assert result.returncode == 0, result.stderr


_IN_DETECTRON2 = """
import torch
import tcm_d2.ops
from detectron2.layers import batched_nms_rotated, nms_rotated
from detectron2.layers.rotated_boxes import pairwise_iou_rotated
from detectron2.structures import RotatedBoxes
from detectron2.structures.rotated_boxes import pairwise_iou

boxes = torch.tensor(
    [[0.0, 0.0, 4.0, 2.0, 0.0], [1.0, 0.0, 2.0, 4.0, 90.0], [9.0, 9.0, 3.0, 2.0, 30.0]]
)
for dtype in (torch.float32, torch.float64):
    iou = pairwise_iou_rotated(boxes.to(dtype), boxes.to(dtype))
    assert iou.dtype == torch.float32
    assert torch.allclose(iou, torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]]))
assert torch.equal(pairwise_iou(RotatedBoxes(boxes), RotatedBoxes(boxes)), iou)
scores = torch.tensor([0.3, 0.9, 0.5])
assert nms_rotated(boxes, scores, 0.5).tolist() == [1, 2]
assert nms_rotated(boxes, scores, 0.7).tolist() == [1, 2, 0]
assert batched_nms_rotated(boxes, scores, torch.tensor([0, 1, 1]), 0.5).tolist() == [1, 2, 0]
# The angle runs counter-clockwise on screen, as in Detectron2: at +30 degrees the right end is up.
bar = torch.tensor([[0.0, 0.0, 10.0, 1.0, 30.0]])
probes = torch.tensor([[4.0, -2.3, 0.1, 0.1, 0.0], [4.0, 2.3, 0.1, 0.1, 0.0]])
assert (pairwise_iou_rotated(probes, bar)[:, 0] > 0).tolist() == [True, False]
compiled = torch.compile(lambda b: torch.ops.detectron2.box_iou_rotated(b, b), fullgraph=True,
                         backend="aot_eager")
assert torch.equal(compiled(boxes), iou)
"""


def test_detectron2_finds_our_operators() -> None:
    detectron2 = pytest.importorskip("detectron2")
    if not _detectron2._lacks_extension():
        pytest.skip("this Detectron2 has its own compiled extension")
    stand_in = Path(detectron2.__file__).parent / "_missing_extension.py"
    if stand_in.is_file() and "torch.ops.detectron2" not in stand_in.read_text():
        pytest.skip("Detectron2 was installed with older edits: run tools/install_detectron2.py")
    result = run(_IN_DETECTRON2)
    assert result.returncode == 0, result.stderr
