"""The rotated operators of mmcv on the CPU, as a peer: an installed mmcv, or its source.

mmcv's extension takes most of an hour to compile. The three operators compared here are four of
its files; given an unpacked source distribution, they are compiled alone, in a minute.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

# mmcv's files are included as they are. It has no CPU kernel for sorting the vertices of
# diff_iou_rotated_2d: its CUDA kernel is plain C, and is run here as a grid of one thread.
_BINDINGS = """
#include <torch/extension.h>
#include <algorithm>
#include <cmath>
using namespace at;
#include "pytorch/cpu/box_iou_rotated.cpp"
#include "pytorch/cpu/nms_rotated.cpp"
#define __global__
#define __device__
#define __restrict__
#define THREADS_PER_BLOCK 512
namespace one_thread {
struct Index { int x; };
constexpr Index blockIdx{0}, threadIdx{0}, blockDim{1};
using std::max; using std::min;
#include "common/cuda/diff_iou_rotated_cuda_kernel.cuh"
}
Tensor iou(const Tensor& a, const Tensor& b, bool aligned) {
  Tensor out = a.new_zeros(aligned ? a.size(0) : a.size(0) * b.size(0));
  box_iou_rotated_cpu(a, b, out, 0, aligned);
  return aligned ? out : out.view({a.size(0), b.size(0)});
}
Tensor nms(const Tensor& boxes, const Tensor& scores, double threshold) {
  return nms_rotated_cpu(boxes, scores, static_cast<float>(threshold));
}
Tensor sort_vertices(const Tensor& vertices, const Tensor& mask, const Tensor& num_valid) {
  Tensor index = at::zeros({vertices.size(0), vertices.size(1), 9}, vertices.options().dtype(kInt));
  Tensor v = vertices.contiguous(), m = mask.contiguous(), n = num_valid.contiguous();
  one_thread::diff_iou_rotated_sort_vertices_forward_cuda_kernel(
      1, v.size(0) * v.size(1), v.size(2), v.data_ptr<float>(), m.data_ptr<bool>(),
      n.data_ptr<int>(), index.data_ptr<int>());
  return index;
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("iou", &iou);
  m.def("nms", &nms);
  m.def("sort_vertices", &sort_vertices);
}
"""
_STUBS = {
    "pytorch_cpp_helper.hpp": "#pragma once\n#include <torch/extension.h>\nusing namespace at;\n",
    "pytorch_device_registry.hpp": "#pragma once\n#define REGISTER_DEVICE_IMPL(key, device, f)\n",
    "pytorch_cuda_helper.hpp": "#pragma once\n",
}


class MMCV(NamedTuple):
    """mmcv's functions for boxes whose angle is in radians, clockwise on screen."""

    name: str
    box_iou_rotated: Callable[..., Any]
    nms_rotated: Callable[..., Any]
    diff_iou_rotated_2d: Callable[..., Any] | None


def to_radians(boxes: Tensor) -> Tensor:
    """Return boxes as mmcv takes them (clockwise=True, its default)."""
    boxes = boxes.clone()
    boxes[:, 4] = -boxes[:, 4] * math.pi / 180
    return boxes


def find_mmcv(source: Path | None) -> MMCV | None:
    """Return mmcv's operators, from its source if given; None if there are none.

    Raises:
        FileNotFoundError: the source lacks mmcv/ops/csrc.
    """
    if source is not None:
        return _compile(source.resolve())
    try:
        ops = importlib.import_module("mmcv.ops")
    except ImportError:  # not installed, or installed without its extension
        return None
    version = importlib.import_module("mmcv").__version__

    def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        keep: Tensor = ops.nms_rotated(boxes, scores, threshold)[1]
        return keep

    return MMCV(f"mmcv {version}", ops.box_iou_rotated, nms, ops.diff_iou_rotated_2d)


def _compile(source: Path) -> MMCV:
    csrc = source / "mmcv" / "ops" / "csrc"
    if not csrc.is_dir():
        raise FileNotFoundError(
            f"--mmcv-source: expected an unpacked source distribution of mmcv, got {source}; "
            "pip download --no-deps --no-binary :all: onedl-mmcv, then unpack it"
        )
    from torch.utils.cpp_extension import load

    work = source / "build_three_operators"
    (work / "build").mkdir(parents=True, exist_ok=True)
    for name, text in {**_STUBS, "peer.cpp": _BINDINGS}.items():
        if not (work / name).exists() or (work / name).read_text() != text:
            (work / name).write_text(text)
    extension = load(
        "mmcv_three_operators",
        [str(work / "peer.cpp")],
        extra_cflags=["-O3", "-g0", "-DNDEBUG", "-w"],
        extra_include_paths=[str(work), str(csrc), str(csrc / "common")],
        build_directory=str(work / "build"),
    )

    def box_iou(boxes1: Tensor, boxes2: Tensor, aligned: bool = False) -> Tensor:
        result: Tensor = extension.iou(boxes1, boxes2, aligned)
        return result

    name = f"mmcv ({source.name})"
    return MMCV(name, box_iou, extension.nms, _differentiable(source, extension))


def _differentiable(source: Path, extension: Any) -> Callable[..., Any]:
    """Return mmcv's diff_iou_rotated_2d, a Python file that imports one compiled function."""
    package = types.ModuleType("_mmcv_source")
    package.__path__ = [str(source / "mmcv")]
    subpackage = types.ModuleType("_mmcv_source.ops")
    subpackage.__path__ = [str(source / "mmcv" / "ops")]
    helpers = types.ModuleType("_mmcv_source.utils")
    compiled = types.SimpleNamespace(diff_iou_rotated_sort_vertices_forward=extension.sort_vertices)
    helpers.ext_loader = types.SimpleNamespace(  # type: ignore[attr-defined]
        load_ext=lambda name, functions: compiled
    )
    for module in (package, subpackage, helpers):
        sys.modules[module.__name__] = module
    file = importlib.import_module("_mmcv_source.ops.diff_iou_rotated")
    function: Callable[..., Any] = file.diff_iou_rotated_2d
    return function
