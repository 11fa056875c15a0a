"""Pictures: outlines where they belong, stable colours, crowds, small images, bad input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tcm_d2.visualize import class_color
from tcm_d2.visualize.draw import (
    draw_boxes,
    draw_comparison,
    draw_score_map,
    make_contact_sheet,
    match_boxes,
    save_image,
)
from tcm_d2.visualize.palette import FALSE_COLOR, HIT_COLOR, MISSED_COLOR

NAMES = ("plane", "ship", "small-vehicle")
GRAY = 90


def gray_image(height: int = 200, width: int = 240) -> np.ndarray:
    """Return a plain picture."""
    return np.full((height, width, 3), GRAY, np.uint8)


def has_color(image: np.ndarray, color, *, tolerance: int = 40) -> np.ndarray:
    """Return the pixels (H, W) close to a colour."""
    return np.abs(image.astype(int) - np.array(color)).max(2) < tolerance


class TestDrawBoxes:
    def test_outline_lies_on_the_box_and_nowhere_else(self):
        box = torch.tensor([[120.0, 100.0, 80.0, 40.0, 30.0]])
        out = draw_boxes(gray_image(), box, line_width_px=1)
        changed = (out != GRAY).any(2)
        rows, columns = np.nonzero(changed)
        offset = np.stack([columns + 0.5 - 120, rows + 0.5 - 100], 1)
        turn = np.radians(30.0)
        along = np.abs(offset @ [np.cos(turn), -np.sin(turn)])
        across = np.abs(offset @ [np.sin(turn), np.cos(turn)])
        on_edge = (np.abs(along - 40) < 1.6) | (np.abs(across - 20) < 1.6)
        assert on_edge.all()
        assert along.max() < 41.6 and across.max() < 21.6
        assert changed.sum() > 200  # the whole way round: perimeter 240

    def test_angle_is_counter_clockwise(self):
        out = draw_boxes(gray_image(), np.array([[120.0, 100.0, 160.0, 4.0, 45.0]]))
        changed = (out != GRAY).any(2)
        assert changed[60:80, 150:170].any()  # up right
        assert not changed[120:140, 150:170].any()  # down right

    def test_input_is_not_changed(self):
        image = gray_image()
        before = image.copy()
        boxes = torch.tensor([[120.0, 100.0, 80.0, 40.0, 30.0]])
        draw_boxes(image, boxes, labels=[1], class_names=NAMES, scores=[0.5])
        draw_comparison(image, boxes, [0], boxes, [0], [0.9], class_names=NAMES)
        draw_score_map(image, np.eye(4))
        np.testing.assert_array_equal(image, before)

    @pytest.mark.parametrize("boxes", [np.zeros((0, 5)), torch.zeros(0, 5), []])
    def test_no_boxes_give_a_copy(self, boxes):
        image = gray_image()
        out = draw_boxes(image, boxes, labels=[], class_names=NAMES, scores=[])
        np.testing.assert_array_equal(out, image)
        assert out is not image

    def test_class_colours_depend_on_the_class_only(self):
        box = np.array([[120.0, 100.0, 80.0, 40.0, 0.0]])
        alone = draw_boxes(gray_image(), box, labels=[2], label_mode="never", line_width_px=2)
        both = draw_boxes(
            gray_image(),
            np.concatenate([box, box + [0, 60, 0, 0, 0]]),
            labels=[2, 0],
            label_mode="never",
            line_width_px=2,
        )
        np.testing.assert_array_equal(alone[:130], both[:130])
        assert has_color(alone, class_color(2)).sum() > 150

    def test_class_colours_differ(self):
        colors = np.array([class_color(index) for index in range(18)])
        distance = np.abs(colors[:, None] - colors[None]).max(2) + 1000 * np.eye(18)
        assert distance.min() > 30
        assert len({class_color(index) for index in range(60)}) > 55

    def test_label_is_written_beside_the_box_with_its_colour(self):
        box = np.array([[120.0, 120.0, 60.0, 40.0, 0.0]])
        plain = draw_boxes(gray_image(), box, labels=[1], label_mode="never")
        out = draw_boxes(gray_image(), box, labels=[1], class_names=NAMES, scores=[0.87])
        tag = (out != plain).any(2)
        rows = np.nonzero(tag)[0]
        assert len(rows) > 100
        assert rows.max() < 100  # above the box, which starts at row 100
        assert has_color(out[rows.min() : rows.max()], class_color(1)).sum() > 100

    def test_crowd_gets_a_legend_and_keeps_its_objects_visible(self):
        xs, ys = np.meshgrid(np.arange(20, 980, 24), np.arange(20, 980, 14))
        boxes = np.stack(
            [xs.ravel(), ys.ravel(), np.full(xs.size, 20), np.full(xs.size, 10), 0 * xs.ravel()], 1
        ).astype(float)
        image = gray_image(1000, 1000)
        out = draw_boxes(image, boxes, labels=np.ones(len(boxes)), class_names=NAMES)
        quiet = draw_boxes(image, boxes, labels=np.ones(len(boxes)), label_mode="never")
        differing = (out != quiet).any(2)
        rows, columns = np.nonzero(differing)
        assert len(rows)  # the legend
        assert np.ptp(rows) < 120 and np.ptp(columns) < 250
        assert differing.mean() < 0.03

    def test_always_writes_every_label(self):
        boxes = np.tile([[120.0, 100.0, 60.0, 40.0, 0.0]], (9, 1))
        auto = draw_boxes(gray_image(), boxes, labels=[0] * 9, class_names=NAMES, legend=False)
        always = draw_boxes(
            gray_image(), boxes, labels=[0] * 9, class_names=NAMES, label_mode="always"
        )
        assert (always != auto).any()

    @pytest.mark.parametrize("size_hw", [(1, 1), (4, 9), (12, 300), (24, 24)])
    def test_images_smaller_than_a_label(self, size_hw):
        image = gray_image(*size_hw)
        boxes = np.array([[2.0, 2.0, 3.0, 2.0, 10.0], [8.0, 5.0, 30.0, 20.0, 80.0]])
        for mode in ("auto", "always", "never"):
            out = draw_boxes(
                image, boxes, labels=[0, 1], class_names=NAMES, label_mode=mode, legend=True
            )
            assert out.shape == image.shape and out.dtype == np.uint8

    def test_boxes_far_outside_and_not_finite_are_harmless(self):
        boxes = np.array(
            [[1e9, -1e9, 1e9, 10.0, 3.0], [np.nan, 5, 5, 5, 0], [60.0, 60.0, 20.0, 10.0, 0.0]]
        )
        out = draw_boxes(gray_image(), boxes, labels=[0, 0, 0], class_names=NAMES)
        assert (out[50:72, 45:75] != GRAY).any()

    def test_headings_mark_the_front(self):
        box = np.array([[120.0, 100.0, 80.0, 40.0, 0.0]])
        plain, marked = draw_boxes(gray_image(), box), draw_boxes(gray_image(), box, headings=True)
        rows, columns = np.nonzero((plain != marked).any(2))
        assert columns.min() >= 118 and abs(rows - 100).max() <= 2

    def test_line_width_grows_with_the_image(self):
        box = np.array([[1000.0, 1000.0, 600.0, 400.0, 0.0]])
        thin = draw_boxes(gray_image(2000, 2000), box, line_width_px=1)
        auto = draw_boxes(gray_image(2000, 2000), box)
        assert (auto != GRAY).sum() > 2 * (thin != GRAY).sum()

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"image_rgb": np.zeros((9, 9, 3), np.float32)}, TypeError, "uint8"),
            ({"image_rgb": torch.zeros(9, 9, 3, dtype=torch.uint8)}, TypeError, "uint8"),
            ({"image_rgb": np.zeros((9, 9), np.uint8)}, ValueError, "H, W, 3"),
            ({"image_rgb": np.zeros((3, 9, 9), np.uint8)}, ValueError, "H, W, 3"),
            ({"image_rgb": np.zeros((0, 9, 3), np.uint8)}, ValueError, "H, W, 3"),
            ({"boxes": np.ones((2, 4))}, ValueError, "boxes: expected shape"),
            ({"boxes": np.ones(5)}, ValueError, "boxes: expected shape"),
            ({"labels": [0]}, ValueError, "labels: expected shape"),
            ({"labels": [0, 3]}, ValueError, r"labels: .*0\.\.2"),
            ({"labels": [0, -1]}, ValueError, "labels"),
            ({"scores": [0.5]}, ValueError, "scores"),
            ({"colors": [(1, 2, 3)]}, ValueError, "colors"),
            ({"label_mode": "sometimes"}, ValueError, "label_mode"),
            ({"line_width_px": 0}, ValueError, "line_width_px"),
        ],
    )
    def test_bad_input_is_named(self, change, error, message):
        arguments = {
            "image_rgb": gray_image(),
            "boxes": np.full((2, 5), 50.0),
            "labels": [0, 1],
            "class_names": NAMES,
            **change,
        }
        with pytest.raises(error, match=message):
            draw_boxes(arguments.pop("image_rgb"), arguments.pop("boxes"), **arguments)


class TestComparison:
    GT = np.array(
        [[40.0, 40.0, 40.0, 20.0, 0.0], [140.0, 40.0, 40.0, 20.0, 0.0], [40.0, 150.0, 40, 20, 0]]
    )

    def test_matching_follows_the_metric(self):
        pred = np.array(
            [
                [41.0, 40.0, 40.0, 20.0, 0.0],  # second on the first ground truth: false
                [40.0, 40.0, 40.0, 20.0, 0.0],  # hit
                [140.0, 40.0, 40.0, 20.0, 0.0],  # right place, wrong class: false
                [40.0, 150.0, 40.0, 20.0, 0.0],  # difficult: ignored
                [200.0, 150.0, 40.0, 20.0, 0.0],  # nothing there: false
            ]
        )
        outcome = match_boxes(
            self.GT,
            [0, 1, 2],
            pred,
            [0, 0, 2, 2, 0],
            [0.8, 0.9, 0.9, 0.9, 0.9],
            gt_difficult=[False, False, True],
        )
        assert outcome.is_hit.tolist() == [False, True, False, False, False]
        assert outcome.is_ignored.tolist() == [False, False, False, True, False]
        assert outcome.is_found.tolist() == [True, False, False]

    def test_iou_must_exceed_the_threshold(self):
        # Shifted by a third of the length: IoU exactly 0.5.
        gt = np.array([[60.0, 60.0, 60.0, 20.0, 0.0]])
        pred = np.array([[80.0, 60.0, 60.0, 20.0, 0.0]])
        for threshold, expected in ((0.501, False), (0.499, True)):
            outcome = match_boxes(gt, [0], pred, [0], [1.0], iou_threshold=threshold)
            assert outcome.is_hit.tolist() == [expected]

    def test_colours_tell_hits_misses_and_false(self):
        pred = np.array([[40.0, 40.0, 40.0, 20.0, 0.0], [140.0, 150.0, 40.0, 20.0, 0.0]])
        out = draw_comparison(
            gray_image(),
            self.GT[:2],
            [0, 1],
            pred,
            [0, 0],
            [0.9, 0.8],
            class_names=NAMES,
            line_width_px=2,
            legend=False,
            label_mode="never",
        )
        assert has_color(out[25:55, 15:65], HIT_COLOR).sum() > 60
        assert has_color(out[25:55, 115:165], MISSED_COLOR).sum() > 30
        assert has_color(out[135:165, 115:165], FALSE_COLOR).sum() > 60
        assert not has_color(out[25:55, 15:65], MISSED_COLOR).any()

    def test_low_scores_are_left_out(self):
        out = draw_comparison(
            gray_image(),
            self.GT[:1],
            [0],
            self.GT[:1],
            [0],
            [0.2],
            score_threshold=0.3,
            line_width_px=2,
            legend=False,
            label_mode="never",
        )
        assert not has_color(out, HIT_COLOR).any()
        assert has_color(out, MISSED_COLOR).any()

    @pytest.mark.parametrize("num_gt", [0, 2])
    @pytest.mark.parametrize("num_pred", [0, 2])
    def test_empty_sides(self, num_gt: int, num_pred: int):
        out = draw_comparison(
            gray_image(),
            self.GT[:num_gt],
            [0, 1][:num_gt],
            torch.from_numpy(self.GT[:num_pred]).float(),
            torch.tensor([0, 1][:num_pred]),
            torch.tensor([0.9, 0.8][:num_pred]),
            class_names=NAMES,
        )
        assert out.shape == (200, 240, 3)

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match="gt_classes"):
            draw_comparison(gray_image(), self.GT, [0], self.GT, [0, 1, 2], [1, 1, 1])
        with pytest.raises(ValueError, match="pred_scores"):
            draw_comparison(gray_image(), self.GT, [0, 1, 2], self.GT, [0, 1, 2], [1.0])


class TestScoreMap:
    def test_brightest_where_the_score_is_highest(self):
        scores = np.zeros((5, 6), np.float32)
        scores[1, 4] = 3.0
        out = draw_score_map(gray_image(200, 240), torch.from_numpy(scores))
        assert out.shape == (200, 240, 3)
        row, column = np.unravel_index(out.sum(2).argmax(), out.shape[:2])
        assert 40 <= row < 80 and 160 <= column < 200

    def test_opacity_and_range(self):
        image = gray_image(8, 8)
        np.testing.assert_array_equal(draw_score_map(image, np.eye(2), opacity=0.0), image)
        fixed = draw_score_map(image, np.full((2, 2), 0.5), value_range=(0.0, 1.0))
        flat = draw_score_map(image, np.full((2, 2), 0.5))
        assert fixed.mean() > flat.mean()

    @pytest.mark.parametrize(
        "bad", [np.zeros((0, 3)), np.zeros(4), np.zeros((1, 2, 3)), np.full((2, 2), np.nan)]
    )
    def test_bad_maps_are_named(self, bad):
        with pytest.raises(ValueError, match="score_map_HW"):
            draw_score_map(gray_image(), bad)

    def test_bad_opacity(self):
        with pytest.raises(ValueError, match="opacity"):
            draw_score_map(gray_image(), np.eye(2), opacity=1.5)


class TestSheetsAndFiles:
    def test_tiles_and_captions(self):
        images = [gray_image(40, 80), gray_image(80, 40), gray_image(64, 64)]
        sheet = make_contact_sheet(images, columns=2, tile_width_px=64, gap_px=4)
        assert sheet.shape == (2 * 68 + 4, 2 * 68 + 4, 3)
        assert has_color(sheet, (GRAY,) * 3, tolerance=5).sum() == 64 * 32 * 2 + 64 * 64
        named = make_contact_sheet(
            images, columns=9, captions=["a", "b", "a caption far too long for its tile"],
            tile_width_px=64,
        )  # fmt: skip
        assert named.shape[1] == 3 * 70 + 6
        assert (named > 200).any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": []}, "images"),
            ({"columns": 0}, "columns"),
            ({"tile_width_px": 0}, "tile_width_px"),
            ({"captions": ["a", "b"]}, "captions"),
        ],
    )
    def test_bad_sheets_are_named(self, change, message):
        arguments = {"images": [gray_image()], "columns": 1, **change}
        with pytest.raises(ValueError, match=message):
            make_contact_sheet(arguments.pop("images"), **arguments)

    def test_files_hold_the_picture_in_rgb_order(self, tmp_path: Path):
        image = gray_image(16, 16)
        image[:, :8] = (250, 20, 10)
        path = tmp_path / "new" / "picture.png"
        save_image(path, image)
        np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image)
        save_image(tmp_path / "picture.JPG", image)
        assert cv2.imread(str(tmp_path / "picture.JPG"))[8, 2, 2] > 200
        assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [
            "picture.JPG",
            "picture.png",
        ]

    def test_other_endings_are_refused(self, tmp_path: Path):
        with pytest.raises(ValueError, match="ending"):
            save_image(tmp_path / "picture.gif", gray_image())


def test_in_a_crowd_only_rare_classes_and_false_boxes_get_names():
    """Names at some of many missed boxes would say nothing about the others."""
    places = [(x, y) for x in range(10, 230, 11) for y in range(30, 190, 9)]
    gt = np.array([[x, y, 9.0, 4.0, 20.0] for x, y in places])
    classes = [1] * len(gt)
    options = dict(class_names=NAMES, legend=False, line_width_px=1)
    empty = np.zeros((0, 5))
    plain = draw_comparison(gray_image(), gt, classes, empty, [], [], label_mode="never", **options)
    crowd = draw_comparison(gray_image(), gt, classes, empty, [], [], **options)
    np.testing.assert_array_equal(crowd, plain)
    single = np.array([[120.0, 12.0, 9.0, 4.0, 0.0]])
    named = draw_comparison(gray_image(), gt, classes, single, [0], [0.9], **options)
    assert has_color(named, FALSE_COLOR).sum() > 150
