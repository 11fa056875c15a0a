"""Patches to images: the shift, the scale, suppression per image and class, names, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tcm_d2.evaluation.merge import (
    concatenate_patch_detections,
    load_patch_detections,
    merge_patch_detections,
    merge_task1,
    parse_patch_name,
    save_patch_detections,
)
from tcm_d2.structures.detections import BoxDetections, PatchDetections
from tests.evaluation.shapes import class_rows, upright_quad


def one_patch(
    patch_id: str,
    image_id: str,
    boxes: list[list[float]],
    scores: list[float],
    *,
    class_ids: list[int] | None = None,
    origin_xy: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
) -> PatchDetections:
    return PatchDetections(
        [patch_id],
        [image_id],
        np.array([origin_xy], dtype=np.float64),
        np.array([scale], dtype=np.float64),
        np.zeros(len(scores), dtype=np.int64),
        BoxDetections(
            np.array(boxes, np.float32).reshape(-1, 5),
            np.array(scores, np.float32),
            np.array(class_ids or [0] * len(scores), np.int64),
        ),
    )


def test_boxes_move_by_origin_and_scale() -> None:
    patch = one_patch("a", "P1", [[10, 20, 8, 4, 30]], [0.5], origin_xy=(100, 200), scale=0.5)
    merged = merge_patch_detections(patch, iou_threshold=0.1)
    assert merged.found.boxes.dtype == np.float64
    assert merged.found.boxes.tolist() == [[220.0, 440.0, 16.0, 8.0, 30.0]]


def test_duplicates_of_the_overlap_are_suppressed_and_the_better_stays() -> None:
    left = one_patch("P1__0", "P1", [[900, 50, 40, 20, 0]], [0.6])
    right = one_patch("P1__1", "P1", [[76, 50, 40, 20, 0]], [0.8], origin_xy=(824, 0))
    merged = merge_patch_detections(concatenate_patch_detections([left, right]), iou_threshold=0.1)
    assert merged.found.boxes.tolist() == [[900, 50, 40, 20, 0]]
    assert merged.found.scores.tolist() == pytest.approx([0.8])


def test_classes_and_images_do_not_suppress_each_other() -> None:
    box = [50, 50, 40, 20, 0]
    parts = [
        one_patch("a", "P1", [box, box], [0.9, 0.8], class_ids=[0, 1]),
        one_patch("b", "P2", [box], [0.7]),
        one_patch("c", "P0", [], []),
    ]
    merged = merge_patch_detections(concatenate_patch_detections(parts), iou_threshold=0.1)
    assert merged.image_ids == ["P0", "P1", "P2"]
    assert merged.image_index.tolist() == [1, 1, 2]
    assert merged.found.class_ids.tolist() == [0, 1, 0]


def test_far_boxes_with_negative_centres_keep_their_precision() -> None:
    boxes = [[-0.02, 0, 0.1, 0.1, 0], [0.10, 0, 0.1, 0.1, 0]]
    patch = one_patch("a", "P1", boxes, [0.9, 0.8], origin_xy=(20000, 20000))
    merged = merge_patch_detections(patch, iou_threshold=0.1)
    assert len(merged.found.scores) == 2
    assert merged.found.boxes[:, 0].tolist() == pytest.approx([19999.98, 20000.10], abs=1e-6)


def test_result_does_not_depend_on_the_order_of_the_patches() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for index in range(6):
        boxes = np.concatenate(
            [
                rng.uniform(0, 100, (30, 2)),
                rng.uniform(5, 30, (30, 2)),
                rng.uniform(-90, 90, (30, 1)),
            ],
            axis=1,
        )
        # Scores of one decimal: many ties.
        scores = rng.integers(1, 10, 30) / 10
        parts.append(one_patch(f"p{index}", f"P{index % 2}", boxes.tolist(), scores.tolist()))
    first = merge_patch_detections(concatenate_patch_detections(parts), iou_threshold=0.1)
    second = merge_patch_detections(concatenate_patch_detections(parts[::-1]), iou_threshold=0.1)
    assert 0 < len(first.found.scores) < 180
    assert np.array_equal(first.found.boxes, second.found.boxes) and np.array_equal(
        first.found.scores, second.found.scores
    )


def test_a_patch_seen_twice_counts_once() -> None:
    patch = one_patch("a", "P1", [[10, 10, 5, 5, 0]], [0.5])
    other = one_patch("b", "P1", [[40, 10, 5, 5, 0]], [0.4])
    both = concatenate_patch_detections([patch, other, patch])
    assert both.patch_ids == ["a", "b"] and both.patch_index.tolist() == [0, 1]
    assert both.found.scores.tolist() == pytest.approx([0.5, 0.4])


def test_nothing_merges_to_nothing(tmp_path: Path) -> None:
    nothing = concatenate_patch_detections([])
    merged = merge_patch_detections(nothing, iou_threshold=0.1)
    assert merged.image_ids == [] and merged.found.boxes.shape == (0, 5)
    save_patch_detections(tmp_path / "none.npz", nothing)
    assert load_patch_detections(tmp_path / "none.npz").patch_ids == []


def test_scale_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match=r"patch_scale of patch 'a': expected .* got 0\.0"):
        merge_patch_detections(one_patch("a", "P1", [], [], scale=0.0), iou_threshold=0.1)


def test_saved_patches_are_loaded_again(tmp_path: Path) -> None:
    patch = one_patch("a", "P1", [[1, 2, 3, 2, 4]], [0.5], origin_xy=(7, 8), scale=0.5)
    save_patch_detections(tmp_path / "d.npz", patch)
    again = load_patch_detections(tmp_path / "d.npz")
    assert again.patch_ids == ["a"] and again.image_ids == ["P1"]
    assert again.origins_xy.tolist() == [[7.0, 8.0]] and again.scales.tolist() == [0.5]
    assert np.array_equal(again.found.boxes, patch.found.boxes)


def test_loading_refuses_pickles_and_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickle.npz", patch_ids=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="expected patch detections"):
        load_patch_detections(tmp_path / "pickle.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="expected patch detections"):
        load_patch_detections(tmp_path / "text.npz")


@pytest.mark.parametrize(
    ("name", "image_id", "origin_xy", "scale"),
    [
        ("P0706__1.0__311___382", "P0706", (311, 382), 1.0),
        ("P0706__0.5__311___382", "P0706", (311, 382), 0.5),
        ("P0001__1__824___0", "P0001", (824, 0), 1.0),
        ("P0001__2__824___0", "P0001", (824, 0), 2.0),
        ("P0001__1024__824___0", "P0001", (824, 0), 1.0),
        ("P0001__2048__824___0", "P0001", (824, 0), 1.0),
        ("my__scene__1024__0___5", "my__scene", (0, 5), 1.0),
    ],
)
def test_patch_names_are_parsed(
    name: str, image_id: str, origin_xy: tuple[float, float], scale: float
) -> None:
    assert parse_patch_name(name) == (image_id, origin_xy, scale)


def test_style_of_patch_names_can_be_forced() -> None:
    assert parse_patch_name("P1__2__0___0", style="size").scale == 1.0
    assert parse_patch_name("P1__32__0___0", style="rate").scale == 32.0
    with pytest.raises(ValueError, match="name_style: expected one of"):
        parse_patch_name("P1__2__0___0", style="guess")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["P0001", "P0001__1024__824", "P0001__x__0___0", "P1__0.0__0___0"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="patch name"):
        parse_patch_name(name)


def test_task1_rows_merge_as_quads() -> None:
    rows = class_rows(
        [
            ("P1__0.5__100___0", 0.6, upright_quad(0, 0, 20, 10)),
            ("P1__1.0__200___0", 0.9, upright_quad(0, 0, 40, 20)),
            ("P0__1.0__0___0", 0.1, upright_quad(0, 0, 40, 20)),
        ]
    )
    merged = merge_task1({"plane": rows}, iou_threshold=0.1)["plane"]
    assert merged.image_ids == ["P0", "P1"] and merged.scores.tolist() == [0.1, 0.9]
    assert merged.quads[1].tolist() == upright_quad(200, 0, 40, 20)
