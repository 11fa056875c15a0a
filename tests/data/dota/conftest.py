"""Small DOTA folders written on the fly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

WriteDota = Callable[..., Path]


def rectangle(x1: float, y1: float, x2: float, y2: float, name: str, difficult: int = 0) -> str:
    """Return a label line of an upright rectangle."""
    return f"{x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2} {name} {difficult}"


@pytest.fixture
def write_dota(tmp_path: Path) -> WriteDota:
    """Return a function that writes one image with label lines into a DOTA folder."""

    def write(
        image_id: str,
        size_hw: tuple[int, int],
        lines: Sequence[str] | None,
        *,
        folder: str = "source",
    ) -> Path:
        root = tmp_path / folder
        (root / "images").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(sum(map(ord, image_id)))
        image = rng.integers(0, 255, (*size_hw, 3), dtype=np.uint8)
        assert cv2.imwrite(str(root / "images" / f"{image_id}.png"), image)
        if lines is not None:
            (root / "labelTxt").mkdir(exist_ok=True)
            text = "\n".join(["imagesource:test", "gsd:0.5", *lines])
            (root / "labelTxt" / f"{image_id}.txt").write_text(f"{text}\n")
        return root

    return write
