"""Defines rotated operators for a Detectron2 that has none of its own, by ours.

Detectron2's RotatedBoxes, pairwise_iou_rotated and nms_rotated call
torch.ops.detectron2.{box_iou_rotated,nms_rotated}, which its compiled extension detectron2._C
defines. (Version 0.6 calls detectron2._C.box_iou_rotated; the stand-in for _C that
tools/install_detectron2.py adds passes it on.) Where that extension is missing, the two are defined
here, with the same boxes, the same degrees and the same dtypes. Deliberate difference: a box is
suppressed when its IoU is greater than the threshold, also on the CPU, where Detectron2's kernel
suppresses at equality.

Nothing of Detectron2 is imported. Operators that exist are never replaced, and where a file of the
extension exists none are defined, since loading it later would fail on a name defined twice.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tcm_d2.ops.iou import box_iou_rotated
from tcm_d2.ops.nms import nms_rotated


def _box_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (N, M) IoU in float32, Detectron2's result whatever the boxes' dtype."""
    return box_iou_rotated(boxes1, boxes2).float()


def _nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return nms_rotated(boxes, scores, iou_threshold)


_IMPLEMENTATIONS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "box_iou_rotated": ("(Tensor boxes1, Tensor boxes2) -> Tensor", _box_iou_rotated),
    "nms_rotated": ("(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor", _nms_rotated),
}
# What is registered lives as long as the library it was registered by.
_LIBRARIES: list[Any] = []


def _lacks_extension() -> bool:
    """Whether Detectron2 is installed without detectron2._C; found out without importing it."""
    if "detectron2._C" in sys.modules:
        return False
    try:
        package = importlib.util.find_spec("detectron2")
    except (ImportError, ValueError):  # blocked, or a stand-in without a spec
        return False
    if package is None or package.submodule_search_locations is None:
        return False
    locations = list(package.submodule_search_locations)
    return importlib.machinery.PathFinder.find_spec("detectron2._C", locations) is None


def register_missing_operators() -> list[str]:
    """Define what a Detectron2 without its extension lacks; return the names defined."""
    if not _lacks_extension():
        return []
    names = [name for name in _IMPLEMENTATIONS if not hasattr(torch.ops.detectron2, name)]
    if names:
        _LIBRARIES.append(torch.library.Library("detectron2", "FRAGMENT"))  # type: ignore[no-untyped-call]
    for name in names:
        schema, function = _IMPLEMENTATIONS[name]
        _LIBRARIES[-1].define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        # Made of our operators alone, which bring their own kernels and fakes.
        _LIBRARIES[-1].impl(name, function, "CompositeImplicitAutograd")
    return names
