"""The objects in a data set dict, in this library's own form or in Detectron2's."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import BoxMode
from numpy.typing import NDArray

from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.structures.quads import hboxes_to_quads

_NUM_CORNERS = 4
_FORMS = (
    "expected 'quad' (four corners), 'bbox' with 'bbox_mode' XYWHA_ABS, XYXY_ABS or XYWH_ABS, or "
    "a 'segmentation' of one polygon with four corners"
)


class DictObjects(NamedTuple):
    """The M objects of an image; corners in pixels of the file, in the annotation's own order."""

    quads: NDArray[np.float64]  # (M, 4, 2)
    class_ids: NDArray[np.int64]  # (M,)
    difficult: NDArray[np.bool_]  # (M,)
    crowd: NDArray[np.bool_]  # (M,) a group that Detectron2 neither trains on nor scores


NO_OBJECTS = DictObjects(
    np.zeros((0, _NUM_CORNERS, 2)), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, bool)
)


def whole_image_keys(image_id: object) -> dict[str, Any]:
    """Return what says in a data set dict that its file is a whole image, not a patch of one."""
    return {"source_image_id": str(image_id), "patch_origin_xy": (0.0, 0.0), "patch_scale": 1.0}


def objects_of(dataset_dict: Mapping[str, Any]) -> DictObjects:
    """Return the objects in the ``annotations`` of a data set dict.

    An annotation's outline is, in this order: ``quad``, corners [[x, y], ...] or eight numbers;
    ``bbox`` with ``bbox_mode`` XYWHA_ABS (degrees, counter-clockwise on screen, as Detectron2 has
    it); ``segmentation``, one polygon of four corners; ``bbox`` with XYXY_ABS or XYWH_ABS. An
    upright box beside a polygon of another shape is refused: it would lose the object's direction.

    Raises:
        ValueError: no annotations, or one that cannot be used; names the image and the annotation.
    """
    where = dataset_dict.get("file_name") or f"image {dataset_dict.get('image_id')!r}"
    annotations = dataset_dict.get("annotations")
    if annotations is None:
        raise ValueError(
            f"{where}: expected annotations, got a data set without labels; register it with its "
            "label folder"
        )
    quads = np.zeros((len(annotations), _NUM_CORNERS, 2))
    class_ids = np.zeros(len(annotations), dtype=np.int64)
    for index, item in enumerate(annotations):
        try:
            quads[index] = _quad_of(item)
            class_ids[index] = operator.index(item["category_id"])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(
                f"{where}: annotation {index}: {reason}; correct the data set's function, or write "
                "label files with tcm-d2 convert-annotations"
            ) from None
    difficult = np.array([bool(item.get("difficult", 0)) for item in annotations], dtype=bool)
    crowd = np.array([bool(item.get("iscrowd", 0)) for item in annotations], dtype=bool)
    return DictObjects(quads, class_ids, difficult, crowd)


def _quad_of(item: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the corners (4, 2) of one annotation."""
    if "quad" in item:
        return _corners("quad", item["quad"])
    mode = _box_mode(item)
    if mode == BoxMode.XYWHA_ABS:
        box = _numbers("bbox", item["bbox"], 5)
        return np.asarray(boxes_to_quads(torch.from_numpy(box[None])).numpy()[0])
    parts = item.get("segmentation")
    if parts:
        if isinstance(parts, Sequence) and len(parts) == 1 and len(parts[0]) == 2 * _NUM_CORNERS:
            return _corners("segmentation", parts[0])
        raise ValueError(f"{_FORMS}; got a segmentation of another kind: {str(parts)[:80]}")
    if mode is None:
        raise ValueError(f"{_FORMS}; got the keys {', '.join(map(str, item)) or 'none'}")
    box = _numbers("bbox", item["bbox"], 4)
    if mode == BoxMode.XYWH_ABS:
        box[2:] += box[:2]
    return np.asarray(hboxes_to_quads(box[None])[0])


def _box_mode(item: Mapping[str, Any]) -> BoxMode | None:
    """Return how ``bbox`` is meant; None where there is none."""
    if item.get("bbox") is None:
        return None
    try:
        mode = BoxMode(item.get("bbox_mode"))
    except ValueError:
        mode = BoxMode.XYXY_REL
    if mode not in (BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise ValueError(f"{_FORMS}; got 'bbox' with bbox_mode {item.get('bbox_mode')!r}")
    return mode


def _corners(name: str, values: Any) -> NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return _numbers(name, flat, 2 * _NUM_CORNERS).reshape(_NUM_CORNERS, 2)


def _numbers(name: str, values: Any, count: int) -> NDArray[np.float64]:
    numbers = np.array(values, dtype=np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{name}: expected {count} finite numbers, got {str(values)[:80]}")
    return numbers
