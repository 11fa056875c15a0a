"""Look at a picture at several sizes, so that objects of any size have one that suits the model.

A detector knows objects of the sizes it was trained with. At a factor of 2 a picture is enlarged
before it is cut into windows, and small objects come into reach (four times the windows); at 0.5 it
is shrunk, and those come that no window held whole (a quarter of the windows).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from tcm_d2.data.raster_reader.colors import UInt8Array
from tcm_d2.inference.large_image import DetectWindows, ResumeFile, WindowConfig, detect_scene
from tcm_d2.inference.rasters import Scene
from tcm_d2.ops import batched_nms_rotated
from tcm_d2.structures.detections import BoxDetections, concatenate_boxes


class ResizedScene(Scene):
    """A picture as it looks enlarged or shrunk, read window by window from the picture itself."""

    def __init__(self, scene: Scene, factor: float) -> None:
        """Keep the picture, which stays open; ``factor`` is on both sides."""
        height, width = scene.size_hw
        self.name = scene.name
        self.size_hw = max(1, round(height * factor)), max(1, round(width * factor))
        # On x and y; the sizes are whole numbers, so that they differ a little from the factor.
        self.factors_xy = self.size_hw[1] / width, self.size_hw[0] / height
        self._scene = scene

    def read(self, x1: int, y1: int, x2: int, y2: int) -> UInt8Array | None:
        """Return a window of the resized picture, RGB (h, w, 3); None where there is no data."""
        height, width = self._scene.size_hw
        (factor_x, factor_y), margin = self.factors_xy, 1
        left, top = int(x1 / factor_x) - margin, int(y1 / factor_y) - margin
        right, bottom = int(np.ceil(x2 / factor_x)) + margin, int(np.ceil(y2 / factor_y)) + margin
        left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
        read = self._scene.read(left, top, right, bottom)
        if read is None:
            return None
        pixels: np.ndarray = read
        if min(factor_x, factor_y) < 1:  # averaged before it is sampled, against aliasing
            shrunk = round((right - left) * factor_x), round((bottom - top) * factor_y)
            pixels = cv2.resize(
                pixels, (max(1, shrunk[0]), max(1, shrunk[1])), interpolation=cv2.INTER_AREA
            )
        scale_x, scale_y = pixels.shape[1] / (right - left), pixels.shape[0] / (bottom - top)
        # Output pixel centres -> pixels of what was read.
        to_input = np.array(
            [
                [scale_x / factor_x, 0, ((x1 + 0.5) / factor_x - left) * scale_x - 0.5],
                [0, scale_y / factor_y, ((y1 + 0.5) / factor_y - top) * scale_y - 0.5],
            ]
        )
        window = cv2.warpAffine(
            pixels,
            to_input,
            (x2 - x1, y2 - y1),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(window, np.uint8)

    def read_overview(self, max_side_px: int) -> UInt8Array:
        """Return the whole picture, shrunk to at most ``max_side_px``."""
        return self._scene.read_overview(max_side_px)

    def plan_windows(self, window_hw: tuple[int, int]) -> None:
        """Prepare the picture for windows of this size in the resized one."""
        factor_x, factor_y = self.factors_xy
        window_h, window_w = window_hw[0] / factor_y + 2, window_hw[1] / factor_x + 2
        self._scene.plan_windows((int(np.ceil(window_h)), int(np.ceil(window_w))))


def detect_at_scales(
    detect_windows: DetectWindows,
    scene: Scene,
    config: WindowConfig,
    *,
    show_progress: bool = False,
    resume: ResumeFile | None = None,
) -> BoxDetections:
    """Return what is found at all of the configuration's scales, by descending score.

    Boxes of one class from different scales suppress each other at ``config.nms_iou_threshold``.
    The arguments are those of `detect_scene`; each scale has a resume file of its own.
    """
    if list(config.scales) == [1.0]:
        return detect_scene(
            detect_windows, scene, config, show_progress=show_progress, resume=resume
        )
    parts, files = [], []
    for factor in config.scales:
        own = None
        if resume is not None:
            name = f"{resume.path.stem}_x{factor:g}{resume.path.suffix}"
            own = resume._replace(path=resume.path.with_name(name))
            files.append(own.path)
        view = scene if factor == 1 else ResizedScene(scene, factor)
        found = detect_scene(detect_windows, view, config, show_progress=show_progress, resume=own)
        parts.append(found if factor == 1 else _to_picture(found, view))
    merged = merge_scales(parts, iou_threshold=config.nms_iou_threshold)
    for path in files:
        Path(path).unlink(missing_ok=True)
    return merged


def _to_picture(found: BoxDetections, view: Scene) -> BoxDetections:
    """Return boxes of a resized picture in pixels of the picture itself."""
    assert isinstance(view, ResizedScene)
    factor_x, factor_y = view.factors_xy
    factors = np.array([factor_x, factor_y, *[np.sqrt(factor_x * factor_y)] * 2, 1.0])
    return BoxDetections(found.boxes / factors, found.scores, found.class_ids)


def merge_scales(parts: Sequence[BoxDetections], *, iou_threshold: float) -> BoxDetections:
    """Return the best of overlapping boxes of one class, by descending score."""
    found = concatenate_boxes(parts)
    keep = batched_nms_rotated(
        torch.from_numpy(np.asarray(found.boxes, np.float64)),
        torch.from_numpy(np.asarray(found.scores, np.float64)),
        torch.from_numpy(np.asarray(found.class_ids, np.int64)),
        iou_threshold,
    )
    return found.select(keep.numpy())
