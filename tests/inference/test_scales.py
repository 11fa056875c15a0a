"""A picture looked at several sizes: the same places, the best boxes, resumable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.inference.large_image import ResumeFile, WindowConfig
from tcm_d2.inference.rasters import array_scene
from tcm_d2.inference.scales import ResizedScene, detect_at_scales, merge_scales
from tcm_d2.structures.detections import BoxDetections

CONFIG = WindowConfig(
    window_px=96,
    overlap_px=32,
    batch_size=4,
    score_threshold=0.1,
    nms_iou_threshold=0.1,
    seam_rule="whole",
    scales=(0.5, 1.0, 2.0),
)


def picture_with_squares() -> np.ndarray:
    """A black picture of 260 x 250 px with white rectangles of 8, 24 and 80 px."""
    picture = np.zeros((250, 260, 3), np.uint8)
    for x, y, side in ((30, 40, 8), (122, 64, 24), (140, 130, 80)):
        picture[y : y + side, x : x + side] = 255
    return picture


def find_squares(windows, sizes=(12, 40)) -> list[BoxDetections]:
    """A detector that knows white squares with sides in a range, as trained ones know sizes."""
    found = []
    for window in windows:
        mask = (window[..., 0] > 127).astype(np.uint8)
        _, _, stats, centers = cv2.connectedComponentsWithStats(mask)
        boxes = [
            (cx + 0.5, cy + 0.5, width, height, 0.0)
            for (x, y, width, height, _), (cx, cy) in zip(stats[1:], centers[1:])
            if sizes[0] <= min(width, height) and max(width, height) <= sizes[1]
            if min(x, y) > 0 and x + width < mask.shape[1] and y + height < mask.shape[0]
        ]
        scores = np.full(len(boxes), 0.9)
        array = np.array(boxes, np.float64).reshape(-1, 5)
        found.append(BoxDetections(array, scores, np.zeros(len(boxes), np.int64)))
    return found


def test_each_size_is_found_at_its_scale_and_lies_where_it_is():
    scene = array_scene(picture_with_squares(), channel_order="RGB")
    single = detect_at_scales(find_squares, scene, replace(CONFIG, scales=(1.0,)))
    assert len(single) == 1
    found = detect_at_scales(find_squares, scene, CONFIG)
    boxes = found.boxes[np.argsort(found.boxes[:, 2])]
    np.testing.assert_allclose(boxes[:, :2], [(34, 44), (134, 76), (180, 170)], atol=0.6)
    np.testing.assert_allclose(boxes[:, 2], [8, 24, 80], atol=1.1)
    np.testing.assert_allclose(boxes[:, 3], [8, 24, 80], atol=1.1)


@pytest.mark.parametrize("factor", [0.5, 0.37, 1.6, 2.0])
def test_windows_of_a_resized_picture_are_cut_from_it_whole(factor: float):
    """A ramp is the same ramp in every window, within a grey value."""
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (160, 240, 3))
    view = ResizedScene(array_scene(np.ascontiguousarray(ramp), channel_order="RGB"), factor)
    height, width = view.size_hw
    assert (height, width) == (round(160 * factor), round(240 * factor))
    for x1, y1 in ((0, 0), (7, 3), (width - 40, height - 40)):
        window = view.read(x1, y1, x1 + 40, y1 + 40)
        assert window.shape == (40, 40, 3)
        expected = (np.arange(x1, x1 + 40) + 0.5) * 240 / width - 0.5
        inner = slice(2, -2)
        np.testing.assert_allclose(window[20, inner, 0], expected[inner], atol=1.1)


def test_scales_suppress_each_other_by_class():
    box = [50.0, 50, 20, 10, 30]
    parts = [
        BoxDetections(np.array([box]), np.array([score]), np.array([label]))
        for score, label in ((0.5, 0), (0.8, 0), (0.4, 1))
    ]
    merged = merge_scales(parts, iou_threshold=0.1)
    assert merged.scores.tolist() == [0.8, 0.4] and merged.class_ids.tolist() == [0, 1]


def test_an_interrupted_run_goes_on_and_leaves_no_files(tmp_path: Path):
    scene = array_scene(picture_with_squares(), channel_order="RGB")
    resume = ResumeFile(tmp_path / "p.npz", "a")
    calls = []

    def stops_late(windows):
        calls.append(len(windows))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return find_squares(windows)

    with pytest.raises(KeyboardInterrupt):
        detect_at_scales(stops_late, scene, CONFIG, resume=resume)
    assert list(tmp_path.iterdir())
    whole = detect_at_scales(find_squares, scene, CONFIG)
    again = detect_at_scales(find_squares, scene, CONFIG, resume=resume)
    np.testing.assert_array_equal(again.boxes, whole.boxes)
    assert not list(tmp_path.iterdir())


def test_bad_scales_are_named():
    for scales in ((), (0.0,), (-1.0, 1.0)):
        with pytest.raises(ValueError, match="scales: expected positive factors"):
            replace(CONFIG, scales=scales)
