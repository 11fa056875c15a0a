"""Run an exported detector and turn its outputs into boxes, by numpy.

Letters: N images, R locations of one image over all levels, K classes, Q candidates, M detections.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcm_d2.export.rotated_nms import nms_rotated
from tcm_d2.structures.detections import BoxDetections

Array = NDArray[Any]
# images (N, 3, H, W) float32 -> outputs in the order of the metadata's "outputs".
Run = Callable[[Array], Sequence[Array]]
METADATA_KEY = "tcm_d2"
# Sides beyond are no sizes of a network's input.
_MAX_SIDE_PX = 65_536


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value == int(value) and 1 <= value


def _are(check: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    return lambda values: (
        isinstance(values, list)
        and (len(values) == length if length else len(values) > 0)
        and all(map(check, values))
    )


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _is_side(value: Any) -> bool:
    return _is_count(value) and value <= _MAX_SIDE_PX


# What the facts of a file have to be for it to be run.
_FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "outputs": (_are(lambda v: isinstance(v, str)), "a list of names"),
    "class_names": (_are(lambda v: isinstance(v, str)), "a list of names"),
    "batch_size": (_or_none(_is_side), "null or a number of images"),
    "size_hw": (_or_none(_are(_is_side, 2)), "null or height and width in pixels"),
    "size_divisor_px": (_is_side, "a number of pixels"),
    "pixel_mean": (_are(_is_number, 3), "three numbers"),
    "strides_px": (_are(_is_side), "a list of strides in pixels"),
    "anchors_per_cell": (_or_none(_is_side), "null or a count"),
    "clamps_centers": (lambda v: isinstance(v, bool), "true or false"),
    "score_threshold": (_is_number, "a number"),
    "topk_candidates": (_is_count, "a count"),
    "nms_threshold": (_is_number, "a number"),
    "max_detections": (_is_count, "a count"),
}


def check_metadata(metadata: Any, *, source: str) -> dict[str, Any]:
    """Return the facts of an exported file, if a detector can be run by them.

    Args:
        metadata: as read from the file.
        source: names it in messages.

    Raises:
        ValueError: one is missing or not of its kind; names it.
    """
    if not isinstance(metadata, dict):
        raise ValueError(f"{source}: expected an object, got {type(metadata).__name__}")
    for name, (fits, expected) in _FACTS.items():
        if name not in metadata or not fits(metadata[name]):
            got = repr(metadata[name])[:80] if name in metadata else "nothing"
            raise ValueError(
                f"{source}: {name}: expected {expected}, got {got}; export the detector again"
            )
    return metadata


class ExportedDetector:
    """An exported file with what goes before and after it.

    Attributes:
        run: the file's function, images (N, 3, H, W) float32 -> outputs.
        class_names: in label order.
        metadata: see ``tcm_d2.export.files.export_metadata``.
    """

    def __init__(self, run: Run, metadata: dict[str, Any]) -> None:
        """Args:
        run: the file's function.
        metadata: the file's facts.

        Raises:
            ValueError: a fact is missing or not of its kind.
        """
        self.run = run
        self.metadata = check_metadata(metadata, source="metadata")
        self.class_names = list(metadata["class_names"])

    @classmethod
    def from_onnx(
        cls, path: str | os.PathLike[str], providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> ExportedDetector:
        """Open an ONNX file with onnxruntime.

        Args:
            path: written by tcm-d2 export.
            providers: onnxruntime's execution providers, in order of preference.

        Raises:
            ImportError: onnxruntime is missing.
            ValueError: the file is not one of ours, or damaged.
        """
        try:
            import onnxruntime
        except ImportError:
            raise ImportError(
                "running ONNX files needs onnxruntime: pip install 'tcm_d2[export]'"
            ) from None
        content = Path(path).read_bytes()  # and nothing beside the file that it may name
        try:
            session = onnxruntime.InferenceSession(content, providers=list(providers))
        except Exception as error:  # onnxruntime has a class for each kind of damage
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise ValueError(f"ONNX file '{path}': cannot be run ({reason})") from None
        properties = session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in properties:
            raise ValueError(
                f"ONNX file '{path}': expected one written by tcm-d2 export, got one "
                f"without the property {METADATA_KEY!r}"
            )
        source = f"ONNX file '{path}', property {METADATA_KEY}"
        try:
            metadata = json.loads(properties[METADATA_KEY])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}: expected JSON ({error})") from None
        name = session.get_inputs()[0].name
        return cls(
            lambda images: session.run(None, {name: images}),
            check_metadata(metadata, source=source),
        )

    def __call__(
        self, images: Sequence[Array], *, score_threshold: float | None = None
    ) -> list[BoxDetections]:
        """Return the detections of each image, in its pixels, best first.

        Args:
            images: (H, W, 3) uint8 or float arrays, values 0..255, in the metadata's channel order
                ("image_format"); padded to the file's size, or together to a common one.
            score_threshold: on class scores; None takes the detector's. Files of kind "candidates"
                have theirs inside and do not look at it.

        Raises:
            ValueError: an image has another shape, or is larger than the file's size.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"images: expected shape (H, W, 3), got {image.shape}")
        threshold = self.metadata["score_threshold"] if score_threshold is None else score_threshold
        at_a_time = self.metadata["batch_size"] or max(len(images), 1)
        found: list[BoxDetections] = []
        for start in range(0, len(images), at_a_time):
            found += self._run_batch(images[start : start + at_a_time], threshold)
        return found

    def _run_batch(self, images: Sequence[Array], threshold: float) -> list[BoxDetections]:
        sizes_hw = [image.shape[:2] for image in images]
        padded_hw = self._padded_hw(sizes_hw)
        outputs = self.run(self._batch(images, padded_hw))
        named = dict(zip(self.metadata["outputs"], map(np.asarray, outputs), strict=True))
        return [
            self._detections({k: v[i] for k, v in named.items()}, size_hw, padded_hw, threshold)
            for i, size_hw in enumerate(sizes_hw)
        ]

    def _padded_hw(self, sizes_hw: Sequence[tuple[int, int]]) -> tuple[int, int]:
        height, width = (max(sides) for sides in zip(*sizes_hw, strict=True))
        fixed = self.metadata["size_hw"]
        if fixed is None:
            divisor = self.metadata["size_divisor_px"]
            return math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor
        if height > fixed[0] or width > fixed[1]:
            raise ValueError(
                f"images: expected at most {fixed[0]} x {fixed[1]} px (the size of the file), got "
                f"{height} x {width}; cut them, or export with --size or --dynamic"
            )
        return fixed[0], fixed[1]

    def _batch(self, images: Sequence[Array], padded_hw: tuple[int, int]) -> Array:
        """Return the images as (N, 3, H, W) float32, padded with what normalises to zero."""
        num_images = self.metadata["batch_size"] or len(images)
        batch = np.empty((num_images, 3, *padded_hw), np.float32)
        batch[:] = np.asarray(self.metadata["pixel_mean"], np.float32)[:, None, None]
        for target, image in zip(batch, images):
            target[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        return batch

    def _detections(
        self,
        outputs: dict[str, Array],
        size_hw: tuple[int, int],
        padded_hw: tuple[int, int],
        score_threshold: float,
    ) -> BoxDetections:
        """Return the detections of one image from its outputs."""
        if "classes" in outputs:
            kept = outputs["scores"] > 0
            boxes, scores, classes = (outputs[n][kept] for n in ("boxes", "scores", "classes"))
        else:
            boxes, scores, classes = self._best_of_each_level(outputs, padded_hw, score_threshold)
        if self.metadata["clamps_centers"]:
            limits = np.array([size_hw[1] - 1, size_hw[0] - 1], np.float32)
            boxes[:, :2] = np.clip(boxes[:, :2], 0, limits)
        keep = nms_rotated(boxes, scores, classes, iou_threshold=self.metadata["nms_threshold"])
        keep = keep[: self.metadata["max_detections"]]
        return BoxDetections(boxes, scores, classes).select(keep)

    def _best_of_each_level(
        self, outputs: dict[str, Array], padded_hw: tuple[int, int], score_threshold: float
    ) -> tuple[Array, Array, Array]:
        """Return boxes (Q, 5), scores (Q,) and classes (Q,) of one image before NMS.

        Threshold and limit act on the class score alone; boxes without area are dropped.
        """
        class_scores = outputs["class_scores"]
        chosen = []
        start = 0
        for num_rows in self._level_rows(padded_hw):
            flat = class_scores[start : start + num_rows].reshape(-1)
            index = np.flatnonzero(flat > score_threshold)
            best = np.argsort(-flat[index], kind="stable")[: self.metadata["topk_candidates"]]
            chosen.append(index[best] + start * class_scores.shape[1])
            start += num_rows
        rows, classes = np.divmod(np.concatenate(chosen), class_scores.shape[1])
        scores = class_scores[rows, classes]
        for name in outputs.keys() - {"boxes", "class_scores"}:
            scores = scores * outputs[name][rows]
        boxes = outputs["boxes"][rows]
        kept = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        return boxes[kept], scores[kept], classes[kept].astype(np.int64)

    def _level_rows(self, padded_hw: tuple[int, int]) -> list[int]:
        """Return how many rows of the outputs belong to each level."""
        per_cell = self.metadata["anchors_per_cell"] or 1
        return [
            per_cell * math.ceil(padded_hw[0] / stride) * math.ceil(padded_hw[1] / stride)
            for stride in self.metadata["strides_px"]
        ]
