"""Detections in the types of other libraries, and as annotations for labelling tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tcm_d2.data.conversion import annotation_files
from tcm_d2.data.formats.reading import AnnotatedImage, AnnotatedObject

if TYPE_CHECKING:
    from tcm_d2.inference.results import Detections


def to_annotated_image(found: Detections) -> AnnotatedImage:
    """Return the detections as annotations with scores."""
    quads = found.quads.reshape(-1, 8).tolist()
    return AnnotatedImage(
        image_id=found.image_id,
        file_name=Path(found.path).name or found.image_id,
        size_hw=found.image_size_hw,
        source=Path(found.path),
        objects=[
            AnnotatedObject(tuple(quad), name, 0, score)
            for quad, name, score in zip(quads, found.class_names, found.scores.tolist())
        ],
    )


def file_in_stored_frame(found: Detections) -> dict[str, Path]:
    """Return the picture's file by its id, where tools may have to turn what was found in it.

    Detections in pictures that were turned upright when they were read need no turning.
    """
    is_upright = bool(found.read_options.get("apply_exif"))
    return {} if is_upright or not found.path else {found.image_id: Path(found.path)}


def annotation_text(found: Detections, format_name: str) -> str:
    """Return the annotation file of one picture in a format with one file for each.

    Corners are those of the picture as tools show it, turned as its EXIF orientation says.
    """
    files = annotation_files(
        [to_annotated_image(found)],
        format_name,
        classes=found.classes,
        image_paths=file_in_stored_frame(found),
    )
    # Beside it stands a list of the classes at most.
    (content,) = (files[name] for name in files if Path(name).stem == found.image_id)
    return content.decode()


def to_supervision(found: Detections) -> Any:
    """Return ``supervision.Detections``; see `Detections.to_supervision`."""
    try:
        import supervision
        from supervision.config import CLASS_NAME_DATA_FIELD, ORIENTED_BOX_COORDINATES
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"to_supervision: {error}; pip install supervision", name=error.name
        ) from error
    height, width = found.image_size_hw
    return supervision.Detections(
        # Inside of the picture, as supervision expects it; the corners may lie outside.
        xyxy=found.hboxes.clip(0, [width, height, width, height]).astype(np.float32),
        confidence=found.scores.astype(np.float32),
        class_id=found.class_ids.astype(int),
        data={
            ORIENTED_BOX_COORDINATES: found.quads.astype(np.float32),
            CLASS_NAME_DATA_FIELD: np.array(found.class_names, dtype=str),
        },
    )


def to_geodataframe(collection: dict[str, Any]) -> Any:
    """Return the features of a GeoJSON collection of ours as a ``geopandas.GeoDataFrame``."""
    try:
        import geopandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"to_geodataframe: {error}; pip install geopandas", name=error.name
        ) from error
    if "crs" in collection:
        system = collection["crs"]["properties"]["name"]
    else:
        system = None if "coordinates" in collection else "EPSG:4326"
    columns = ["class", "score", "image", "box_px", "geometry"]
    features = collection["features"]
    if not features:  # geopandas wants a geometry to start from
        return geopandas.GeoDataFrame({c: [] for c in columns}, geometry="geometry", crs=system)
    return geopandas.GeoDataFrame.from_features(features, crs=system)[columns]
