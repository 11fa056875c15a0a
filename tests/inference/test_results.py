"""Detections in the forms of others."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.raster_reader.geo_reference import GeoReference
from tcm_d2.inference.results import Detections

UTM = GeoReference("EPSG:32633", "", (0.5, 0.0, 400000.0, 0.0, -0.5, 5600000.0))


def _detections(**options: object) -> Detections:
    values = {
        "boxes": np.array([[50.0, 40, 20, 10, 0], [80, 60, 30, 10, 90 - 180]]),
        "scores": np.array([0.9, 0.4]),
        "class_ids": np.array([1, 0]),
        "classes": ("plane", "large vehicle"),
        "image_size_hw": (100, 200),
        "image_id": "P1",
    }
    return Detections(**{**values, **options})  # type: ignore[arg-type]


def test_quads_names_and_selection() -> None:
    found = _detections()
    assert found.class_names == ["large vehicle", "plane"] and len(found) == 2
    assert sorted(map(tuple, found.quads[0].tolist())) == [(40, 35), (40, 45), (60, 35), (60, 45)]
    np.testing.assert_allclose(found.hboxes[1], [75, 45, 85, 75], atol=1e-9)
    assert found.above(0.5).class_names == ["large vehicle"]
    assert found.select(np.array([1, 0])).scores.tolist() == [0.4, 0.9]
    assert len(found.above(0.99)) == 0 and found.above(0.99).quads.shape == (0, 4, 2)


def test_dota_rows_are_read_by_our_reader(tmp_path) -> None:
    path = tmp_path / "P1.txt"
    path.write_text(_detections().to_dota())
    label = read_label(path)
    assert [o.class_name for o in label.objects] == ["large-vehicle", "plane"]
    np.testing.assert_allclose(
        [o.quad for o in label.objects], _detections().quads.reshape(-1, 8), atol=0.006
    )
    rows = _detections().to_task1()
    assert list(rows) == ["plane", "large-vehicle"]
    assert rows["plane"].image_ids == ["P1"] and rows["plane"].scores.tolist() == [0.4]


def test_geojson_in_pixels_and_in_the_pictures_system() -> None:
    plain = _detections().to_geojson()
    json.dumps(plain)
    ring = np.array(plain["features"][0]["geometry"]["coordinates"][0])
    assert plain["coordinates"] == "pixels, y down" and "crs" not in plain
    assert ring.shape == (5, 2) and (ring[0] == ring[-1]).all()
    assert plain["features"][0]["properties"]["class"] == "large vehicle"

    there = _detections(geo=UTM).to_geojson()
    assert there["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    ring = np.array(there["features"][0]["geometry"]["coordinates"][0])
    corners = {(400020, 5599982.5), (400020, 5599977.5), (400030, 5599982.5), (400030, 5599977.5)}
    assert set(map(tuple, ring)) == corners
    # RFC 7946: outer rings run counter-clockwise.
    x, y = ring[:-1].T
    assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0


def test_geojson_in_longitude_and_latitude() -> None:
    crs = pytest.importorskip("rasterio.crs")
    geo = GeoReference("EPSG:32633", crs.CRS.from_epsg(32633).to_wkt(), UTM.transform)
    found = _detections(geo=geo).to_geojson(crs="wgs84")
    ring = np.array(found["features"][0]["geometry"]["coordinates"][0])
    # UTM zone 33 is centred on 15 degrees east; 400 km is 100 km west of it.
    assert "crs" not in found
    assert ((ring[:, 0] > 13.5) & (ring[:, 0] < 13.7)).all()
    assert ((ring[:, 1] > 50.5) & (ring[:, 1] < 50.6)).all()
    assert found["features"][0]["properties"]["box_px"] == [50, 40, 20, 10, 0]
    with pytest.raises(ValueError, match="P1 has no coordinate reference system"):
        _detections().to_geojson(crs="wgs84")
    with pytest.raises(ValueError, match="expected 'image' or 'wgs84', got 'utm'"):
        _detections().to_geojson(crs="utm")  # type: ignore[arg-type]


def test_coco_is_consistent() -> None:
    tree = _detections(path="a/P1.png").to_coco(image_number=7, first_annotation=100)
    json.dumps(tree)
    assert [a["id"] for a in tree["annotations"]] == [100, 101]
    assert {a["image_id"] for a in tree["annotations"]} == {tree["images"][0]["id"]} == {7}
    names = {c["id"]: c["name"] for c in tree["categories"]}
    first = tree["annotations"][0]
    assert names[first["category_id"]] == "large vehicle" and first["area"] == 200
    assert first["bbox"] == [40, 35, 20, 10] and len(first["segmentation"][0]) == 8


@pytest.mark.parametrize("geo", [None, UTM])
def test_plain_values_come_back(geo: GeoReference | None) -> None:
    found = _detections(geo=geo, path="P1.png", read_options={"bands": [3, 2, 1]})
    again = Detections.from_dict(json.loads(json.dumps(found.to_dict())))
    assert np.array_equal(again.boxes, found.boxes) and again.geo == geo
    assert again.class_names == found.class_names and again.read_options == found.read_options
    with pytest.raises(ValueError, match="expected what to_dict gives, got KeyError"):
        Detections.from_dict({"classes": []})


def test_drawing_scales_with_the_picture() -> None:
    found = _detections()
    small = np.zeros((50, 100, 3), np.uint8)
    picture = found.draw(small, label_mode="never", legend=False)
    ys, xs = np.nonzero(picture.any(axis=2))
    assert picture.shape == small.shape and not small.any()
    assert 18 <= xs.min() <= 21 and 41 <= xs.max() <= 44
    assert 15 <= ys.min() <= 18 and 36 <= ys.max() <= 39
    with pytest.raises(ValueError, match="these detections know no picture"):
        found.draw()
