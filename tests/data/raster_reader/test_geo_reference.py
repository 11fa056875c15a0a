"""Positions: by the file, by control points, by files beside it; named, unnamed or without code."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcm_d2.data.raster_reader.geo_reference import GeoReference
from tcm_d2.inference.rasters import open_scene
from tcm_d2.inference.results import Detections

rasterio = pytest.importorskip("rasterio", reason="needs tcm_d2[geo]")
from rasterio.control import GroundControlPoint  # noqa: E402

RGB = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
UTM = rasterio.Affine(0.5, 0, 400_000, 0, -0.5, 5_600_000)
CORNERS = np.array([[0.0, 0], [90, 60]])
# A transverse Mercator of nobody's list, near 15 degrees east.
LOCAL = "+proj=tmerc +lat_0=0 +lon_0=15.2 +k=0.9997 +x_0=500000 +y_0=0 +ellps=GRS80 +units=m"


def _write(path: Path, **profile: object) -> Path:
    driver = profile.pop("driver", "GTiff")
    gcps = profile.pop("gcps", None)
    size = {"count": 3, "height": 60, "width": 90, "dtype": "uint8"}
    with rasterio.open(path, "w", driver=driver, **size, **profile) as file:
        if gcps is not None:
            file.gcps = gcps
        file.write(RGB.transpose(2, 0, 1))
    return path


def _geo(path: Path, **options: object) -> GeoReference | None:
    with open_scene(path, **options) as scene:
        return scene.geo


def _found(geo: GeoReference | None) -> Detections:
    return Detections(
        boxes=np.array([[45.0, 30, 20, 10, 0]]),
        scores=np.array([0.5]),
        class_ids=np.array([0]),
        classes=("ship",),
        image_size_hw=(60, 90),
        image_id="a",
        geo=geo,
    )


@pytest.mark.parametrize("driver", ["GTiff", "HFA", "JP2OpenJPEG", "COG"])
def test_every_kind_of_raster_says_where_it_lies(tmp_path: Path, driver: str) -> None:
    suffix = {"HFA": ".img", "JP2OpenJPEG": ".jp2"}.get(driver, ".tif")
    path = _write(tmp_path / f"a{suffix}", driver=driver, crs="EPSG:32633", transform=UTM)
    geo = _geo(path)
    assert geo is not None and geo.crs_name == "EPSG:32633"
    assert np.allclose(geo.to_map(CORNERS), [[400_000, 5_600_000], [400_045, 5_599_970]])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_world_files_and_named_systems(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RGB).save(path)
    world = path.with_suffix({".jpg": ".jgw", ".png": ".pgw", ".tif": ".tfw"}[suffix])
    # The middle of the first pixel.
    world.write_text("0.5\n0\n0\n-0.5\n400000.25\n5599999.75\n")
    with caplog.at_level(logging.WARNING):
        assert _geo(path) is None
    assert "names no coordinate system" in caplog.text and "--crs EPSG:" in caplog.text
    geo = _geo(path, crs="EPSG:32633")
    assert geo is not None and geo.crs_name == "EPSG:32633"
    assert np.allclose(geo.to_map(CORNERS), [[400_000, 5_600_000], [400_045, 5_599_970]])
    with pytest.raises(ValueError, match=r"crs: expected .* such as EPSG:32633, got 'EPSG:x'"):
        _geo(path, crs="EPSG:x")
    wkt = rasterio.crs.CRS.from_epsg(32633).to_wkt()
    Path(f"{path}.aux.xml").write_text(f"<PAMDataset><SRS>{wkt}</SRS></PAMDataset>")
    beside = _geo(path)
    assert beside is not None and beside.crs_name == "EPSG:32633"
    assert np.allclose(beside.to_map(CORNERS), geo.to_map(CORNERS))


def test_a_file_keeps_its_own_system(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", crs="EPSG:32633", transform=UTM)
    geo = _geo(path, crs="EPSG:3857")
    assert geo is not None and geo.crs_name == "EPSG:32633"


@pytest.mark.parametrize("is_curved", [False, True])
def test_positions_by_ground_control_points(tmp_path: Path, is_curved: bool) -> None:
    def place(col: float, row: float) -> tuple[float, float]:
        bend = 2e-4 * (row / 60) * (col / 90) if is_curved else 0.0
        return 13 + 2e-5 * col + bend, 50 - 1e-5 * row + bend

    grid = [(col, row) for col in (0, 45, 90) for row in (0, 30, 60)]
    points = [
        GroundControlPoint(row=row, col=col, x=place(col, row)[0], y=place(col, row)[1])
        for col, row in grid
    ]
    system = rasterio.crs.CRS.from_epsg(4326)
    geo = _geo(_write(tmp_path / "gcps.tif", gcps=(points, system)))
    assert geo is not None and geo.crs_name == "EPSG:4326"
    assert bool(geo.control_points) == is_curved
    expected = [place(col, row) for col, row in grid]
    assert np.allclose(geo.to_map(np.array(grid, dtype=float)), expected, atol=1e-9)
    assert np.allclose(geo.to_lon_lat(np.array(grid, dtype=float)), expected, atol=1e-9)
    again = GeoReference.from_dict(json.loads(json.dumps(geo.to_dict())))
    assert again == geo
    ring = _found(geo).to_geojson(crs="wgs84")["features"][0]["geometry"]["coordinates"][0]
    assert 13 < ring[0][0] < 13.003 and 49.99 < ring[0][1] < 50.001


def test_a_system_without_code_gives_longitude_and_latitude(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _write(tmp_path / "a.tif", crs=rasterio.crs.CRS.from_string(LOCAL), transform=UTM)
    geo = _geo(path)
    assert geo is not None and geo.crs_name == ""
    with caplog.at_level(logging.WARNING):
        tree = _found(geo).to_geojson()
    assert "no code" in caplog.text and "crs" not in tree
    lon, lat = np.array(tree["features"][0]["geometry"]["coordinates"][0]).mean(axis=0)
    assert 13.5 < lon < 14.1 and 50.3 < lat < 50.7


def test_a_local_system_is_not_projected_to_a_wrong_place(tmp_path: Path) -> None:
    local = rasterio.crs.CRS.from_wkt('LOCAL_CS["hall",UNIT["metre",1]]')
    geo = _geo(_write(tmp_path / "a.tif", crs=local, transform=UTM))
    if geo is None:
        pytest.skip("this GDAL does not keep local systems")
    for crs in ("image", "wgs84"):
        with pytest.raises(ValueError, match="cannot be projected to longitude and latitude"):
            _found(geo).to_geojson(crs=crs)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_keeps_its_place(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.5\n400000.25\n5599999.75\n")
    stored = _geo(tmp_path / "a.png", crs="EPSG:32633")
    with open_scene(tmp_path / "a.png", crs="EPSG:32633", apply_exif=True) as scene:
        height, width = scene.size_hw
        picture = scene.read(0, 0, width, height)
        turned = scene.geo
    assert stored is not None and turned is not None and picture is not None
    # The same colour lies at the same place.
    for y, x in ((3, 5), (40, 17), (59, 50)):
        place = turned.to_map(np.array([[x + 0.5, y + 0.5]]))[0]
        col, row = (place[0] - 400_000) / 0.5, (5_600_000 - place[1]) / 0.5
        assert np.array_equal(RGB[int(row), int(col)], picture[y, x])
