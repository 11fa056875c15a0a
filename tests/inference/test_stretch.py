"""Deep values become 8 bits by the pixels that show something."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcm_d2.inference.rasters import open_scene
from tcm_d2.inference.stretch import find_fill_value, measure_stretch

RNG = np.random.default_rng(0)


def _sample(kind: type, low: float, high: float) -> np.ndarray:
    return RNG.uniform(low, high, (100, 100, 3)).astype(kind)


@pytest.mark.parametrize(
    ("kind", "low", "high", "fill"),
    [
        (np.uint16, 300, 2300, 65535),
        (np.uint16, 9000, 12000, 0),
        (np.int16, 100, 3000, -9999),
        (np.int16, 100, 3000, -32768),
        (np.int32, 0, 900, -9999),
        (np.float32, 0.1, 0.6, -9999),
        (np.float32, 0.1, 0.6, np.finfo(np.float32).min),
        (np.float64, 0.1, 0.6, 1e20),
    ],
)
def test_undeclared_fill_values_have_no_part_in_the_stretch(
    kind: type, low: float, high: float, fill: float
) -> None:
    sample = _sample(kind, low, high)
    clean = measure_stretch(sample[20:], nodata=None)
    sample[:20] = fill
    found = measure_stretch(sample, nodata=None)
    assert found.fill_value == fill and found.ranges == clean.ranges and clean.fill_value is None


def test_values_that_only_look_like_fill_values_stay() -> None:
    # A sensor of 16 bits that saturates; dark water at 0; one band that is 0 alone.
    bright = _sample(np.uint16, 20_000, 65_535)
    bright[:10] = 65_535
    dark = _sample(np.uint16, 0, 800)
    dark[:30] = 0
    one_band = _sample(np.uint16, 9_000, 12_000)
    one_band[:20, :, 1] = 0
    # A single hot pixel is clipped by the percentiles.
    hot = _sample(np.uint16, 300, 2300)
    hot[0, 0] = 65_535
    for sample in (bright, dark, one_band, hot, np.full((9, 9, 3), 65_535, np.uint16)):
        assert find_fill_value(sample, nodata=None) is None
    assert find_fill_value(np.zeros((9, 9, 3), np.uint8), nodata=None) is None


def test_a_scene_says_what_it_took_for_a_fill_value_and_skips_windows_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = (300 + 7 * np.arange(80)[None, :] + np.arange(64)[:, None]).astype(np.uint16)
    values[:, :40] = 65_535
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        caplog.clear()
        with caplog.at_level(logging.WARNING), open_scene(tmp_path / name) as scene:
            assert scene.read(0, 0, 40, 64) is None
            picture = scene.read(40, 0, 80, 64)
        assert picture is not None and picture.min() == 0 and picture.max() == 255
        assert f"{name}: 65535 stands where there is no picture" in caplog.text
