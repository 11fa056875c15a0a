"""Annotations made on pictures that a tool shows upright, in the frame of the stored pixels.

Cameras and phones store pixels as the sensor lies and say in EXIF how to turn them. Labelling tools
show, and label, the turned picture; everything here works on the stored pixels. So annotations of
such tools are turned on the way in, and turned back where they are written for one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tcm_d2.data.formats.reading import AnnotatedImage, AnnotatedObject, Reading
from tcm_d2.data.images import ImageHead, read_head
from tcm_d2.data.raster_reader.orientation import UPRIGHT, upright_size_hw, upright_to_stored


def move_to_stored_frame(reading: Reading, image_ids: Iterable[str]) -> None:
    """Turn the objects of images with an EXIF orientation, in place, and note the images.

    Annotations that give the size of the stored pixels, where that is not the upright one's, were
    made on them and stay.

    Args:
        reading: its image files say the orientation; images without a file stay.
        image_ids: of images whose annotations come from a tool that shows pictures upright.
    """
    for image_id in image_ids:
        path = reading.options.image_paths.get(image_id)
        image = reading.images[image_id]
        head = ImageHead((0, 0), UPRIGHT) if path is None else read_head(path)
        if head.orientation == UPRIGHT:
            continue
        shown_hw = upright_size_hw(head.size_hw, head.orientation)
        if image.size_hw == head.size_hw != shown_hw:
            continue
        matrix = upright_to_stored(head.size_hw, head.orientation)
        image.objects[:] = [_moved(item, matrix) for item in image.objects]
        image.size_hw = head.size_hw
        reading.summary.turned_images.append(path.name if path is not None else image_id)


def in_upright_frame(image: AnnotatedImage, path: Path) -> AnnotatedImage:
    """Return an image's annotations as a tool wants them that shows the picture upright."""
    head = read_head(path)
    matrix = np.vstack([upright_to_stored(head.size_hw, head.orientation), [0, 0, 1]])
    inverse = np.linalg.inv(matrix)[:2]
    return replace(
        image,
        size_hw=upright_size_hw(head.size_hw, head.orientation),
        objects=[_moved(item, inverse) for item in image.objects],
    )


def _moved(item: AnnotatedObject, matrix: np.ndarray) -> AnnotatedObject:
    points = np.array(item.quad, dtype=np.float64).reshape(-1, 2)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return item._replace(quad=tuple(moved.reshape(-1).tolist()))
