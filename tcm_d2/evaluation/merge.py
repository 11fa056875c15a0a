"""Bring detections from patches to whole images and suppress duplicates in the overlaps.

A patch cut at ``origin_xy`` from the image resized by ``scale`` shows source pixels
``(patch + origin_xy) / scale``. Two inputs, one rule (greedy NMS per image and class, suppress when
IoU > threshold, float64, no class offsets): boxes from our own detector, quads from result files.

Letters: M detections.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tcm_d2.evaluation.scoring.quad_iou import nms_quads
from tcm_d2.files import write_bytes_atomically
from tcm_d2.structures.arrays import FloatArray, IntArray
from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.structures.detections import (
    BoxDetections,
    ClassDetections,
    ImageDetections,
    PatchDetections,
    concatenate_boxes,
)

NameStyle = Literal["auto", "rate", "size"]
NAME_STYLES: tuple[str, ...] = ("auto", "rate", "size")

_PATCH_NAME = re.compile(
    r"(?P<image_id>.+)__(?P<middle>\d+(?:\.\d+)?)__(?P<x>-?\d+)___(?P<y>-?\d+)"
)
# Whole middle fields from here on are patch sizes in px, below resize rates: no patch is this
# small and no image is enlarged this much.
_SMALLEST_SIZE_PX = 16


class PatchName(NamedTuple):
    """What a patch name says: its image, where it was cut, and how the image was resized."""

    image_id: str
    origin_xy: tuple[float, float]
    scale: float


def merge_patch_detections(detections: PatchDetections, *, iou_threshold: float) -> ImageDetections:
    """Move boxes into their images and apply rotated NMS per image and class, in float64.

    Args:
        detections: of all patches; the result does not depend on the order of the patches.
        iou_threshold: in [0, 1]; a box is suppressed above it.

    Raises:
        ValueError: when a scale is not above zero.
    """
    if not (detections.scales > 0).all():
        bad = int(np.flatnonzero(~(detections.scales > 0))[0])
        raise ValueError(
            f"patch_scale of patch {detections.patch_ids[bad]!r}: expected a number above 0, got "
            f"{detections.scales[bad]}"
        )
    image_ids = sorted(set(detections.image_ids))
    index_of = {image_id: index for index, image_id in enumerate(image_ids)}
    image_of_patch = np.array([index_of[i] for i in detections.image_ids], dtype=np.int64)
    # Ties of the score go by patch name, not by which process saw a patch first.
    by_name = sorted(range(len(detections.patch_ids)), key=detections.patch_ids.__getitem__)
    rank_of_patch = np.empty(len(by_name), dtype=np.int64)
    rank_of_patch[by_name] = np.arange(len(by_name))

    order = np.argsort(rank_of_patch[detections.patch_index], kind="stable")
    patch_index = detections.patch_index[order]
    found = detections.found.select(order)
    boxes = _to_image(detections, found.boxes, patch_index)
    scores = found.scores.astype(np.float64)
    image_index = image_of_patch[patch_index]

    # One group for each class of each image; classes may have any label.
    _, label = np.unique(found.class_ids, return_inverse=True)
    group = image_index * (int(label.max(initial=0)) + 1) + label
    quads = boxes_to_quads(torch.from_numpy(boxes)).numpy()
    keep = nms_quads(quads, scores, group=group, iou_threshold=iou_threshold)
    keep = keep[np.argsort(image_index[keep], kind="stable")]
    merged = BoxDetections(boxes, scores, found.class_ids).select(keep)
    return ImageDetections(image_ids, image_index[keep], merged)


def merge_task1(
    detections: Mapping[str, ClassDetections],
    *,
    iou_threshold: float,
    name_style: NameStyle = "auto",
) -> dict[str, ClassDetections]:
    """Merge Task1-like rows named by patch into rows named by image, with quads as they come.

    Equal to the devkit's ``ResultMerge.mergebypoly`` up to ties of the score.

    Args:
        detections: patch-level rows by class name.
        iou_threshold: in [0, 1); 0.1 is mmrotate's choice, 0.3 the devkit's.
        name_style: what the middle field of the patch names means, see ``parse_patch_name``.

    Returns:
        Rows by class name, sorted by image id, then by descending score.

    Raises:
        ValueError: when an id is not the name of a patch.
    """
    merged = {}
    for class_name, rows in detections.items():
        names = {
            text: parse_patch_name(text, style=name_style) for text in dict.fromkeys(rows.image_ids)
        }
        image_ids = sorted({name.image_id for name in names.values()})
        index_of = {image_id: index for index, image_id in enumerate(image_ids)}
        patches = [names[text] for text in rows.image_ids]
        origin = np.array([patch.origin_xy for patch in patches], np.float64).reshape(-1, 1, 2)
        scale = np.array([patch.scale for patch in patches], np.float64).reshape(-1, 1, 1)
        group = np.array([index_of[patch.image_id] for patch in patches], dtype=np.int64)
        quads = (rows.quads + origin) / scale
        keep = nms_quads(quads, rows.scores, group=group, iou_threshold=iou_threshold)
        keep = keep[np.argsort(group[keep], kind="stable")]
        merged[class_name] = ClassDetections(
            [patches[row].image_id for row in keep.tolist()], rows.scores[keep], quads[keep]
        )
    return merged


def parse_patch_name(patch_name: str, *, style: NameStyle = "auto") -> PatchName:
    """Read image, origin and scale from ``<image>__<middle>__<x>___<y>``.

    The middle field is the rate by which the image was resized before cutting ("1", "1.0", "0.5":
    devkit) or the size of the patch in px, cut from the image as it is ("1024": mmrotate).

    Args:
        patch_name: the name, without extension.
        style: "rate", "size", or "auto": a size when it is a whole number of at least 16.

    Raises:
        ValueError: when the name has another form, or the rate is 0.
    """
    if style not in NAME_STYLES:
        raise ValueError(f"name_style: expected one of {NAME_STYLES}, got {style!r}")
    match = _PATCH_NAME.fullmatch(patch_name)
    if match is None:
        raise ValueError(
            f"patch name: expected <image>__<rate or size>__<x>___<y> such as P0001__1__0___824, "
            f"got {patch_name!r}; results already named by image need no merging"
        )
    middle = match["middle"]
    if style == "auto":
        style = "size" if middle.isdigit() and int(middle) >= _SMALLEST_SIZE_PX else "rate"
    scale = 1.0 if style == "size" else float(middle)
    if scale <= 0:
        raise ValueError(f"patch name {patch_name!r}: expected a rate above 0, got {middle!r}")
    return PatchName(match["image_id"], (float(match["x"]), float(match["y"])), scale)


def save_patch_detections(path: str | Path, detections: PatchDetections) -> None:
    """Write detections as one ``.npz`` without pickled objects, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        patch_ids=_to_text_array(detections.patch_ids),
        image_ids=_to_text_array(detections.image_ids),
        origins_xy=detections.origins_xy,
        scales=detections.scales,
        patch_index=detections.patch_index,
        boxes=detections.found.boxes,
        scores=detections.found.scores,
        class_ids=detections.found.class_ids,
    )
    write_bytes_atomically(path, buffer.getvalue())


def load_patch_detections(path: str | Path) -> PatchDetections:
    """Read what ``save_patch_detections`` wrote; pickled objects are refused.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return PatchDetections(
                patch_ids=arrays["patch_ids"].tolist(),
                image_ids=arrays["image_ids"].tolist(),
                origins_xy=arrays["origins_xy"],
                scales=arrays["scales"],
                patch_index=arrays["patch_index"],
                found=BoxDetections(arrays["boxes"], arrays["scores"], arrays["class_ids"]),
            )
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected patch detections (.npz), got {error}") from error


def concatenate_patch_detections(parts: Sequence[PatchDetections]) -> PatchDetections:
    """Return the detections of all parts; the patches keep their order.

    A patch seen twice (a sampler that pads the last batch) counts once, with its first detections.
    """
    num_patches = np.cumsum([0] + [len(part.patch_ids) for part in parts])
    patch_ids = [patch_id for part in parts for patch_id in part.patch_ids]
    first_of = {patch_id: index for index, patch_id in reversed(list(enumerate(patch_ids)))}
    firsts = np.array(sorted(first_of.values()), dtype=np.int64)
    new_index = np.full(len(patch_ids), -1, dtype=np.int64)
    new_index[firsts] = np.arange(len(firsts))
    patch_index = np.concatenate(
        [np.empty(0, np.int64)] + [p.patch_index + n for p, n in zip(parts, num_patches)]
    )
    known = np.flatnonzero(new_index[patch_index] >= 0)
    image_ids = [image_id for part in parts for image_id in part.image_ids]
    origins_xy = np.concatenate([np.empty((0, 2))] + [part.origins_xy for part in parts])
    scales = np.concatenate([np.empty(0)] + [part.scales for part in parts])
    return PatchDetections(
        patch_ids=[patch_ids[index] for index in firsts.tolist()],
        image_ids=[image_ids[index] for index in firsts.tolist()],
        origins_xy=origins_xy[firsts],
        scales=scales[firsts],
        patch_index=new_index[patch_index[known]],
        found=concatenate_boxes([part.found for part in parts]).select(known),
    )


def _to_image(
    detections: PatchDetections, boxes: NDArray[Any], patch_index: IntArray
) -> FloatArray:
    """Return boxes (M, 5) of the patches ``patch_index`` (M,) in pixels of their images."""
    moved = boxes.astype(np.float64)
    moved[:, :2] += detections.origins_xy[patch_index]
    moved[:, :4] /= detections.scales[patch_index][:, None]
    return moved


def _to_text_array(texts: Sequence[str]) -> np.ndarray:
    return np.array(texts, dtype=np.str_) if texts else np.empty(0, dtype="<U1")
