"""The page as text: complete, safe to open, within its budget."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.report.gallery import find_image_files, pack_pictures
from tcm_d2.report.page import build_page, page_data
from tests.report.scene import IMAGE_IDS, analyze_scene, write_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene"))


def pictures_of(scene: Path, **options):
    files = find_image_files(scene / "images", IMAGE_IDS)
    chosen = [(index, files[image_id]) for index, image_id in enumerate(IMAGE_IDS)]
    return pack_pictures(chosen, **{"max_bytes": 10**6, **options})


def decode(uri: str) -> np.ndarray:
    packed = base64.b64decode(uri.split(",", 1)[1])
    return cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR)


def test_page_refers_to_nothing_outside(scene: Path) -> None:
    page = build_page(analyze_scene(scene), pictures_of(scene), title="A report")
    assert "{{" not in re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)
    addresses = set(re.findall(r"https?://[^\"'\s)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)", page)
    assert "connect-src" not in page and "default-src 'none'" in page
    assert page.isascii()


def test_names_cannot_break_out(scene: Path) -> None:
    title = "</title><script>alert(1)</script>{{DATA}}"
    page = build_page(
        analyze_scene(scene), [], title=title, facts=[("x", "</script><b>{{SCRIPT}}")]
    )
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert data is not None
    assert json.loads(data[1])["facts"] == [["x", "</script><b>{{SCRIPT}}"]]
    assert json.loads(data[1])["title"] == title


def test_data_leave_out_low_scores_and_keep_outcomes(scene: Path) -> None:
    data = page_data(analyze_scene(scene), pictures_of(scene), min_score=0.3)
    first = data["images"][0]
    assert (first["id"], first["w"], first["h"]) == ("P1", 240, 200)
    assert first["det"]["score"] == [0.9, 0.8, 0.55, 0.35]
    assert first["det"]["outcome"] == [0, 1, 0, 0]
    assert first["gt"]["found"] == [0.9, 0.35, 0.55]
    assert first["gt"]["quads"][0] == [30.0, 30.0, 50.0, 30.0, 50.0, 50.0, 30.0, 50.0]
    assert data["classes"][2]["ap"] is None and data["classes"][2]["curve"]["recall"] == []
    json.dumps(data, allow_nan=False)


def test_score_maps_are_packed(scene: Path) -> None:
    maps = np.zeros((3, 7, 8))
    maps[2, 3, 4] = 1.0
    pictures = pictures_of(scene, score_maps={1: maps})
    assert pictures[0].score_maps is None
    entry = page_data(analyze_scene(scene), pictures, min_score=0.05)["images"][1]["maps"]
    assert (entry["n"], entry["h"], entry["w"]) == (3, 7, 8)
    packed = np.frombuffer(base64.b64decode(entry["bytes"]), np.uint8).reshape(3, 7, 8)
    assert packed[2, 3, 4] == 255 and packed.sum() == 255


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_pictures_shrink_to_the_budget(tmp_path: Path, image_format) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "A.png"), noise)
    (large,) = pack_pictures([(0, tmp_path / "A.png")], max_bytes=10**8, image_format=image_format)
    (small,) = pack_pictures(
        [(0, tmp_path / "A.png")], max_bytes=400_000, image_format=image_format
    )
    assert large.size_hw == small.size_hw == (900, 1200)
    assert decode(large.uri).shape == (900, 1200, 3)
    assert decode(small.uri).shape[1] < 1200 and len(small.uri) <= 400_000


def test_pictures_without_room_are_dropped_aloud(scene: Path, caplog) -> None:
    one = len(pictures_of(scene)[0].uri)
    assert len(pictures_of(scene, max_bytes=int(1.5 * one))) == 1
    assert "1 of 3 pictures" in caplog.text
    with pytest.raises(ValueError, match="max_bytes: 10 has no room"):
        pictures_of(scene, max_bytes=10)


def test_bad_arguments_are_named(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_format"):
        pictures_of(scene, image_format="gif")
    with pytest.raises(FileNotFoundError, match="no image is named after a label file"):
        find_image_files(tmp_path, IMAGE_IDS)
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        find_image_files(tmp_path / "nowhere", IMAGE_IDS)
    with pytest.raises(ValueError, match="min_score"):
        build_page(analyze_scene(scene), [], title="x", score_threshold=0.1, min_score=0.2)
