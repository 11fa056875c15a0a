"""Our PNG files hold the same pixels for every reader, and other files are left to OpenCV."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tcm_d2.data import png
from tcm_d2.data.images import BadImageError, read_image


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def deflate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with both libraries: the extra may be missing."""
    library = zlib if request.param == "zlib" else pytest.importorskip("isal.isal_zlib")
    monkeypatch.setattr(png, "_deflate", library)


def _picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    smooth = cv2.resize(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), (width, height))
    return smooth + rng.integers(0, 9, (height, width, 3), dtype=np.uint8)


def _opencv(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)[:, :, ::-1]


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (5, 1), (64, 64), (130, 200)])
def test_every_reader_gets_the_same_pixels_back(size_hw: tuple[int, int]) -> None:
    rgb = _picture(*size_hw)
    content = png.encode_rgb(rgb)
    assert np.array_equal(_opencv(content), rgb)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), rgb)
    assert np.array_equal(png.decode_rgb(content), rgb)


def test_bands_are_joined_to_a_whole_file() -> None:
    rgb = _picture(100, 60)
    bands = [png.compress_rows(rgb[a:b]) for a, b in ((0, 1), (1, 33), (33, 34), (34, 100))]
    content = png.join_rows(bands, 60, 100)
    assert np.array_equal(_opencv(content), rgb)
    assert np.array_equal(png.decode_rgb(content), rgb)
    # The same bands in another order are another picture: nothing in them refers upwards.
    swapped = png.join_rows([bands[2], bands[1]], 60, 33)
    assert np.array_equal(_opencv(swapped), np.concatenate([rgb[33:34], rgb[1:33]]))


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_files_of_other_writers_with_simple_filters_are_read(kind: int) -> None:
    rgb = _picture(70, 90)
    filters = [cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_FILTER_SUB, cv2.IMWRITE_PNG_FILTER_UP]
    options = [cv2.IMWRITE_PNG_FILTER, filters[kind]]
    content = cv2.imencode(".png", np.ascontiguousarray(rgb[:, :, ::-1]), options)[1].tobytes()
    assert np.array_equal(png.decode_rgb(content), rgb)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_other_kinds_of_png_are_left_to_opencv() -> None:
    rgb = _picture(40, 50)

    def saved(image: np.ndarray, **options: object) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG", **options)
        return stream.getvalue()

    assert png.decode_rgb(saved(rgb[:, :, 0])) is None
    assert png.decode_rgb(saved(np.dstack([rgb, rgb[:, :, :1]]))) is None
    assert png.decode_rgb(saved(rgb, transparency=(1, 2, 3))) is None
    assert png.decode_rgb(b"\xff\xd8\xff") is None
    paeth = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH]
    content = cv2.imencode(".png", np.ascontiguousarray(rgb[:, :, ::-1]), paeth)[1].tobytes()
    assert png.decode_rgb(content) is None
    # Late in the file: not seen by the first look.
    rows = np.zeros((40, 151), dtype=np.uint8)
    rows[30, 0] = 4
    body = _chunk(b"IHDR", struct.pack(">II", 50, 40) + bytes([8, 2, 0, 0, 0]))
    body += _chunk(b"IDAT", zlib.compress(rows.tobytes())) + _chunk(b"IEND", b"")
    assert png.decode_rgb(b"\x89PNG\r\n\x1a\n" + body) is None


def test_damaged_files_are_never_decoded_silently(tmp_path: Path) -> None:
    rgb = _picture(40, 50)
    content = png.encode_rgb(rgb)
    path = tmp_path / "a.png"
    for cut in (7, 20, 40, len(content) // 2, len(content) - 13, len(content) - 1):
        assert png.decode_rgb(content[:cut]) is None
    for position in (20, 60, len(content) // 2, len(content) - 20):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        assert png.decode_rgb(bytes(damaged)) is None
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImageError, match="truncated"):
        read_image(path, channel_order="RGB")


def test_images_are_read_in_both_orders_of_channels(tmp_path: Path) -> None:
    rgb = _picture(40, 50)
    (tmp_path / "a.png").write_bytes(png.encode_rgb(rgb))
    assert np.array_equal(read_image(tmp_path / "a.png", channel_order="RGB"), rgb)
    assert np.array_equal(read_image(tmp_path / "a.png", channel_order="BGR"), rgb[:, :, ::-1])
