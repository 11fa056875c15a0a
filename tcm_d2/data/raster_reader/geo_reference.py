"""Where a picture lies on the ground: pixels -> coordinates of a map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
NEEDS_GEO = "install it with: pip install 'tcm_d2[geo]'"
# Files hold longitude first, whatever the authority's order of axes.
_WGS84_LON_LAT = "urn:ogc:def:crs:OGC:1.3:CRS84"
_WGS84_CODES = ("EPSG:4326", "OGC:CRS84")
# An affine map fits control points when it misses none by more (px).
_AFFINE_TOLERANCE_PX = 0.25


@dataclass(frozen=True)
class GeoReference:
    """The coordinate reference system of a picture, and the map from its pixels.

    Attributes:
        crs_name: authority and code ("EPSG:32633"), or "" where the system has none.
        crs_wkt: the system as well-known text.
        transform: a, b, c, d, e, f of x = a col + b row + c and y = d col + e row + f, where
            (col, row) are continuous pixels: (0, 0) is the top left corner of the first pixel.
        control_points: (col, row, x, y) of points that no affine map fits; then ``transform`` is
            the best one, and positions come from a thin-plate spline through the points.
    """

    crs_name: str
    crs_wkt: str
    transform: tuple[float, float, float, float, float, float]
    control_points: tuple[tuple[float, float, float, float], ...] = ()

    def to_map(self, points_px: FloatArray) -> FloatArray:
        """Return points (..., 2) of the picture in the map's coordinates."""
        if self.control_points:
            return self._by_control_points(points_px)
        a, b, c, d, e, f = self.transform
        x, y = points_px[..., 0], points_px[..., 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)

    def to_lon_lat(self, points_px: FloatArray) -> FloatArray:
        """Return points (..., 2) of the picture as longitude and latitude (WGS 84) in degrees.

        Raises:
            ModuleNotFoundError: rasterio, which knows the projections, is not installed.
            ValueError: the system is a local one without a place on the earth.
        """
        rasterio = _import_rasterio("project to longitude and latitude")
        points = self.to_map(points_px).reshape(-1, 2)
        if not len(points):
            return points.reshape(points_px.shape)
        system = rasterio.crs.CRS.from_wkt(self.crs_wkt)
        wgs84 = rasterio.crs.CRS.from_epsg(4326)
        try:
            lon, lat = rasterio.warp.transform(system, wgs84, points[:, 0], points[:, 1])[:2]
        except Exception as error:  # what PROJ cannot do has no common type
            raise ValueError(
                f"coordinate system {self.crs_name or self.crs_wkt[:60]!r}: cannot be projected to "
                f"longitude and latitude: {str(error)[:100]}"
            ) from None
        found = np.stack([lon, lat], axis=-1)
        if not np.isfinite(found).all():
            raise ValueError(
                f"coordinate system {self.crs_name or self.crs_wkt[:60]!r}: some positions have no "
                "longitude and latitude; is it the right one for this picture?"
            )
        return found.reshape(points_px.shape)

    def crs_member(self) -> dict[str, Any] | None:
        """Return GeoJSON's (2008) ``crs`` member, which GDAL and QGIS read; None without a code."""
        if not self.crs_name:
            return None
        authority, _, code = self.crs_name.partition(":")
        urn = f"urn:ogc:def:crs:{authority}::{code}"
        if self.crs_name in _WGS84_CODES:
            urn = _WGS84_LON_LAT
        return {"type": "name", "properties": {"name": urn}}

    def after_turn(self, to_stored: FloatArray) -> GeoReference:
        """Return the reference of the picture after it was turned.

        Args:
            to_stored: (2, 3) affine map of points of the turned picture to the stored one.
        """
        a, b, c, d, e, f = self.transform
        stored = np.array([[a, b, c], [d, e, f]]) @ np.vstack([to_stored, [0, 0, 1]])
        to_turned = np.linalg.inv(np.vstack([to_stored, [0, 0, 1]]))
        points = []
        for col, row, x, y in self.control_points:
            turned = to_turned @ [col, row, 1.0]
            points.append((float(turned[0]), float(turned[1]), x, y))
        u, v, w, p, q, r = stored.reshape(-1).tolist()
        return replace(self, transform=(u, v, w, p, q, r), control_points=tuple(points))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        tree: dict[str, Any] = {
            "name": self.crs_name,
            "wkt": self.crs_wkt,
            "transform": list(self.transform),
        }
        if self.control_points:
            tree["control_points"] = [list(point) for point in self.control_points]
        return tree

    @classmethod
    def from_dict(cls, tree: Any) -> GeoReference:
        """Return what `to_dict` gave; KeyError or TypeError for anything else."""
        a, b, c, d, e, f = map(float, tree["transform"])
        points = []
        for col, row, x, y in tree.get("control_points", ()):
            points.append((float(col), float(row), float(x), float(y)))
        return cls(str(tree["name"]), str(tree["wkt"]), (a, b, c, d, e, f), tuple(points))

    def _by_control_points(self, points_px: FloatArray) -> FloatArray:
        rasterio = _import_rasterio("place pictures by their ground control points")
        flat = points_px.reshape(-1, 2)
        if not len(flat):
            return flat.reshape(points_px.shape)
        gcps = [
            rasterio.control.GroundControlPoint(row=row, col=col, x=x, y=y)
            for col, row, x, y in self.control_points
        ]
        with rasterio.transform.GCPTransformer(gcps, tps=True) as spline:
            # "ul": the numbers are corners of pixels already.
            x, y = spline.xy(flat[:, 1].tolist(), flat[:, 0].tolist(), offset="ul")
        return np.stack([np.asarray(x), np.asarray(y)], axis=-1).reshape(points_px.shape)


def read_position(file: Any, crs: str | None) -> GeoReference | None:
    """Return where a dataset of rasterio lies; None where it does not say so.

    Args:
        file: opened.
        crs: the coordinate system to take where the file gives a position and no system.

    Raises:
        ValueError: ``crs`` names no system.
    """
    points, points_crs = file.gcps
    own = points_crs if points and not file.crs else file.crs
    system = own or (None if crs is None else parse_crs(crs))
    if not system:
        return None
    authority = system.to_authority()
    name = ":".join(authority) if authority else ""
    wkt = str(system.to_wkt())
    if not file.transform.is_identity:
        a, b, c, d, e, f = (float(value) for value in tuple(file.transform)[:6])
        return GeoReference(name, wkt, (a, b, c, d, e, f))
    if len(points) < 3:
        return None
    table = np.array([(p.col, p.row, p.x, p.y) for p in points], dtype=np.float64)
    corners = np.column_stack([table[:, :2], np.ones(len(table))])
    solution, _, rank, _ = np.linalg.lstsq(corners, table[:, 2:], rcond=None)
    if rank < 3 or not np.isfinite(solution).all():
        return None
    (a, d), (b, e), (c, f) = solution.tolist()
    scale = np.sqrt(abs(a * e - b * d)) or 1.0
    miss_px = np.abs(corners @ solution - table[:, 2:]).max() / scale
    exact = miss_px <= _AFFINE_TOLERANCE_PX
    control_points = () if exact else tuple(tuple(row) for row in table.tolist())
    return GeoReference(name, wkt, (a, b, c, d, e, f), control_points)


def has_position_without_crs(file: Any) -> bool:
    """Say whether a dataset of rasterio has a place in an unnamed coordinate system."""
    points, points_crs = file.gcps
    placed = bool(points) or not file.transform.is_identity
    return placed and not file.crs and not points_crs


def parse_crs(text: str) -> Any:
    """Return the coordinate system that a user names, such as "EPSG:32633".

    Raises:
        ModuleNotFoundError: rasterio is not installed.
        ValueError: there is no such system.
    """
    rasterio = _import_rasterio("know coordinate systems")
    try:
        return rasterio.crs.CRS.from_user_input(text)
    except (rasterio.errors.CRSError, ValueError) as error:
        raise ValueError(
            f"crs: expected a coordinate system such as EPSG:32633, got {text!r} ({error})"
        ) from None


def _import_rasterio(purpose: str) -> Any:
    try:
        import rasterio
        import rasterio.control
        import rasterio.crs
        import rasterio.errors
        import rasterio.transform
        import rasterio.warp
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"rasterio is needed to {purpose}; {NEEDS_GEO}") from None
    return rasterio
