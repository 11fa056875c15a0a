from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tcm_d2.data.images import BadImageError, list_images, read_image, read_image_size_hw
from tcm_d2.data.raster_reader.reader import open_raster


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colours_come_in_the_order_asked_for(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rgb).save(path)
    assert np.array_equal(read_image(path, channel_order="RGB"), rgb)
    assert np.array_equal(read_image(path, channel_order="BGR"), rgb[..., ::-1])
    assert read_image_size_hw(path) == (20, 30)


def test_grey_and_alpha_become_three_channels(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    grey = read_image(tmp_path / "grey.png", channel_order="RGB")
    assert np.array_equal(grey, np.repeat(rgb[..., :1], 3, axis=2))
    Image.fromarray(np.dstack([rgb, rgb[..., 0]])).save(tmp_path / "alpha.png")
    for order, expected in (("RGB", rgb), ("BGR", rgb[..., ::-1])):
        image = read_image(tmp_path / "alpha.png", channel_order=order)  # type: ignore[arg-type]
        assert np.array_equal(image, expected)
    Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png", channel_order="RGB").shape == (20, 30, 3)


def test_alpha_of_a_tiff_leaves_the_colours_alone(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.full((20, 30, 1), 7, dtype=np.uint8)
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "rgba.tif")
    for order, expected in (("RGB", rgb), ("BGR", rgb[..., ::-1])):
        image = read_image(tmp_path / "rgba.tif", channel_order=order)  # type: ignore[arg-type]
        assert np.array_equal(image, expected)
    with open_raster(tmp_path / "rgba.tif") as raster:
        assert raster.band_names == ("red", "green", "blue", "alpha")
        assert np.array_equal(raster.read(range(4)), np.dstack([rgb, alpha]))
    grey = Image.fromarray(rgb[..., 0])
    grey.putalpha(7)
    grey.save(tmp_path / "la.tif")
    image = read_image(tmp_path / "la.tif", channel_order="RGB")
    assert np.array_equal(image, np.repeat(rgb[..., :1], 3, axis=2))


def test_sixteen_bits_with_alpha_are_not_cut_to_eight(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65535, (20, 30, 4), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.tif"), deep)
    with open_raster(tmp_path / "deep.tif") as raster:
        assert np.array_equal(raster.read((2, 1, 0, 3)), deep)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg"])
def test_size_beyond_pillow_s_guard_comes_from_the_head(
    tmp_path: Path, rgb: np.ndarray, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(rgb).save(tmp_path / f"a{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / f"a{suffix}")

    def refuse(*_: object) -> None:
        raise AssertionError("the pixels are decoded")

    monkeypatch.setattr("cv2.imdecode", refuse)
    monkeypatch.setattr("tcm_d2.data.raster_reader.gdal.GdalRaster.read", refuse)
    assert read_image_size_hw(tmp_path / f"a{suffix}") == (20, 30)


def test_exif_orientation_is_ignored(tmp_path: Path, rgb: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees for display
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", channel_order="RGB").shape == (20, 30, 3)
    assert read_image_size_hw(tmp_path / "a.jpg") == (20, 30)


def test_sixteen_bits_are_refused_with_a_sentence(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((4, 4, 3), 4000, dtype=np.uint16))
    with pytest.raises(BadImageError, match=r"deep\.png: expected 8 bits per channel, got uint16"):
        read_image(tmp_path / "deep.png", channel_order="RGB")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_truncated_files_are_refused(
    tmp_path: Path, rgb: np.ndarray, suffix: str, share: float
) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(rgb).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BadImageError, match=rf"cut\{suffix}: expected a"):
        read_image(path, channel_order="RGB")


def test_missing_and_strange_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.png: image file not found"):
        read_image(tmp_path / "no.png", channel_order="RGB")
    with pytest.raises(FileNotFoundError, match=r"no\.png: image file not found"):
        read_image_size_hw(tmp_path / "no.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(BadImageError, match=r"text\.png: expected an image file"):
        read_image(tmp_path / "text.png", channel_order="RGB")
    with pytest.raises(BadImageError, match=r"text\.png: expected an image file"):
        read_image_size_hw(tmp_path / "text.png")


def test_images_are_listed_once_per_id(tmp_path: Path, rgb: np.ndarray) -> None:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    assert list(list_images(tmp_path)) == ["a", "b"]
    (tmp_path / "a.tif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected one image per id, got a\.JPG and a\.tif"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="image folder"):
        list_images(tmp_path / "nowhere")
