"""Where a picture lies on the ground: pixels -> coordinates of a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcm_d2.structures.quads import signed_areas

FloatArray = NDArray[np.float64]
NEEDS_GEO = "install it with: pip install 'tcm_d2[geo]'"
# Files hold longitude first, whatever the authority's order of axes.
_WGS84_LON_LAT = "urn:ogc:def:crs:OGC:1.3:CRS84"
_WGS84_CODES = ("EPSG:4326", "OGC:CRS84")


@dataclass(frozen=True)
class GeoReference:
    """The coordinate reference system of a picture and its affine map.

    Attributes:
        crs_name: authority and code ("EPSG:32633"), or "" where the system has none.
        crs_wkt: the system as well-known text.
        transform: a, b, c, d, e, f of x = a col + b row + c and y = d col + e row + f, where
            (col, row) are continuous pixels: (0, 0) is the top left corner of the first pixel.
    """

    crs_name: str
    crs_wkt: str
    transform: tuple[float, float, float, float, float, float]

    def to_map(self, points_px: FloatArray) -> FloatArray:
        """Return points (..., 2) of the picture in the map's coordinates."""
        a, b, c, d, e, f = self.transform
        x, y = points_px[..., 0], points_px[..., 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)

    def to_lon_lat(self, points_px: FloatArray) -> FloatArray:
        """Return points (..., 2) of the picture as longitude and latitude (WGS 84) in degrees.

        Raises:
            ModuleNotFoundError: rasterio, which knows the projections, is not installed.
        """
        try:
            from rasterio.crs import CRS
            from rasterio.warp import transform
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"rasterio is needed to project to longitude and latitude; {NEEDS_GEO}"
            ) from None
        points = self.to_map(points_px).reshape(-1, 2)
        if not len(points):
            return points.reshape(points_px.shape)
        system = CRS.from_wkt(self.crs_wkt)
        lon, lat = transform(system, CRS.from_epsg(4326), points[:, 0], points[:, 1])[:2]
        return np.stack([lon, lat], axis=-1).reshape(points_px.shape)

    def crs_member(self) -> dict[str, Any] | None:
        """Return GeoJSON's (2008) ``crs`` member, which GDAL and QGIS read; None without a code."""
        if not self.crs_name:
            return None
        authority, _, code = self.crs_name.partition(":")
        urn = f"urn:ogc:def:crs:{authority}::{code}"
        if self.crs_name in _WGS84_CODES:
            urn = _WGS84_LON_LAT
        return {"type": "name", "properties": {"name": urn}}


def closed_ring(corners: FloatArray) -> list[list[float]]:
    """Return a polygon's corners (4, 2) as a closed ring, counter-clockwise where y goes up."""
    ordered = corners if signed_areas(corners) >= 0 else corners[::-1]
    points: list[list[float]] = ordered.tolist()
    return [*points, points[0]]
