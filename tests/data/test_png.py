"""Our PNG files hold the same pixels for every reader."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tcm_d2.data.images import BadImageError, read_image
from tcm_d2.data.png import compress_rows, encode_rgb, join_rows
from tcm_d2.data.raster_reader import gdal


@pytest.fixture(params=["with rasterio", "without rasterio"], autouse=True)
def _rasterio(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without rasterio":
        monkeypatch.setattr(gdal, "has_rasterio", lambda: False)


def _picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    smooth = cv2.resize(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), (width, height))
    return smooth + rng.integers(0, 9, (height, width, 3), dtype=np.uint8)


def _opencv(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)[:, :, ::-1]


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (5, 1), (64, 64), (130, 200)])
def test_every_reader_gets_the_same_pixels_back(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    rgb = _picture(*size_hw)
    content = encode_rgb(rgb)
    assert np.array_equal(_opencv(content), rgb)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), rgb)
    (tmp_path / "a.png").write_bytes(content)
    assert np.array_equal(read_image(tmp_path / "a.png", channel_order="RGB"), rgb)
    assert np.array_equal(read_image(tmp_path / "a.png", channel_order="BGR"), rgb[:, :, ::-1])


def test_bands_are_joined_to_a_whole_file() -> None:
    rgb = _picture(100, 60)
    bands = [compress_rows(rgb[a:b]) for a, b in ((0, 1), (1, 33), (33, 34), (34, 100))]
    content = join_rows(bands, 60, 100)
    assert np.array_equal(_opencv(content), rgb)
    # The same bands in another order are another picture: nothing in them refers upwards.
    swapped = join_rows([bands[2], bands[1]], 60, 33)
    assert np.array_equal(_opencv(swapped), np.concatenate([rgb[33:34], rgb[1:33]]))


def test_damaged_files_are_never_decoded_silently(tmp_path: Path) -> None:
    rgb = _picture(40, 50)
    content = encode_rgb(rgb)
    path = tmp_path / "a.png"
    for cut in (7, 20, 40, len(content) // 2, len(content) - 13):
        path.write_bytes(content[:cut])
        with pytest.raises(BadImageError, match=r"a\.png: expected a"):
            read_image(path, channel_order="RGB")
    for position in (20, 60, len(content) // 2, len(content) - 20):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(bytes(damaged))
        with pytest.raises(BadImageError, match=r"a\.png: expected a"):
            read_image(path, channel_order="RGB")
