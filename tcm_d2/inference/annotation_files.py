"""Detections as files of labelling tools, to be corrected there; `data.formats` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tcm_d2.data.conversion import write_annotations
from tcm_d2.data.formats.reading import AnnotatedImage, AnnotatedObject
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


def write_annotation_files(
    results: Sequence[Detections], folder: Path, formats: Sequence[str]
) -> None:
    """Write the detections of all pictures into ``folder/<format>``, for each format.

    Corners are those of the picture as tools show it, turned as its EXIF orientation says.

    Args:
        results: of files, by one detector.
        formats: names of `tcm_d2.data.formats` that are written.
    """
    classes = results[0].classes if results else ()
    # Detections in pictures that were turned upright when they were read need no turning.
    paths = {
        found.image_id: Path(found.path)
        for found in results
        if not found.read_options.get("apply_exif")
    }
    images = [to_annotated_image(found) for found in results]
    for name in formats:
        write_annotations(images, folder / name, name, classes=classes, image_paths=paths)
