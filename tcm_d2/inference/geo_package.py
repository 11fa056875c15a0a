"""Detections of pictures with a position as one layer of a GeoPackage, which GIS programs open.

OGC 12-128r18 (GeoPackage 1.3): an SQLite file with tables of its own and polygons as well-known
binary behind a short head. The layer is in longitude and latitude (WGS 84), so that pictures of
several coordinate systems share it.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import shapely
from numpy.typing import NDArray

from tcm_d2.files import write_bytes_atomically
from tcm_d2.inference.results import Detections

LAYER = "detections"
_APPLICATION_ID = 0x47504B47  # "GPKG"
_VERSION = 10300
_WGS84_ID = 4326
# Head of a geometry: magic, version 0, little-endian without envelope, coordinate system.
_HEAD = struct.pack("<2sBBi", b"GP", 0, 1, _WGS84_ID)
_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],'
    'PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433],AUTHORITY["EPSG","4326"]]'
)
_SCHEMA = f"""
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY,
    organization TEXT NOT NULL, organization_coordsys_id INTEGER NOT NULL,
    definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT PRIMARY KEY, data_type TEXT NOT NULL,
    identifier TEXT UNIQUE, description TEXT DEFAULT '',
    last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
    min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE,
    srs_id INTEGER REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL UNIQUE REFERENCES gpkg_contents,
    column_name TEXT NOT NULL, geometry_type_name TEXT NOT NULL,
    srs_id INTEGER NOT NULL REFERENCES gpkg_spatial_ref_sys(srs_id),
    z TINYINT NOT NULL, m TINYINT NOT NULL, PRIMARY KEY (table_name, column_name));
CREATE TABLE {LAYER} (fid INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, geom POLYGON,
    class TEXT NOT NULL, score DOUBLE NOT NULL, image TEXT NOT NULL);
"""
_SYSTEMS = [
    ("Undefined cartesian", -1, "NONE", -1, "undefined", None),
    ("Undefined geographic", 0, "NONE", 0, "undefined", None),
    ("WGS 84 geodetic", _WGS84_ID, "EPSG", _WGS84_ID, _WGS84, "longitude, latitude"),
]


def write_geopackage(path: Path, results: Iterable[Detections]) -> list[str]:
    """Write the detections of all pictures that have a position, atomically.

    Returns:
        The ids of the pictures that are left out, and why: they have no position, or a coordinate
        system without longitude and latitude.

    Raises:
        ModuleNotFoundError: rasterio, which knows the projections, is not installed.
    """
    rows: list[tuple[bytes, str, float, str]] = []
    rings: list[NDArray[np.float64]] = []
    left_out = []
    for found in results:
        try:
            if found.geo is None:
                raise ValueError("no position")
            quads = found.geo.to_lon_lat(found.quads)
        except ValueError as error:
            left_out.append(f"{found.image_id} ({error})")
            continue
        blobs = [_HEAD + blob for blob in shapely.to_wkb(shapely.polygons(quads), byte_order=1)]
        names, scores = found.class_names, found.scores.tolist()
        rows += [(b, n, s, found.image_id) for b, n, s in zip(blobs, names, scores)]
        rings.append(quads.reshape(-1, 2))
    with TemporaryDirectory() as folder:
        file = Path(folder) / "new.gpkg"
        _fill(file, rows, np.concatenate(rings) if rows else np.zeros((1, 2)))
        write_bytes_atomically(path, file.read_bytes())
    return left_out


def _fill(file: Path, rows: Sequence[tuple[bytes, str, float, str]], points: np.ndarray) -> None:
    connection = sqlite3.connect(file)
    try:
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.executescript(_SCHEMA)
        connection.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?,?,?,?,?,?)", _SYSTEMS)
        connection.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, min_x, min_y, max_x, "
            "max_y, srs_id) VALUES (?, 'features', ?, ?, ?, ?, ?, ?)",
            (LAYER, LAYER, *points.min(axis=0), *points.max(axis=0), _WGS84_ID),
        )
        connection.execute(
            "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', 'POLYGON', ?, 0, 0)",
            (LAYER, _WGS84_ID),
        )
        connection.executemany(
            f"INSERT INTO {LAYER} (geom, class, score, image) VALUES (?, ?, ?, ?)", rows
        )
        connection.commit()
    finally:
        connection.close()
