"""What a detector found in a picture, and the forms in which others want it.

Letters: M detections.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch

from tcm_d2.data.raster_reader.colors import UInt8Array
from tcm_d2.data.raster_reader.geo_reference import GeoReference
from tcm_d2.inference.other_forms import annotation_text, to_geodataframe, to_supervision
from tcm_d2.inference.rasters import open_scene
from tcm_d2.structures.arrays import FloatArray, IntArray
from tcm_d2.structures.conversions import boxes_to_hboxes, boxes_to_quads
from tcm_d2.structures.detections import BoxDetections, ClassDetections
from tcm_d2.visualize.draw import draw_boxes

logger = logging.getLogger(__name__)

GeoJSONSystem = Literal["image", "wgs84"]

# Longest side of a picture with the detections drawn into it.
MAX_PICTURE_SIDE_PX = 4096


class Detection(NamedTuple):
    """One of the boxes found in a picture.

    Attributes:
        class_name, class_id: what it is.
        score: in (0, 1).
        box: (5,) cx, cy, w, h, angle_deg in pixels, as in `Detections`.
        quad: (4, 2) its corner points.
    """

    class_name: str
    class_id: int
    score: float
    box: FloatArray
    quad: FloatArray


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Detections(BoxDetections):
    """Oriented boxes found in one picture, by descending score.

    Iterated over, it gives a `Detection` for each; ``found[0]`` is one of them, ``found[:5]`` and
    ``found[mask]`` are `Detections`. Printed, it is one line.

    Coordinates are pixels of the picture as it was read, x to the right and y down; (0, 0) is the
    top left corner of the first pixel. Boxes may reach over the border.

    Attributes:
        boxes: (M, 5) float64 cx, cy, w, h, angle_deg: w >= h, the angle counter-clockwise on
            screen in [-90, 90).
        scores: (M,) float64 in (0, 1).
        class_ids: (M,) int64 indices into ``classes``.
        classes: names of all the classes that the detector knows.
        image_size_hw: height and width of the picture.
        image_id: the file's name without suffix, or "array".
        path: of the file; "" for an array.
        geo: where the picture lies on the ground, if its file says so.
        read_options: how the file was opened (``bands``, ``value_range``, ``apply_exif``, ``crs``).
    """

    boxes: FloatArray
    scores: FloatArray
    class_ids: IntArray
    classes: tuple[str, ...]
    image_size_hw: tuple[int, int]
    image_id: str
    path: str = ""
    geo: GeoReference | None = None
    read_options: Mapping[str, Any] = field(default_factory=dict)
    _image: UInt8Array | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        height, width = self.image_size_hw
        counts = Counter(self.class_names).most_common()
        what = ", ".join(f"{count} {name}" for name, count in counts) or "nothing"
        return f"<{self.image_id}, {width} x {height} px: {what}>"

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.class_names, self.class_ids.tolist(), self.scores.tolist())
        for (name, class_id, score), box, quad in zip(rows, self.boxes, self.quads):
            yield Detection(name, class_id, score, box, quad)

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: Any) -> Detections: ...

    def __getitem__(self, index: Any) -> Detection | Detections:
        """Return one detection for an integer; those that a slice, mask or indices choose."""
        if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
            if not -len(self) <= index < len(self):
                raise IndexError(f"detection {index}: there are {len(self)}")
            start = int(index) % len(self)
            return next(iter(self.select(slice(start, start + 1))))
        return self.select(index)

    @property
    def quads(self) -> FloatArray:
        """Corner points (M, 4, 2) of the boxes, x before y."""
        corners: FloatArray = boxes_to_quads(torch.from_numpy(self.boxes)).numpy()
        return corners

    @property
    def hboxes(self) -> FloatArray:
        """Upright boxes (M, 4) around the boxes: x1, y1, x2, y2."""
        hulls: FloatArray = boxes_to_hboxes(torch.from_numpy(self.boxes)).numpy()
        return hulls

    @property
    def class_names(self) -> list[str]:
        """The class name of each detection."""
        return [self.classes[index] for index in self.class_ids.tolist()]

    def above(self, score_threshold: float) -> Detections:
        """Return the detections with at least this score."""
        return self.select(self.scores >= score_threshold)

    def draw(
        self,
        image_rgb: np.ndarray | None = None,
        *,
        max_side_px: int = MAX_PICTURE_SIDE_PX,
        **options: Any,
    ) -> UInt8Array:
        """Return the picture with the boxes drawn, RGB (h, w, 3) uint8.

        Args:
            image_rgb: uint8 (h, w, 3) with the proportions of the picture; None takes the picture
                itself, read again where it came from a file.
            max_side_px: where the picture is read again, it is shrunk to this.
            options: of `tcm_d2.visualize.draw_boxes`, such as ``label_mode``, ``line_width_px``.

        Raises:
            ValueError: nothing to draw on, or options that do not fit.
        """
        if image_rgb is None:
            image_rgb = self._read_picture(max_side_px)
        height, width = self.image_size_hw
        factor_xy = np.array([image_rgb.shape[1] / width, image_rgb.shape[0] / height])
        boxes = self.boxes.copy()
        boxes[:, :2] *= factor_xy
        boxes[:, 2:4] *= factor_xy.mean()
        options.setdefault("labels", self.class_ids)
        options.setdefault("class_names", self.classes)
        options.setdefault("scores", self.scores)
        picture: UInt8Array = draw_boxes(image_rgb, boxes, **options)
        return picture

    def to_dota(self) -> str:
        """Return label rows of DOTA's format: ``x1 y1 x2 y2 x3 y3 x4 y4 class 0``, without scores.

        Result files for the DOTA server are made from `to_task1`.
        """
        rows = zip(self.quads.reshape(-1, 8).tolist(), self.class_names)
        return "".join(
            " ".join(f"{value:.2f}" for value in quad) + f" {_one_word(name)} 0\n"
            for quad, name in rows
        )

    def to_task1(self) -> dict[str, ClassDetections]:
        """Return the rows of DOTA's Task 1 result files by class name; see `write_task1`."""
        quads = self.quads
        rows = {}
        for index, name in enumerate(self.classes):
            mine = np.flatnonzero(self.class_ids == index)
            rows[_one_word(name)] = ClassDetections(
                [self.image_id] * len(mine), self.scores[mine], quads[mine]
            )
        return rows

    def to_geojson(self, *, crs: GeoJSONSystem = "image") -> dict[str, Any]:
        """Return a FeatureCollection: a polygon with class, score and box for each detection.

        RFC 7946 knows longitude and latitude (WGS 84) only; QGIS and GDAL read other systems too,
        by the ``crs`` member that GeoJSON had before.

        Args:
            crs: "image" gives coordinates in the picture's own system (pixels, y down, where the
                file has none), "wgs84" longitude and latitude. A system without authority and code
                ("EPSG:32633") cannot be named in GeoJSON, and programs would take its metres for
                degrees: then "image" gives longitude and latitude too, with a warning.

        Raises:
            ValueError: "wgs84" without a georeference, a system that cannot be projected, or
                another word.
            ModuleNotFoundError: longitude and latitude without rasterio.
        """
        if crs not in ("image", "wgs84"):
            raise ValueError(f"crs: expected 'image' or 'wgs84', got {crs!r}")
        if crs == "wgs84" and self.geo is None:
            raise ValueError(
                f"crs: {self.image_id} has no coordinate reference system or no position in it, so "
                "that 'wgs84' is not possible; use crs='image' for pixels, or open the file with "
                "crs='EPSG:...' (--crs) where only the system's name is missing"
            )
        corners = self.quads
        collection: dict[str, Any] = {"type": "FeatureCollection", "name": self.image_id}
        if self.geo is None:
            collection["coordinates"] = "pixels, y down"
        elif crs == "wgs84":
            corners = self.geo.to_lon_lat(corners)
        elif (member := self.geo.crs_member()) is not None:
            corners = self.geo.to_map(corners)
            collection["crs"] = member
        else:
            corners = self.geo.to_lon_lat(corners)
            logger.warning(
                "%s: its coordinate system has no code that GeoJSON could name: written in "
                "longitude and latitude (WGS 84)",
                self.image_id,
            )
        collection["features"] = [
            {
                "type": "Feature",
                "properties": {
                    "class": name,
                    "score": score,
                    "image": self.image_id,
                    "box_px": box,
                },
                "geometry": {"type": "Polygon", "coordinates": [_closed_ring(quad)]},
            }
            for name, score, box, quad in zip(
                self.class_names, self.scores.tolist(), self.boxes.tolist(), corners
            )
        ]
        return collection

    def to_coco(self, *, image_number: int = 1, first_annotation: int = 1) -> dict[str, Any]:
        """Return COCO's ``images``, ``annotations`` and ``categories``.

        ``bbox`` is the upright box around, ``segmentation`` the four corners, ``rotated_box``
        (ours) cx, cy, w, h, angle_deg. Categories count from 1.

        Args:
            image_number: id of the image.
            first_annotation: id of the first annotation.
        """
        hulls, quads = self.hboxes, self.quads.reshape(-1, 8).tolist()
        annotations = []
        for row, (score, class_id) in enumerate(zip(self.scores.tolist(), self.class_ids.tolist())):
            x1, y1, x2, y2 = hulls[row].tolist()
            annotations.append(
                {
                    "id": first_annotation + row,
                    "image_id": image_number,
                    "category_id": class_id + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": [quads[row]],
                    "area": float(self.boxes[row, 2] * self.boxes[row, 3]),
                    "iscrowd": 0,
                    "score": score,
                    "rotated_box": self.boxes[row].tolist(),
                }
            )
        image = {
            "id": image_number,
            "file_name": self.path or self.image_id,
            "height": self.image_size_hw[0],
            "width": self.image_size_hw[1],
        }
        return {
            "images": [image],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.classes, 1)],
        }

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``: upright boxes around, with the corners of ours.

        Raises:
            ModuleNotFoundError: supervision is not installed.
        """
        return to_supervision(self)

    def to_geodataframe(self, *, crs: GeoJSONSystem = "image") -> Any:
        """Return a ``geopandas.GeoDataFrame``: polygons with class, score, image and box_px.

        Args:
            crs: as for `to_geojson`; pixels have no coordinate system.

        Raises:
            ModuleNotFoundError: geopandas is not installed.
            ValueError: see `to_geojson`.
        """
        return to_geodataframe(self.to_geojson(crs=crs))

    def to_yolo(self) -> str:
        """Return the rows of a YOLO-OBB label file: class index, corners in parts of the size."""
        return annotation_text(self, "yolo-obb")

    def to_labelme(self) -> dict[str, Any]:
        """Return what a labelme file of the picture holds: polygons, the score described."""
        tree: dict[str, Any] = json.loads(annotation_text(self, "labelme"))
        return tree

    def to_x_anylabeling(self) -> dict[str, Any]:
        """Return what an X-AnyLabeling file of the picture holds: rotations with scores."""
        tree: dict[str, Any] = json.loads(annotation_text(self, "x-anylabeling"))
        return tree

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; `from_dict` reads them."""
        geo = self.geo
        return {
            "image_id": self.image_id,
            "path": self.path,
            "height": self.image_size_hw[0],
            "width": self.image_size_hw[1],
            "read_options": dict(self.read_options),
            "crs": None if geo is None else geo.to_dict(),
            "classes": list(self.classes),
            "detections": [
                {"class": name, "score": score, "box": box, "quad": quad}
                for name, score, box, quad in zip(
                    self.class_names,
                    self.scores.tolist(),
                    self.boxes.tolist(),
                    self.quads.reshape(-1, 8).tolist(),
                )
            ],
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Detections:
        """Return what `to_dict` gave.

        Raises:
            ValueError: a key is missing or has a value of another form.
        """
        try:
            index_of = {name: index for index, name in enumerate(tree["classes"])}
            rows, crs = tree["detections"], tree["crs"]
            return cls(
                boxes=np.array([row["box"] for row in rows], dtype=np.float64).reshape(-1, 5),
                scores=np.array([row["score"] for row in rows], dtype=np.float64),
                class_ids=np.array([index_of[row["class"]] for row in rows], dtype=np.int64),
                classes=tuple(tree["classes"]),
                image_size_hw=(int(tree["height"]), int(tree["width"])),
                image_id=str(tree["image_id"]),
                path=str(tree["path"]),
                geo=None if crs is None else GeoReference.from_dict(crs),
                read_options=dict(tree["read_options"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"detections: expected what to_dict gives, got {error!r}") from None

    def _read_picture(self, max_side_px: int) -> UInt8Array:
        if self._image is not None:
            return self._image
        if not self.path:
            raise ValueError("image_rgb: these detections know no picture; give one to draw on")
        with open_scene(self.path, **self.read_options) as scene:
            return scene.read_overview(max_side_px)


def _one_word(class_name: str) -> str:
    """Return the name without spaces, as rows of text need it."""
    return class_name.replace(" ", "-")


def _closed_ring(corners: FloatArray) -> list[list[float]]:
    """Return a polygon's corners (4, 2) as a closed ring, counter-clockwise where y goes up."""
    following = np.roll(corners, -1, axis=0)
    twice_area = float((corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]).sum())
    ordered = corners if twice_area >= 0 else corners[::-1]
    points: list[list[float]] = ordered.tolist()
    return [*points, points[0]]
