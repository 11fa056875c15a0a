"""Detections as files of labelling tools, to be corrected there; `data.formats` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tcm_d2.data.conversion import write_annotations
from tcm_d2.inference.other_forms import file_in_stored_frame, to_annotated_image
from tcm_d2.inference.results import Detections


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
    paths = {key: path for found in results for key, path in file_in_stored_frame(found).items()}
    images = [to_annotated_image(found) for found in results]
    for name in formats:
        write_annotations(images, folder / name, name, classes=classes, image_paths=paths)
