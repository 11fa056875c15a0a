"""COCO files of many tools: masks, ids, boxes of five values, and what means nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.data.foreign_files import coco, quads, read

SQUARE = [10, 10, 30, 10, 30, 20, 10, 20]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco({"segmentation": [[float("nan"), *SQUARE[1:]]]}), "finite number in segmentation"),
        (coco({"segmentation": [SQUARE], "image_id": 7}), "image_id 7 is not among the images"),
        (coco({"segmentation": [SQUARE], "category_id": 9}), "category_id 9 is not among"),
        (coco({"segmentation": [SQUARE], "category_id": None}), "expected 'category_id'"),
        (coco({"segmentation": [["a"] * 8]}), "expected a finite number in segmentation, got 'a'"),
        (coco({"segmentation": [SQUARE[:7]]}), "expected pairs of x and y"),
        (coco({"segmentation": [[1, 1, 2, 2, 3, 3]]}), "polygon with an area"),
        (coco({"segmentation": [[1, 1, 2, 2, 3, 3, 4, 4]]}), "expected an area"),
        (coco({"segmentation": [[0, 0, 9, 9, 9, 0, 0, 9]]}), "the self-crossing 0 0 9 9"),
        (coco({"bbox": [1, 2, 0, 4]}), "expected x1 < x2 and y1 < y2"),
        (coco({"bbox": [1, 2, 3]}), "expected 4 numbers in bbox"),
        (coco({"bbox": [1, 2, 3, 4, 5]}), r"--bbox5 center .* corner .* detectron2"),
        (coco({}), "expected 'segmentation' or 'bbox'"),
        (coco({"segmentation": {"counts": "zz~", "size": [9, 9]}}), "run lengths"),
        (coco({"segmentation": {"counts": [80], "size": [9, 9]}}), "runs that fill 9 x 9"),
        (coco({"bbox": [1, 2, 3, 4], "iscrowd": "maybe"}), "0 or false in iscrowd"),
        (coco({"bbox": [1e300, 2, 3, 4]}), "expected"),
    ],
)
def test_coco_annotations_that_mean_nothing(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.json: annotation 1: .*{message}"):
        read(tmp_path, "a.json", content)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"categories": None}, "without categories"),
        ({"categories": [{"id": 1}]}, "category 1: expected a name"),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, "category id 1 is there twice"),
        ({"images": [{"id": 1}]}, "image 1: expected a file name"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}] * 2}, "image id 1 is there twice"),
        (
            {"images": [{"id": n, "file_name": f"{n}/a.jpg"} for n in (1, 2)]},
            "image 2: expected file names that differ in more than folder",
        ),
        ({"images": [{"id": 1, "file_name": ".."}]}, "image 1: file name: expected a path"),
        ({"images": [{"id": 1, "file_name": "a\0.jpg"}]}, "printable characters"),
    ],
)
def test_coco_parts_that_mean_nothing(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        read(tmp_path, "a.json", coco({"segmentation": [SQUARE]}, **parts), "coco")


def test_coco_files_of_other_tools_are_repaired_and_counted(tmp_path: Path) -> None:
    content = coco(
        [
            {"segmentation": SQUARE},  # no inner list
            {"segmentation": [SQUARE], "image_id": "1", "category_id": 1.0},
            {"segmentation": [SQUARE], "ignore": 1},
            {"segmentation": [[*SQUARE, 5, 15], [1, 2]]},
            {"segmentation": {"counts": [10, 3, 6, 3, 78], "size": [10, 10]}, "iscrowd": 1},
        ],
        images=[{"id": 1, "file_name": "JPEGImages\\0001.v2.jpg"}],
    )
    with pytest.raises(ValueError, match="read with /; not repaired because of --strict"):
        read(tmp_path, "a.json", content, strict=True)
    reading = read(tmp_path, "a.json", content)
    assert list(reading.images) == ["0001.v2"]
    assert reading.summary.repaired.counts == {
        "Windows separators": 1,
        "segmentation without inner list": 1,
        "polygon of fewer than three corners": 1,
    }
    assert [o.difficult for o in reading.images["0001.v2"].objects] == [0, 0, 1, 0, 1]
    assert reading.summary.kinds == {"turned": 3, "fitted": 2}
    # Down the columns of a 10 x 10 mask: rows 0 to 2 of column 1, row 9 of it, rows 0, 1 of 2.
    rectangle = cv2.minAreaRect(quads(reading)[-1].astype(np.float32))
    assert cv2.contourArea(cv2.boxPoints(rectangle)) == pytest.approx(20, rel=0.2)
    with pytest.raises(ValueError, match="--polygons rectangle takes the smallest"):
        read(tmp_path, "a.json", content, polygons="refuse")


@pytest.mark.parametrize(
    ("kind", "center", "angle"),
    [("center", (200, 140), 30), ("corner", (300, 160), 30), ("detectron2", (200, 140), -30)],
)
def test_bbox_of_five_values(
    tmp_path: Path, kind: str, center: tuple[int, int], angle: int
) -> None:
    content = coco({"bbox": [200, 140, 200, 40, 30]})
    found = quads(read(tmp_path, "a.json", content, bbox5=kind))[0]
    wanted = cv2.boxPoints((center, (200, 40), angle))  # clockwise on screen
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(wanted, axis=0), atol=1e-3)


def test_cocos_packed_run_lengths_are_those_of_pycocotools(tmp_path: Path) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for size in ((7, 9), (60, 80), (300, 200)):
        mask = np.zeros(size, dtype=np.uint8)
        corners = cv2.boxPoints(((size[1] / 2, size[0] / 2), (size[1] / 2, size[0] / 3), 20))
        cv2.fillConvexPoly(mask, corners.astype(np.int32), 1)
        mask |= (rng.random(size) < 0.001).astype(np.uint8)
        packed = mask_tools.encode(np.asfortranarray(mask))
        runs = np.diff(np.flatnonzero(np.diff(mask.T.reshape(-1), prepend=2, append=2)))
        counts = runs.tolist() if mask[0, 0] == 0 else [0, *runs.tolist()]
        results = [
            quads(read(tmp_path, "a.json", coco({"segmentation": {"size": list(size), **part}})))
            for part in ({"counts": packed["counts"].decode()}, {"counts": counts})
        ]
        np.testing.assert_array_equal(*results)
