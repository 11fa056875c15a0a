"""The GeoPackage of detections: tables that the standard asks for, polygons where they belong."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
import shapely

from tcm_d2.data.raster_reader.geo_reference import GeoReference
from tcm_d2.inference.geo_package import write_geopackage
from tests.inference.test_results import UTM, _detections


def test_detections_of_several_systems_share_one_layer(tmp_path: Path) -> None:
    warp = pytest.importorskip("rasterio.warp")
    crs = pytest.importorskip("rasterio.crs").CRS
    utm = GeoReference("EPSG:32633", crs.from_epsg(32633).to_wkt(), UTM.transform)
    lon_lat = GeoReference("EPSG:4326", crs.from_epsg(4326).to_wkt(), (1e-5, 0, 13, 0, -1e-5, 50))
    results = [
        _detections(image_id=name, geo=geo)
        for name, geo in (("a", utm), ("b", lon_lat), ("c", None))
    ]
    path = tmp_path / "detections.gpkg"
    assert write_geopackage(path, results) == ["c (no position)"]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (0x47504B47,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = connection.execute("SELECT geom, class, score, image FROM detections").fetchall()
    assert [row[1:] for row in rows[:2]] == [("large vehicle", 0.9, "a"), ("plane", 0.4, "a")]
    assert [row[3] for row in rows] == ["a", "a", "b", "b"]
    # Eight bytes of head: magic, version, flags, and the coordinate system.
    assert all(row[0][:8] == b"GP\0\1" + (4326).to_bytes(4, "little") for row in rows)
    polygons = [shapely.from_wkb(row[0][8:]) for row in rows]
    x, y = 400000 + 0.5 * 50, 5600000 - 0.5 * 40
    (lon,), (lat,) = warp.transform(crs.from_epsg(32633), crs.from_epsg(4326), [x], [y])
    np.testing.assert_allclose(polygons[0].centroid.coords[0], (lon, lat), atol=1e-7)
    np.testing.assert_allclose(polygons[2].centroid.coords[0], (13.0005, 49.9996), atol=1e-9)
    bounds = connection.execute("SELECT min_x, min_y, max_x, max_y FROM gpkg_contents").fetchone()
    np.testing.assert_allclose(bounds, shapely.total_bounds(polygons))
    connection.close()


def test_nothing_found_is_an_empty_layer(tmp_path: Path) -> None:
    write_geopackage(tmp_path / "a.gpkg", [])
    connection = sqlite3.connect(tmp_path / "a.gpkg")
    assert connection.execute("SELECT count(*) FROM detections").fetchone() == (0,)
    connection.close()
