"""Detections in the types of other libraries, and read back as annotations."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tcm_d2 import Detector
from tcm_d2.data.conversion import read_annotations
from tcm_d2.data.formats.reading import ReadOptions
from tcm_d2.data.raster_reader.geo_reference import GeoReference
from tcm_d2.inference.results import Detection, Detections
from tests.inference.small_run import ALL_SCORES, noise_image, write_run
from tests.inference.test_results import UTM


def _detections(**options: object) -> Detections:
    values = {
        "boxes": np.array([[50.0, 40, 20, 10, 0], [80, 60, 30, 10, -60], [20, 20, 9, 8, 10]]),
        "scores": np.array([0.9, 0.5, 0.4]),
        "class_ids": np.array([1, 0, 1]),
        "classes": ("plane", "ship"),
        "image_size_hw": (100, 200),
        "image_id": "P1",
        "path": "",
    }
    return Detections(**{**values, **options})  # type: ignore[arg-type]


def test_one_line_when_printed() -> None:
    """It printed every array."""
    assert str(_detections()) == "<P1, 200 x 100 px: 2 ship, 1 plane>"
    assert repr(_detections().above(0.99)) == "<P1, 200 x 100 px: nothing>"


def test_iteration_and_indices() -> None:
    found = _detections()
    assert [d.class_name for d in found] == ["ship", "plane", "ship"]
    first, last = found[0], found[-1]
    assert isinstance(first, Detection) and (first.class_name, first.score) == ("ship", 0.9)
    np.testing.assert_array_equal(first.box, found.boxes[0])
    np.testing.assert_array_equal(first.quad, found.quads[0])
    assert last.score == 0.4
    assert found[:2].scores.tolist() == [0.9, 0.5]
    assert found[found.class_ids == 1].scores.tolist() == [0.9, 0.4]
    assert found[[2, 0]].scores.tolist() == [0.4, 0.9]
    with pytest.raises(IndexError, match="detection 3: there are 3"):
        found[3]
    assert list(found.above(0.99)) == []


def test_annotations_are_read_back(tmp_path: Path) -> None:
    found = _detections()
    cv2.imwrite(str(tmp_path / "P1.png"), np.zeros((100, 200, 3), np.uint8))
    options = ReadOptions(
        image_paths={"P1": tmp_path / "P1.png"}, classes=dict(enumerate(found.classes))
    )
    for name, text in (
        ("yolo-obb", found.to_yolo()),
        ("labelme", json.dumps(found.to_labelme())),
        ("x-anylabeling", json.dumps(found.to_x_anylabeling())),
    ):
        path = tmp_path / name / ("P1.txt" if name == "yolo-obb" else "P1.json")
        path.parent.mkdir()
        path.write_text(text)
        (image,) = read_annotations(path, "auto", options).images.values()
        assert [o.class_name for o in image.objects] == found.class_names
        np.testing.assert_allclose(
            [o.quad for o in image.objects], found.quads.reshape(-1, 8), atol=1e-3
        )
    assert found.to_x_anylabeling()["shapes"][0]["score"] == 0.9
    assert found.to_labelme()["imagePath"] == "P1"


@pytest.mark.parametrize("name", ["supervision", "geopandas"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = builtins.__import__

    def refuse(module: str, *args: Any, **options: Any) -> Any:
        if module.split(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(module, *args, **options)

    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    method = {"supervision": "to_supervision", "geopandas": "to_geodataframe"}[name]
    with pytest.raises(ModuleNotFoundError, match=f"{method}: No module .*pip install {name}"):
        getattr(_detections(), method)()


def test_supervisions_annotator_draws_the_turned_boxes() -> None:
    sv = pytest.importorskip("supervision")
    found = _detections()
    theirs = found.to_supervision()
    assert len(theirs) == 3 and theirs["class_name"].tolist() == found.class_names
    np.testing.assert_allclose(theirs.xyxy, found.hboxes, atol=1e-4)
    scene = np.zeros((100, 200, 3), np.uint8)
    drawn = sv.OrientedBoxAnnotator(thickness=1).annotate(scene.copy(), theirs)
    for x, y in found.quads[1]:
        assert drawn[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].any()
    _, y1, x2, _ = (int(v) for v in found.hboxes[1])
    assert not drawn[y1 : y1 + 5, x2 - 5 : x2].any()  # that corner of the upright box is empty
    assert len(found.above(0.99).to_supervision()) == 0


def test_supervisions_slicer_moves_our_boxes(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    run_dir = write_run(tmp_path / "out")
    detector = Detector.from_pretrained(run_dir, device="cpu", score_threshold=ALL_SCORES)
    image = noise_image(64, 192)
    slicer = sv.InferenceSlicer(
        callback=lambda piece: detector(piece).to_supervision()[:3],
        slice_wh=(64, 64),
        overlap_wh=(0, 0),
        overlap_filter=sv.OverlapFilter.NONE,
    )
    found = slicer(image)
    expected = [detector(image[:, x : x + 64])[:3].quads + (x, 0) for x in (0, 64, 128)]
    got = found.data["xyxyxyxy"]
    order = np.lexsort(got.reshape(len(got), -1)[:, :2].T)
    wanted = np.concatenate(expected)
    np.testing.assert_allclose(
        got[order], wanted[np.lexsort(wanted.reshape(len(wanted), -1)[:, :2].T)], atol=0.01
    )


def test_geodataframe_in_each_system() -> None:
    geopandas = pytest.importorskip("geopandas")
    pixels = _detections().to_geodataframe()
    assert isinstance(pixels, geopandas.GeoDataFrame) and pixels.crs is None
    assert pixels["class"].tolist() == ["ship", "plane", "ship"]
    np.testing.assert_allclose(pixels.area, [200, 300, 72])
    there = _detections(geo=UTM).to_geodataframe()
    assert there.crs.to_epsg() == 32633
    np.testing.assert_allclose(there.area, np.array([200, 300, 72]) / 4)
    assert list(_detections().above(0.99).to_geodataframe().columns) == list(pixels.columns)
    rasterio_crs = pytest.importorskip("rasterio.crs")
    known = GeoReference("EPSG:32633", rasterio_crs.CRS.from_epsg(32633).to_wkt(), UTM.transform)
    lon_lat = _detections(geo=known).to_geodataframe(crs="wgs84")
    assert lon_lat.crs.to_epsg() == 4326
    np.testing.assert_allclose(lon_lat.to_crs(32633).area, there.area, rtol=1e-6)


def test_a_picture_that_is_turned_by_exif_is_annotated_as_tools_show_it(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "P1.jpg"
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(path, exif=exif)
    assert cv2.imread(str(path)).shape[:2] == (200, 100)
    tree = _detections(path=str(path)).to_labelme()
    assert (tree["imageHeight"], tree["imageWidth"]) == (200, 100)
