"""Files of every kind become RGB, or are refused with a sentence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tcm_d2.data.images import BadImageError, read_image
from tcm_d2.data.raster_reader import gdal, reader
from tcm_d2.inference.rasters import array_scene, open_scene
from tests.inference.small_run import noise_image

RGB = noise_image(60, 90)


def _read(path: Path, **options: Any) -> np.ndarray:
    with open_scene(path, **options) as scene:
        height, width = scene.size_hw
        picture = scene.read(0, 0, width, height)
        assert picture is not None and picture.dtype == np.uint8 and picture.shape[2] == 3
        part = scene.read(11, 7, 41, 37)
        assert np.array_equal(part, picture[7:37, 11:41])
    return picture


def _write_tiff(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    """Write (C, H, W) with rasterio."""
    rasterio = pytest.importorskip("rasterio", reason="needs tcm_d2[geo]")
    count, height, width = bands.shape
    settings = {"count": count, "height": height, "width": width, "dtype": bands.dtype, **profile}
    interpretation = settings.pop("colorinterp", None)
    colormap = settings.pop("colormap", None)
    with rasterio.open(path, "w", driver="GTiff", **settings) as file:
        file.write(bands)
        if interpretation is not None:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in interpretation]
        if colormap is not None:
            file.write_colormap(1, colormap)
    return path


@pytest.fixture(params=["with rasterio", "without rasterio"])
def _with_and_without_rasterio(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without rasterio":
        monkeypatch.setattr(gdal, "has_rasterio", lambda: False)
    return str(request.param)


@pytest.mark.usefixtures("_with_and_without_rasterio")
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA"])
def test_eight_bit_pictures(tmp_path: Path, suffix: str, mode: str) -> None:
    if (suffix, mode) in ((".bmp", "LA"), (".bmp", "RGBA")):
        pytest.skip("BMP has no such mode")
    path = tmp_path / f"scene{suffix}"
    image = Image.fromarray(RGB).convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(7)
    image.save(path)
    expected = np.asarray(image.convert("RGB"))
    if mode == "RGBA":
        expected = RGB
    assert np.array_equal(_read(path), expected)


@pytest.mark.usefixtures("_with_and_without_rasterio")
def test_jpeg(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    assert np.abs(_read(tmp_path / "a.jpg").astype(int) - RGB).mean() < 6


def test_large_files_of_other_kinds_go_through_rasterio_and_are_not_decoded_to_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rasterio", reason="needs tcm_d2[geo]")
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(reader, "WHOLE_FILE_PX", 100)
    # So large that Pillow would refuse it.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for decode in ("PIL.PngImagePlugin.PngImageFile.load", "cv2.imdecode"):
        monkeypatch.setattr(decode, lambda *_: pytest.fail("decoded"))
    with open_scene(tmp_path / "a.png") as scene:
        assert isinstance(scene._raster, gdal.GdalRaster) and scene.geo is None
    assert np.array_equal(_read(tmp_path / "a.png"), RGB)


@pytest.mark.usefixtures("_with_and_without_rasterio")
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_stretched_once_for_the_whole_scene(tmp_path: Path, suffix: str) -> None:
    deep = 300 + 8 * RGB.astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), deep[..., ::-1])
    picture = _read(tmp_path / f"a{suffix}")
    # Percentiles of the scene: a monotonic map of the values, full contrast.
    assert picture.min() == 0 and picture.max() == 255
    for band in range(3):
        order = np.argsort(deep[..., band].ravel(), kind="stable")
        assert (np.diff(picture[..., band].ravel()[order].astype(int)) >= 0).all()
    fixed = _read(tmp_path / f"a{suffix}", value_range=(300, 300 + 8 * 255))
    assert np.abs(fixed.astype(int) - RGB).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(
    tmp_path: Path, orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "phone.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(_read(path, apply_exif=True), upright)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(_read(path), RGB)
    assert ("EXIF orientation" in caplog.text) == (orientation != 1)


def test_bands_of_a_multispectral_scene(tmp_path: Path) -> None:
    bands = np.stack([RGB[..., 2], RGB[..., 1], RGB[..., 0], 255 - RGB[..., 0], RGB[..., 1] // 2])
    path = _write_tiff(tmp_path / "ms.tif", bands)
    with pytest.raises(ValueError, match=r"ms\.tif: has 5 bands, .* --bands 4 3 2"):
        open_scene(path)
    assert np.array_equal(_read(path, bands=[3, 2, 1]), RGB)
    assert np.array_equal(_read(path, bands=[1]), np.dstack([RGB[..., 2]] * 3))
    for wrong in ([6, 1, 1], [0, 1, 2], [1, 2]):
        with pytest.raises(ValueError, match=r"bands: expected 1 or 3 numbers from 1 to 5"):
            open_scene(path, bands=wrong)
    # A file that names its colours needs no choice: infrared first here.
    named = _write_tiff(
        tmp_path / "named.tif",
        np.stack([255 - RGB[..., 0], RGB[..., 0], RGB[..., 1], RGB[..., 2]]),
        colorinterp=["undefined", "red", "green", "blue"],
    )
    assert np.array_equal(_read(named), RGB)


def test_palette_and_nodata_of_tiffs(tmp_path: Path) -> None:
    index = (RGB[..., 0] // 128)[None]
    colors = {0: (10, 20, 30, 255), 1: (200, 100, 50, 255)}
    path = _write_tiff(tmp_path / "p.tif", index, colormap=colors)
    expected = np.where(index[0][..., None] == 1, [200, 100, 50], [10, 20, 30])
    assert np.array_equal(_read(path), expected)

    deep = (500 + 4 * RGB.astype(np.int32)).transpose(2, 0, 1).astype(np.int16)
    deep[:, :, :45] = -9999
    path = _write_tiff(tmp_path / "n.tif", deep, nodata=-9999)
    with open_scene(path) as scene:
        assert scene.read(0, 0, 40, 60) is None
        picture = scene.read(45, 0, 90, 60)
    # Pixels without data have no part in the stretch.
    assert picture is not None and picture.min() == 0 and picture.max() == 255

    real = deep.astype(np.float32)
    real[:, :, :45] = np.nan
    with open_scene(_write_tiff(tmp_path / "f.tif", real, nodata=np.nan)) as scene:
        assert scene.read(0, 0, 40, 60) is None
        again = scene.read(45, 0, 90, 60)
    assert again is not None and np.array_equal(again, picture)


def test_where_a_geotiff_lies(tmp_path: Path) -> None:
    affine = pytest.importorskip("affine", reason="needs tcm_d2[geo]")
    transform = affine.Affine(0.5, 0, 400000, 0, -0.5, 5600000)
    bands = RGB.transpose(2, 0, 1)
    path = _write_tiff(
        tmp_path / "g.tif",
        bands,
        crs="EPSG:32633",
        transform=transform,
        tiled=True,
        blockxsize=16,
        blockysize=16,
    )
    with open_scene(path) as scene:
        assert scene.geo is not None and scene.geo.crs_name == "EPSG:32633"
        corner = scene.geo.to_map(np.array([[0.0, 0], [90, 60]]))
        assert corner.tolist() == [[400000, 5600000], [400045, 5599970]]
        scene.plan_windows((32, 32))
        # In bytes: a cache of 64 of these would decode every block anew for each window.
        rasterio = pytest.importorskip("rasterio")
        assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") == 64 * 2**20
        assert np.array_equal(scene.read(5, 6, 37, 38), RGB[6:38, 5:37])
        small = scene.read_overview(30)
    assert small.shape == (20, 30, 3)
    assert np.abs(small.mean(axis=(0, 1)) - RGB.mean(axis=(0, 1))).max() < 2
    in_memory = array_scene(RGB, channel_order="RGB").read_overview(30)
    assert np.abs(small.astype(int) - in_memory).mean() < 3


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = _write_tiff(tmp_path / "slc.tif", np.ones((1, 8, 8), np.complex64))
    with pytest.raises(BadImageError, match=r"slc\.tif: holds complex numbers"):
        open_scene(path)


@pytest.mark.usefixtures("_with_and_without_rasterio")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_what_is_no_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"text{suffix}").write_text("not a picture")
    (tmp_path / f"empty{suffix}").touch()
    cv2.imwrite(str(tmp_path / f"cut{suffix}"), RGB)
    whole = (tmp_path / f"cut{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "empty", "cut"):
        with pytest.raises(BadImageError, match=rf"{name}\{suffix}"):
            _read(tmp_path / f"{name}{suffix}")
    with pytest.raises(FileNotFoundError, match="expected an image file, found a folder"):
        open_scene(tmp_path)


@pytest.mark.parametrize("values", [(5, 5), (1,), (9, 2)])
def test_value_ranges_that_are_none(tmp_path: Path, values: Any) -> None:
    with pytest.raises(ValueError, match="value_range: expected two numbers, low < high"):
        open_scene(tmp_path / "x.png", value_range=values)


def test_overview_in_memory_is_made_in_strips() -> None:
    image = noise_image(1700, 900)
    small = array_scene(image, channel_order="RGB").read_overview(850)
    whole = cv2.resize(image, (450, 850), interpolation=cv2.INTER_AREA)
    assert small.shape == whole.shape and np.abs(small.astype(int) - whole).max() <= 1


@pytest.mark.realdata
def test_real_pictures_are_read_as_in_training(realdata_dir: Path) -> None:
    paths = sorted((realdata_dir / "dota").rglob("images/*.png"))[:3]
    paths += sorted((realdata_dir / "hrsc2016").rglob("images/*.jpg"))[:3]
    if not paths:
        pytest.skip(f"no pictures in {realdata_dir}")
    for path in paths:
        assert np.array_equal(_read(path), read_image(path, channel_order="RGB")), path
