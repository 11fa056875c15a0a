"""Windows of a scene: which, how much is in memory, and what an interruption leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tcm_d2.data.raster_reader.colors import UInt8Array
from tcm_d2.inference.large_image import ResumeFile, WindowConfig, detect_scene, make_windows
from tcm_d2.inference.rasters import ArrayScene, array_scene
from tcm_d2.structures.detections import BoxDetections
from tests.inference.small_run import find_bright_pieces

CONFIG = WindowConfig(
    window_px=64,
    overlap_px=32,
    batch_size=2,
    score_threshold=0.1,
    nms_iou_threshold=0.1,
    seam_rule="whole",
)


def _scene() -> ArrayScene:
    image = np.zeros((150, 170, 3), dtype=np.uint8)
    for number, (x, y) in enumerate([(5, 5), (60, 20), (100, 70), (20, 120), (140, 135)]):
        image[y : y + 12, x : x + 20] = 100 + 20 * number
    return array_scene(image, channel_order="RGB")


class _Model:
    """Counts the windows it sees; dies at one of them."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.num_seen, self.largest_batch, self.dies_at = 0, 0, dies_at

    def __call__(self, windows: Sequence[UInt8Array]) -> list[BoxDetections]:
        self.largest_batch = max(self.largest_batch, len(windows))
        self.num_seen += len(windows)
        if self.dies_at is not None and self.num_seen > self.dies_at:
            raise KeyboardInterrupt
        return find_bright_pieces(list(windows))


def test_windows_cover_the_picture_and_overlap() -> None:
    windows = make_windows((150, 170), CONFIG)
    seen = np.zeros((150, 170), dtype=int)
    for x1, y1, x2, y2 in windows.tolist():
        assert (x2 - x1, y2 - y1) == (64, 64) and 0 <= x1 and x2 <= 170 and 0 <= y1 and y2 <= 150
        seen[y1:y2, x1:x2] += 1
    assert seen.min() == 1 and len(windows) == 4 * 5
    # Row by row, as files are stored.
    assert (np.diff(windows[:, 1]) >= 0).all()
    assert make_windows((40, 170), CONFIG)[:, [1, 3]].tolist() == [[0, 40]] * 5
    assert make_windows((40, 50), CONFIG).tolist() == [[0, 0, 50, 40]]


def test_batches_are_of_the_size_asked_for() -> None:
    model = _Model()
    found = detect_scene(model, _scene(), CONFIG)
    assert model.num_seen == 20 and model.largest_batch == 2 and len(found.scores) == 5
    assert (np.diff(found.scores) <= 0).all()


def test_windows_without_data_are_not_looked_at() -> None:
    class _HalfEmpty(ArrayScene):
        def read(self, x1: int, y1: int, x2: int, y2: int) -> UInt8Array | None:
            return None if y1 < 60 else super().read(x1, y1, x2, y2)

    whole = _scene()
    scene = _HalfEmpty(whole.rgb)
    model = _Model()
    found = detect_scene(model, scene, CONFIG)
    assert model.num_seen == 10 and len(found.scores) == 3


def test_interruption_keeps_what_was_found_and_the_next_call_goes_on(tmp_path: Path) -> None:
    expected = detect_scene(_Model(), _scene(), CONFIG)
    resume = ResumeFile(tmp_path / "partial.npz", "scene and settings")
    with pytest.raises(KeyboardInterrupt):
        detect_scene(_Model(dies_at=10), _scene(), CONFIG, resume=resume)
    assert resume.path.is_file()
    again = _Model()
    found = detect_scene(again, _scene(), CONFIG, resume=resume)
    assert again.num_seen == 10
    for a, b in zip(vars(expected).values(), vars(found).values()):
        assert np.array_equal(a, b)
    # Another picture or other settings: from the start.
    other = _Model()
    detect_scene(other, _scene(), CONFIG, resume=resume._replace(fingerprint="other"))
    assert other.num_seen == 20
    resume.path.write_bytes(b"PK half a file")
    damaged = _Model()
    detect_scene(damaged, _scene(), CONFIG, resume=resume)
    assert damaged.num_seen == 20


def test_numbers_that_are_not_finite_are_left_out() -> None:
    def model(windows: Sequence[UInt8Array]) -> list[BoxDetections]:
        boxes = np.array([[10.0, 10, 8, 4, 0], [np.nan, 10, 8, 4, 0], [30, 10, np.inf, 4, 0]])
        return [BoxDetections(boxes, np.array([0.9, 0.9, 0.9]), np.array([0, 0, 0]))]

    scene = array_scene(np.zeros((64, 64, 3), np.uint8), channel_order="RGB")
    assert detect_scene(model, scene, CONFIG).boxes.tolist() == [[10, 10, 8, 4, 0]]


def test_reading_has_ended_when_an_error_comes_out() -> None:
    class _Slow(ArrayScene):
        is_reading = False

        def read(self, x1: int, y1: int, x2: int, y2: int) -> UInt8Array | None:
            self.is_reading = True
            time.sleep(0.05)
            self.is_reading = False
            return super().read(x1, y1, x2, y2)

    whole = _scene()
    scene = _Slow(whole.rgb)
    with pytest.raises(KeyboardInterrupt) as error:
        detect_scene(_Model(dies_at=0), scene, CONFIG)
    # The error still holds the frames; a file could be closed now all the same.
    assert error.traceback and not scene.is_reading
    time.sleep(0.1)
    assert not scene.is_reading
