"""Detections as numpy arrays: one family from a window of an image to the rows of a result file.

=================  =============================================================================
`BoxDetections`    in one window, patch or image: boxes of all classes. `tcm_d2.Detections`, what a
                   `Detector` returns, is this with the image, its position and the class names.
`PatchDetections`  in many patches: boxes, and which image each patch was cut from.
`ImageDetections`  in many images: boxes.
`ClassDetections`  of one class in many images: quads by image id, the rows of a result file.
`QuadDetections`   of one class in many images: quads by image index, as they are scored.
=================  =============================================================================

Letters: M detections, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tcm_d2.structures.arrays import FloatArray, IntArray

Boxes = TypeVar("Boxes", bound="BoxDetections")


@dataclass(frozen=True, eq=False)
class BoxDetections:
    """Boxes of all classes found in one window, patch or image.

    Attributes:
        boxes: (M, 5) cx, cy, w, h, angle_deg in its pixels, float32 or float64.
        scores: (M,) likewise.
        class_ids: (M,) int64 indices into the class names.
    """

    boxes: NDArray[Any]
    scores: NDArray[Any]
    class_ids: IntArray

    def __len__(self) -> int:
        return len(self.scores)

    def select(self: Boxes, keep: Any) -> Boxes:
        """Return the detections that a mask or indices choose."""
        chosen = np.arange(len(self))[keep]
        return replace(
            self,
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            class_ids=self.class_ids[chosen],
        )


class PatchDetections(NamedTuple):
    """Boxes found in many patches.

    Attributes:
        patch_ids: [P].
        image_ids: [P] the image each patch was cut from.
        origins_xy: (P, 2) float64, pixels of the resized image.
        scales: (P,) float64, resized / source.
        patch_index: (M,) int64, the patch of each detection.
        found: M boxes in patch pixels.
    """

    patch_ids: list[str]
    image_ids: list[str]
    origins_xy: FloatArray
    scales: FloatArray
    patch_index: IntArray
    found: BoxDetections

    def of_whole_images(self) -> PatchDetections:
        """Return the same with each patch as an image of its own."""
        return self._replace(
            image_ids=list(self.patch_ids),
            origins_xy=np.zeros_like(self.origins_xy),
            scales=np.ones_like(self.scales),
        )


class ImageDetections(NamedTuple):
    """Boxes found in many images, ordered by image, then by descending score.

    Attributes:
        image_ids: sorted; also images in which nothing was found.
        image_index: (M,) int64 into ``image_ids``.
        found: M boxes in image pixels, float64.
    """

    image_ids: list[str]
    image_index: IntArray
    found: BoxDetections


class ClassDetections(NamedTuple):
    """Quads of one class by image id: image_ids [M], scores (M,), quads (M, 4, 2) float64."""

    image_ids: list[str]
    scores: FloatArray
    quads: FloatArray


class QuadDetections(NamedTuple):
    """Quads of one class by image index: image_index (M,), quads (M, 4, 2), scores (M,) float64."""

    image_index: IntArray
    quads: FloatArray
    scores: FloatArray


def no_rows() -> ClassDetections:
    """Return no detections of a class."""
    return ClassDetections([], np.empty(0, np.float64), np.empty((0, 4, 2), np.float64))


def concatenate_boxes(parts: Sequence[BoxDetections]) -> BoxDetections:
    """Return the detections of all parts in a row; of no part, none in float32."""
    return BoxDetections(
        np.concatenate([np.empty((0, 5), np.float32)] + [part.boxes for part in parts]),
        np.concatenate([np.empty(0, np.float32)] + [part.scores for part in parts]),
        np.concatenate([np.empty(0, np.int64)] + [part.class_ids for part in parts]),
    )
