"""Run an exported detector and turn its outputs into boxes, by numpy.

Letters: N images, R locations of one image over all levels, K classes, Q candidates, M detections.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcm_d2.export.rotated_nms import nms_rotated
from tcm_d2.structures.detections import BoxDetections

Array = NDArray[Any]
# images (N, 3, H, W) float32 -> outputs in the order of the metadata's "outputs".
Run = Callable[[Array], Sequence[Array]]
METADATA_KEY = "tcm_d2"


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
        """
        self.run = run
        self.metadata = metadata
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
            ValueError: the file is not one of ours.
        """
        try:
            import onnxruntime
        except ImportError:
            raise ImportError(
                "running ONNX files needs onnxruntime: pip install 'tcm_d2[export]'"
            ) from None
        session = onnxruntime.InferenceSession(os.fspath(path), providers=list(providers))
        properties = session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in properties:
            raise ValueError(
                f"ONNX file '{path}': expected one written by tcm-d2 export, got one "
                f"without the property {METADATA_KEY!r}"
            )
        name = session.get_inputs()[0].name
        return cls(
            lambda images: session.run(None, {name: images}), json.loads(properties[METADATA_KEY])
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
