"""Declares torch.ops.tcm_d2: schemas, kernels or their twins, fakes and autograd.

The schemas stand here and nowhere else. The compiled extension tcm_d2._C registers kernels for them
on import; for each device it has none for, the plain-torch twin of tcm_d2.ops.reference is
registered instead, so that callers never ask which one serves.

Importing it also lends two operators to a Detectron2 without its own: see _detectron2.py.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tcm_d2.ops import (
    _detectron2,
    reference,
    reference_enclosing,
    reference_points,
    reference_quad_pairs,
    reference_quads,
    reference_text_rows,
)

_NAMESPACE = "tcm_d2"
_PAIRED = "(Tensor boxes1, Tensor boxes2) -> Tensor"
_PAIRED_BACKWARD = "(Tensor grad_iou, Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)"
_SCHEMAS = {
    "box_iou_rotated": "(Tensor boxes1, Tensor boxes2, bool iof) -> Tensor",
    "paired_iou_rotated": _PAIRED,
    "paired_iou_rotated_backward": _PAIRED_BACKWARD,
    "paired_giou_rotated": _PAIRED,
    "paired_giou_rotated_backward": _PAIRED_BACKWARD,
    "paired_diou_rotated": _PAIRED,
    "paired_diou_rotated_backward": _PAIRED_BACKWARD,
    "nms_rotated": (
        "(Tensor boxes, Tensor scores, Tensor? labels, float iou_threshold, "
        "Tensor? image_ids=None, float? score_threshold=None, int? max_detections=None) -> Tensor"
    ),
    "points_in_rotated_boxes": "(Tensor points, Tensor boxes) -> Tensor",
    "quad_iou": "(Tensor quads1, Tensor quads2) -> Tensor",
    "paired_quad_iou": "(Tensor quads1, Tensor quads2) -> Tensor",
    "minimum_area_boxes": "(Tensor quads) -> Tensor",
    "overlapping_quads": (
        "(Tensor quads1, Tensor quads2, Tensor group1, Tensor group2, float min_iou)"
        " -> (Tensor, Tensor, Tensor)"
    ),
    "nms_quads": "(Tensor quads, Tensor scores, Tensor group, float iou_threshold) -> Tensor",
    "parse_text_rows": (
        "(Tensor text, int num_values) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "format_text_rows": (
        "(Tensor names, Tensor name_spans, Tensor name_index, Tensor scores, Tensor values,"
        " int score_digits, int decimals) -> Tensor"
    ),
}
_TWINS: dict[str, Callable[..., Any]] = {
    "box_iou_rotated": reference.box_iou_rotated,
    "paired_iou_rotated": reference.paired_iou_rotated,
    "paired_iou_rotated_backward": reference.paired_iou_rotated_backward,
    "paired_giou_rotated": reference_enclosing.paired_giou_rotated,
    "paired_giou_rotated_backward": reference_enclosing.paired_giou_rotated_backward,
    "paired_diou_rotated": reference_enclosing.paired_diou_rotated,
    "paired_diou_rotated_backward": reference_enclosing.paired_diou_rotated_backward,
    "nms_rotated": reference.nms_rotated,
    "points_in_rotated_boxes": reference_points.points_in_rotated_boxes,
    "quad_iou": reference_quads.quad_iou,
    "paired_quad_iou": reference_quads.paired_quad_iou,
    "minimum_area_boxes": reference_quads.minimum_area_boxes,
    "overlapping_quads": reference_quad_pairs.overlapping_quads,
    "nms_quads": reference_quad_pairs.nms_quads,
    "parse_text_rows": reference_text_rows.parse_text_rows,
    "format_text_rows": reference_text_rows.format_text_rows,
}
# Operators that derive: forward and backward are a pair of schemas.
_DIFFERENTIABLE = ("paired_iou_rotated", "paired_giou_rotated", "paired_diou_rotated")
# On these devices the twins of these operators are all that is wanted: evaluation and merging work
# on the CPU.
_SERVED_BY_TWINS = {
    "CPU": frozenset[str](),
    "CUDA": frozenset(
        {
            "overlapping_quads",
            "nms_quads",
            "parse_text_rows",
            "format_text_rows",
        }
    ),
}


class ExtensionStatus(NamedTuple):
    """What the compiled extension offers in this process."""

    loaded: bool
    cpu: bool  # kernels for CPU tensors
    cuda: bool  # kernels for CUDA tensors
    path: str | None
    reason: str  # why not, when something is missing; else "ok"


def extension_status() -> ExtensionStatus:
    """Return which compiled kernels serve; the plain-torch twins serve the rest."""
    return _STATUS


def _load_extension() -> tuple[str | None, str]:
    """Import tcm_d2._C; return its path, or None with the reason it can't be used."""
    try:
        module = importlib.import_module("tcm_d2._C")
    except ModuleNotFoundError as error:
        if error.name != "tcm_d2._C":
            raise
        return None, "not built"
    except (ImportError, OSError) as error:
        # Typical: built against another torch version, so that symbols are missing.
        return None, f"built but not loadable ({error})"
    return module.__file__, "ok"


def _has_kernel(name: str, dispatch_key: str) -> bool:
    return bool(
        torch._C._dispatch_has_kernel_for_dispatch_key(f"{_NAMESPACE}::{name}", dispatch_key)
    )


def _register_kernels() -> ExtensionStatus:
    path, reason = _load_extension()
    served = {}
    for key, device_type in (("CPU", "cpu"), ("CUDA", "cuda")):
        missing = [name for name in _SCHEMAS if not _has_kernel(name, key)]
        for name in missing:
            torch.library.impl(f"{_NAMESPACE}::{name}", device_type, _TWINS[name])
        served[key] = _SERVED_BY_TWINS[key].issuperset(missing)
    if path is None:
        warnings.warn(
            f"the compiled operators tcm_d2._C are {reason}: slow plain-torch versions serve. To "
            "build them, run 'python setup.py build_ext --inplace' in the project's folder (needs "
            "a C++ compiler), or reinstall with 'pip install --no-build-isolation -e .'",
            RuntimeWarning,
            stacklevel=2,
        )
    elif not served["CUDA"]:
        reason = "built without CUDA kernels"
    return ExtensionStatus(path is not None, served["CPU"], served["CUDA"], path, reason)


def _fake_box_iou_rotated(boxes1: Tensor, boxes2: Tensor, iof: bool) -> Tensor:
    return boxes1.new_empty((boxes1.shape[0], boxes2.shape[0]))


def _fake_paired(first: Tensor, second: Tensor) -> Tensor:
    torch._check(first.shape[0] == second.shape[0])
    return first.new_empty((first.shape[0],))


def _fake_paired_backward(
    grad_iou: Tensor, boxes1: Tensor, boxes2: Tensor
) -> tuple[Tensor, Tensor]:
    return boxes1.new_empty(boxes1.shape), boxes2.new_empty(boxes2.shape)


def _fake_nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    image_ids: Tensor | None = None,
    score_threshold: float | None = None,
    max_detections: int | None = None,
) -> Tensor:
    num_kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((num_kept,), dtype=torch.int64)


def _fake_points_in_rotated_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    return boxes.new_empty((points.shape[0], boxes.shape[0]), dtype=torch.bool)


def _fake_quad_iou(quads1: Tensor, quads2: Tensor) -> Tensor:
    return quads1.new_empty((quads1.shape[0], quads2.shape[0]))


def _fake_minimum_area_boxes(quads: Tensor) -> Tensor:
    return quads.new_empty((quads.shape[0], 5))


def _fake_overlapping_quads(
    quads1: Tensor, quads2: Tensor, group1: Tensor, group2: Tensor, min_iou: float
) -> tuple[Tensor, Tensor, Tensor]:
    num_pairs = torch.library.get_ctx().new_dynamic_size()
    index = group1.new_empty((num_pairs,))
    return index, index.clone(), quads1.new_empty((num_pairs,))


def _fake_nms_quads(quads: Tensor, scores: Tensor, group: Tensor, iou_threshold: float) -> Tensor:
    return group.new_empty((torch.library.get_ctx().new_dynamic_size(),))


def _fake_parse_text_rows(
    text: Tensor, num_values: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_rows, num_names, num_bad = (torch.library.get_ctx().new_dynamic_size() for _ in range(3))
    index = text.new_empty((num_rows,), dtype=torch.int64)
    return (
        index,
        text.new_empty((num_names, 2), dtype=torch.int64),
        text.new_empty((num_rows, num_values), dtype=torch.float64),
        index.clone(),
        text.new_empty((num_bad,), dtype=torch.int64),
    )


def _fake_format_text_rows(
    names: Tensor,
    name_spans: Tensor,
    name_index: Tensor,
    scores: Tensor,
    values: Tensor,
    score_digits: int,
    decimals: int,
) -> Tensor:
    return names.new_empty((torch.library.get_ctx().new_dynamic_size(),))


_FAKES: dict[str, Callable[..., Any]] = {
    "box_iou_rotated": _fake_box_iou_rotated,
    "nms_rotated": _fake_nms_rotated,
    "points_in_rotated_boxes": _fake_points_in_rotated_boxes,
    "quad_iou": _fake_quad_iou,
    "paired_quad_iou": _fake_paired,
    "minimum_area_boxes": _fake_minimum_area_boxes,
    "overlapping_quads": _fake_overlapping_quads,
    "nms_quads": _fake_nms_quads,
    "parse_text_rows": _fake_parse_text_rows,
    "format_text_rows": _fake_format_text_rows,
    **{name: _fake_paired for name in _DIFFERENTIABLE},
    **{f"{name}_backward": _fake_paired_backward for name in _DIFFERENTIABLE},
}


def _save_boxes(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _register_autograd(name: str) -> None:
    """Make an operator differentiable, once, by its backward operator."""
    backward_op = getattr(torch.ops.tcm_d2, f"{name}_backward")

    def backward(ctx: Any, grad_iou: Tensor) -> tuple[Tensor, Tensor]:
        grad1, grad2 = backward_op(grad_iou, *ctx.saved_tensors)
        return grad1, grad2

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            f"{name} has no second derivative; call backward without create_graph"
        )

    torch.library.register_autograd(f"{_NAMESPACE}::{name}", backward, setup_context=_save_boxes)
    torch.library.register_autograd(f"{_NAMESPACE}::{name}_backward", refuse)


def _declare() -> None:
    for name, schema in _SCHEMAS.items():
        torch.library.define(f"{_NAMESPACE}::{name}", schema, tags=(torch.Tag.pt2_compliant_tag,))


def _register_fakes_and_autograd() -> None:
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"{_NAMESPACE}::{name}", fake)
    for name in _DIFFERENTIABLE:
        _register_autograd(name)


_declare()
_STATUS = _register_kernels()
_register_fakes_and_autograd()
_detectron2.register_missing_operators()
