"""Detect in pictures of any size: overlapping windows, read on the fly, merged across the seams.

Memory is that of a batch of windows, of a row of windows of the file (its blocks), and of what was
found; it does not grow with the picture's height, and with its width only through that row.

Letters: M detections, W windows.
"""

from __future__ import annotations

import io
import logging
import time
import zipfile
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from tcm_d2.data.dota.windows import window_starts
from tcm_d2.data.raster_reader.colors import UInt8Array
from tcm_d2.files import write_bytes_atomically
from tcm_d2.inference.rasters import Scene
from tcm_d2.inference.seams import SEAM_RULES, SeamRule, merge_windows
from tcm_d2.structures.angles import canonicalize_boxes
from tcm_d2.structures.arrays import IntArray
from tcm_d2.structures.detections import BoxDetections, concatenate_boxes

logger = logging.getLogger(__name__)

# Seconds between two savings of what was found so far.
SAVE_EVERY_S = 20.0


# Windows RGB (h, w, 3) uint8 of one size -> detections of each.
DetectWindows = Callable[[Sequence[UInt8Array]], list[BoxDetections]]


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a picture is cut, and its detections put together.

    Attributes:
        window_px: side of the square windows.
        overlap_px: of neighbouring windows; should exceed the longest object, which some window
            then holds whole.
        batch_size: windows that the model sees at once.
        score_threshold: lower scores are left out.
        nms_iou_threshold: IoU above which a box is dropped for a better one.
        seam_rule: see `tcm_d2.inference.seams`.
        scales: factors on the sides of the picture at which it is looked at; see
            `tcm_d2.inference.scales`.
    """

    window_px: int
    overlap_px: int
    batch_size: int
    score_threshold: float
    nms_iou_threshold: float
    seam_rule: SeamRule
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Raise ValueError for values that do not fit."""
        if self.window_px < 32:
            raise ValueError(f"window_px: expected at least 32, got {self.window_px}")
        if not 0 <= self.overlap_px < self.window_px:
            raise ValueError(
                f"overlap_px: expected from 0 to less than the window ({self.window_px}), got "
                f"{self.overlap_px}"
            )
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size}")
        if not 0 <= self.score_threshold < 1:
            raise ValueError(f"score_threshold: expected 0..1, got {self.score_threshold}")
        if not self.scales or not min(self.scales) > 0:
            raise ValueError(f"scales: expected positive factors, got {list(self.scales)}")
        if self.seam_rule not in SEAM_RULES:
            raise ValueError(f"seam_rule: expected one of {SEAM_RULES}, got {self.seam_rule!r}")


class ResumeFile(NamedTuple):
    """Where what was found so far is kept.

    Attributes:
        path: of the file; removed by whoever has written the final results.
        fingerprint: of picture and settings; a file with another one is not used.
    """

    path: Path
    fingerprint: str


class _Progress(NamedTuple):
    """Detections of the first ``num_done`` windows, in pixels of the picture."""

    num_done: int
    found: BoxDetections
    window_index: IntArray


def detect_scene(
    detect_windows: DetectWindows,
    scene: Scene,
    config: WindowConfig,
    *,
    show_progress: bool = False,
    resume: ResumeFile | None = None,
) -> BoxDetections:
    """Return what is found in a picture's windows, merged, by descending score, in its pixels.

    The next windows are read while the model works. An interruption of any kind leaves what was
    found so far in the resume file, and the next call goes on from there.

    Args:
        detect_windows: the model; a window is one that `Scene.read` returns.
        scene: the picture.
        config: windows and thresholds.
        show_progress: a bar with the time left, on standard error.
        resume: None keeps nothing.

    Raises:
        BadImageError: the file is damaged.
    """
    windows = make_windows(scene.size_hw, config)
    scene.plan_windows((int(windows[0, 3] - windows[0, 1]), int(windows[0, 2] - windows[0, 0])))
    parts = [_load(resume)] if resume is not None else []
    num_done = parts[0].num_done if parts else 0
    last_saved = time.monotonic()
    bar = tqdm(
        total=len(windows),
        initial=num_done,
        desc=Path(scene.name).name,
        unit="window",
        disable=not show_progress,
        leave=False,
    )
    # Closed here whatever happens: the reading thread must not outlive the open file.
    reader = closing(_read_ahead(scene, windows, num_done, config.batch_size))
    try:
        with bar, reader as batches:
            for batch_windows, pictures in batches:
                parts.append(
                    _detect_batch(
                        detect_windows,
                        batch_windows,
                        pictures,
                        first_window=num_done,
                        score_threshold=config.score_threshold,
                    )
                )
                num_done += len(batch_windows)
                bar.update(len(batch_windows))
                if resume is not None and time.monotonic() - last_saved > SAVE_EVERY_S:
                    parts = [_join(parts)]
                    _save(resume, parts[0])
                    last_saved = time.monotonic()
    except BaseException:
        if resume is not None and num_done:
            _save(resume, _join(parts))
        raise
    everything = _join(parts)
    report = merge_windows(
        everything.found,
        window_index=everything.window_index,
        windows=windows,
        image_size_hw=scene.size_hw,
        iou_threshold=config.nms_iou_threshold,
        rule=config.seam_rule,
    )
    # Scores of doubted detections have fallen.
    keep = report.keep[report.scores >= config.score_threshold]
    found = everything.found.select(keep)
    boxes = canonicalize_boxes(torch.from_numpy(found.boxes)).numpy()
    return BoxDetections(boxes, report.scores[: len(keep)], found.class_ids)


def make_windows(size_hw: tuple[int, int], config: WindowConfig) -> IntArray:
    """Return the windows (W, 4) x1, y1, x2, y2 of a picture, row by row, all of one size.

    A picture smaller than the window, in one direction or both, gives smaller ones.
    """
    height, width = size_hw
    starts_x = window_starts(width, config.window_px, config.overlap_px)
    starts_y = window_starts(height, config.window_px, config.overlap_px)
    window_w, window_h = min(config.window_px, width), min(config.window_px, height)
    y, x = np.meshgrid(starts_y, starts_x, indexing="ij")
    top_left = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.int64)
    return np.concatenate([top_left, top_left + [window_w, window_h]], axis=1)


def _read_ahead(
    scene: Scene, windows: IntArray, first: int, batch_size: int
) -> Generator[tuple[IntArray, list[UInt8Array | None]], None, None]:
    """Yield batches of windows with their pictures; a thread reads one batch ahead."""

    def read(start: int) -> list[UInt8Array | None]:
        return [scene.read(*window) for window in windows[start : start + batch_size].tolist()]

    with ThreadPoolExecutor(max_workers=1) as reader:
        starts = range(first, len(windows), batch_size)
        future = reader.submit(read, first) if len(starts) else None
        for start in starts:
            assert future is not None
            pictures = future.result()
            if start + batch_size < len(windows):
                future = reader.submit(read, start + batch_size)
            yield windows[start : start + batch_size], pictures


def _detect_batch(
    detect_windows: DetectWindows,
    windows: IntArray,
    pictures: Sequence[UInt8Array | None],
    *,
    first_window: int,
    score_threshold: float,
) -> _Progress:
    """Return what is found in some windows; those without data (None) are not looked at."""
    seen = [index for index, picture in enumerate(pictures) if picture is not None]
    shown = [picture for picture in pictures if picture is not None]
    parts = [_nothing(first_window + len(windows))]
    for index, one in zip(seen, detect_windows(shown) if shown else []):
        kept = one.select(np.isfinite(one.boxes).all(axis=1) & (one.scores >= score_threshold))
        boxes = kept.boxes.astype(np.float64)
        boxes[:, :2] += windows[index, :2]
        found = BoxDetections(boxes, kept.scores.astype(np.float64), kept.class_ids)
        window_index = np.full(len(found), first_window + index, dtype=np.int64)
        parts.append(_Progress(0, found, window_index))
    return _join(parts)


def _nothing(num_done: int) -> _Progress:
    no_ids = np.empty(0, dtype=np.int64)
    return _Progress(num_done, BoxDetections(np.empty((0, 5)), np.empty(0), no_ids), no_ids)


def _join(parts: Sequence[_Progress]) -> _Progress:
    return _Progress(
        max(part.num_done for part in parts),
        concatenate_boxes([part.found for part in parts]),
        np.concatenate([part.window_index for part in parts]),
    )


def _save(resume: ResumeFile, progress: _Progress) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        fingerprint=np.array(resume.fingerprint),
        num_done=progress.num_done,
        boxes=progress.found.boxes,
        scores=progress.found.scores,
        class_ids=progress.found.class_ids,
        window_index=progress.window_index,
    )
    resume.path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(resume.path, buffer.getvalue())


def _load(resume: ResumeFile) -> _Progress:
    """Return what a file of an earlier run holds; nothing if it is another run's or unreadable."""
    try:
        with np.load(resume.path, allow_pickle=False) as arrays:
            if str(arrays["fingerprint"]) != resume.fingerprint:
                logger.info("%s: of another picture or other settings, not used", resume.path)
                return _nothing(0)
            progress = _Progress(
                int(arrays["num_done"]),
                BoxDetections(arrays["boxes"], arrays["scores"], arrays["class_ids"]),
                arrays["window_index"],
            )
    except FileNotFoundError:
        return _nothing(0)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s: cannot be read (%s), starting anew", resume.path, error)
        return _nothing(0)
    logger.info("%s: going on after %d windows", resume.path, progress.num_done)
    return progress
