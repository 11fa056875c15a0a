"""What the page works on: a picture that was sent, what was found in it, and its files."""

from __future__ import annotations

import json
import logging
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from tcm_d2.files import UnsafeNameError, checked_name
from tcm_d2.inference.detector import Detector
from tcm_d2.inference.rasters import open_scene
from tcm_d2.inference.results import Detections

logger = logging.getLogger(__name__)

# Longest side of the picture on the page; detection sees the whole one.
MAX_PREVIEW_SIDE_PX = 4096
_JPEG_QUALITY = 90
# The page shows those from its own threshold on, which can be lowered to this.
LOWEST_SCORE = 0.05
# Results that can still be downloaded; older ones are forgotten.
NUM_KEPT = 16
# The content decides about the kind of a file: no name of a client is ever one of a file here, and
# without the suffix .vrt nothing that names other files is read.
_FILE_NAME = "upload"
FORMATS = {
    "geojson": ("geojson", "application/geo+json"),
    "dota": ("txt", "text/plain; charset=utf-8"),
    "coco": ("json", "application/json"),
}


class TooLargeError(ValueError):
    """A picture with more pixels than are allowed."""


class Result(NamedTuple):
    """What was found in a picture, and the picture for the page as JPEG."""

    found: Detections
    preview: bytes


class PictureService:
    """Detects in one picture at a time and keeps the last results, all in memory."""

    def __init__(self, detector: Detector, *, max_pixels: int) -> None:
        """Args:
        detector: asked from one thread at a time.
        max_pixels: of a picture.
        """
        self.detector = detector
        self._max_pixels = max_pixels
        self._turn = threading.Lock()
        self._results: OrderedDict[str, Result] = OrderedDict()

    def new_folder(self) -> tempfile.TemporaryDirectory[str]:
        """Return a folder of its own for a picture, which is removed with what is in it."""
        return tempfile.TemporaryDirectory(prefix="tcm_d2_serve_")

    def file_in(self, folder: str) -> Path:
        """Return where the picture goes in such a folder."""
        return Path(folder) / _FILE_NAME

    def detect(self, path: Path, name: str) -> dict[str, Any]:
        """Return what the page shows of a picture.

        Args:
            path: see `file_in`; may be gone afterwards.
            name: what the client calls it, for results only.

        Raises:
            TooLargeError: (a ValueError) it has too many pixels.
            ValueError: it is no picture; names it as the client does.
            MemoryError: the device's memory is too small for one window.
        """
        shown = _shown_name(name)
        try:
            with open_scene(path) as scene:
                height, width = scene.size_hw
                if height * width > self._max_pixels:
                    raise TooLargeError(
                        f"{width} x {height} px: more than the {self._max_pixels / 1e6:.0f} "
                        "megapixels that this page takes (--max-megapixels)"
                    )
                with self._turn:
                    config = replace(self.detector.config, score_threshold=LOWEST_SCORE)
                    found = self.detector.detect(scene, config=config)
                preview = _jpeg(scene.read_overview(MAX_PREVIEW_SIDE_PX))
        except TooLargeError:
            raise
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), shown)) from None
        key = secrets.token_urlsafe(12)
        found = replace(found, image_id=Path(shown).stem or shown)
        self._results[key] = Result(found, preview)
        while len(self._results) > NUM_KEPT:
            self._results.popitem(last=False)
        logger.info("%s: %d x %d px, %d detections", shown, width, height, len(found))
        return {
            "key": key,
            "name": shown,
            "width": width,
            "height": height,
            "detections": [
                {
                    "class": one.class_id,
                    "score": round(one.score, 4),
                    "quad": np.round(one.quad, 2).tolist(),
                }
                for one in found
            ],
        }

    def preview(self, key: str) -> bytes | None:
        """Return the picture as JPEG; None for a key that is not known any more."""
        result = self._results.get(key)
        return None if result is None else result.preview

    def file(
        self, key: str, form: str, *, score_threshold: float, class_ids: Sequence[int] | None
    ) -> tuple[str, bytes] | None:
        """Return the name and content of a file with what the page shows; None as `preview`.

        Args:
            form: one of `FORMATS`.
            class_ids: only these classes; None for all.
        """
        result = self._results.get(key)
        if result is None or form not in FORMATS:
            return None
        found = result.found.above(score_threshold)
        if class_ids is not None:
            found = found[np.isin(found.class_ids, list(class_ids))]
        if form == "dota":
            content = found.to_dota()
        else:
            content = json.dumps(found.to_geojson() if form == "geojson" else found.to_coco())
        return f"{found.image_id}.{FORMATS[form][0]}", content.encode()


def _shown_name(name: str) -> str:
    """Return a client's name for a picture, if it could be that of a file."""
    try:
        return checked_name(name)
    except UnsafeNameError:
        return "picture"


def _jpeg(rgb: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return bytes(data.tobytes())
