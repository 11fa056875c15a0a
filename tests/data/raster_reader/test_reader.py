"""One reader: the same pixels and bands for every size, kind and ending of a file."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tcm_d2.data.images import BadImageError, list_images, read_image, read_image_size_hw
from tcm_d2.data.raster_reader import gdal, reader
from tcm_d2.data.raster_reader.reader import open_raster
from tcm_d2.inference.rasters import open_scene

rasterio = pytest.importorskip("rasterio", reason="needs tcm_d2[geo]")


def _picture(height: int = 60, width: int = 90) -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 255, (5, 6, 3), dtype=np.uint8), (width, height))
    return (smooth // 2 + rng.integers(0, 99, (height, width, 3), dtype=np.uint8)).astype(np.uint8)


RGB = _picture()


def _save(path: Path, driver: str, bands: np.ndarray = RGB, **options: object) -> Path:
    profile = {"count": bands.shape[2], "height": bands.shape[0], "width": bands.shape[1]}
    with rasterio.open(
        path, "w", driver=driver, dtype=bands.dtype, **{**profile, **options}
    ) as file:
        file.write(bands.transpose(2, 0, 1))
    return path


def _scene(path: Path, **options: object) -> np.ndarray:
    with open_scene(path, **options) as scene:
        height, width = scene.size_hw
        whole = scene.read(0, 0, width, height)
        assert whole is not None
        part = scene.read(11, 7, 41, 37)
        assert np.array_equal(part, whole[7:37, 11:41])
    return whole


def _make(folder: Path, kind: str) -> Path:
    stream = io.BytesIO()
    if kind in ("jpg", "jpg444", "webp", "bmp", "png", "tif"):
        options = {"jpg": {"quality": 90}, "jpg444": {"quality": 90, "subsampling": 0}}
        suffix = kind.removesuffix("444")
        name = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
        Image.fromarray(RGB).save(stream, name, **options.get(kind, {}))
        (folder / f"a.{suffix}").write_bytes(stream.getvalue())
        return folder / f"a.{suffix}"
    if kind == "jp2":
        return _save(folder / "a.jp2", "JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    if kind == "img":
        return _save(folder / "a.img", "HFA")
    if kind == "cog":
        return _save(folder / "a.tif", "COG", compress="deflate")
    if kind == "jpeg in tiff":
        return _save(folder / "a.tif", "GTiff", compress="jpeg", photometric="ycbcr")
    if kind == "tiled":
        return _save(folder / "a.tif", "GTiff", tiled=True, blockxsize=16, blockysize=16)
    assert kind == "vrt"
    _save(folder / "source.tif", "GTiff")
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{color}</ColorInterp>'
        '<SimpleSource><SourceFilename relativeToVRT="1">source.tif</SourceFilename>'
        f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band, color in ((1, "Red"), (2, "Green"), (3, "Blue"))
    )
    text = f'<VRTDataset rasterXSize="90" rasterYSize="60">{bands}</VRTDataset>'
    (folder / "a.vrt").write_text(text)
    return folder / "a.vrt"


KINDS = "jpg jpg444 webp bmp png tif jp2 img cog tiled vrt".split() + ["jpeg in tiff"]


@pytest.mark.parametrize("kind", KINDS)
def test_small_and_large_files_give_the_same_pixels_everywhere(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _make(tmp_path, kind)
    small = read_image(path, channel_order="RGB")
    assert np.abs(small.astype(int) - RGB).mean() < (30 if "jp" in kind or kind == "webp" else 0.01)
    assert read_image_size_hw(path) == (60, 90)
    assert np.array_equal(read_image(path, channel_order="BGR"), small[..., ::-1])
    assert np.array_equal(_scene(path), small)
    monkeypatch.setattr(reader, "WHOLE_FILE_PX", 1)
    assert np.array_equal(_scene(path), small)
    assert np.array_equal(read_image(path, channel_order="RGB"), small)


@pytest.mark.parametrize("kind", ["jpg", "webp", "bmp", "png", "tif"])
def test_without_rasterio_the_pixels_are_the_same(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _make(tmp_path, kind)
    expected = read_image(path, channel_order="RGB")
    monkeypatch.setattr(gdal, "has_rasterio", lambda: False)
    assert np.array_equal(read_image(path, channel_order="RGB"), expected)
    assert np.array_equal(_scene(path), expected)


def test_what_needs_rasterio_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _make(tmp_path, "jp2")
    monkeypatch.setattr(gdal, "has_rasterio", lambda: False)
    for read in (read_image_size_hw, lambda p: read_image(p, channel_order="RGB"), open_scene):
        with pytest.raises(BadImageError, match=r"a\.jp2: rasterio is needed to read JPEG 2000"):
            read(path)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "jp2", "bmp"])
def test_the_ending_of_a_name_does_not_choose_the_decoder(tmp_path: Path, kind: str) -> None:
    path = _make(tmp_path, kind)
    expected = read_image(path, channel_order="RGB")
    for suffix in (".tif", ".png", ".JPG", ""):
        other = path.rename(tmp_path / f"renamed{suffix}")
        assert np.array_equal(read_image(other, channel_order="RGB"), expected)
        assert np.array_equal(_scene(other), expected)
        path = other


def test_folders_list_files_of_all_kinds_in_upper_and_lower_case(tmp_path: Path) -> None:
    for name in ("a.WEBP", "b.JP2", "c.Tif", "d.img", "e.jpeg", "f.vrt", "g.txt"):
        (tmp_path / name).touch()
    assert list(list_images(tmp_path)) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_uses_the_whole_range(tmp_path: Path, bits: int) -> None:
    levels = (np.arange(90 * 60) % 2**bits).astype(np.uint8).reshape(60, 90, 1)
    path = _save(tmp_path / "nbits.png", "PNG", levels, NBITS=bits)
    with open_raster(path) as raster:
        found = raster.read((0,))[..., 0]
    assert np.array_equal(found, cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    assert found.max() == 255


def test_four_bands_without_names_are_not_taken_for_colours(tmp_path: Path) -> None:
    bands = np.dstack([RGB, 255 - RGB[..., :1]])
    path = _save(tmp_path / "rgbi.jp2", "JP2OpenJPEG", bands, QUALITY="100", REVERSIBLE="YES")
    with pytest.raises(ValueError, match=r"rgbi\.jp2: has 4 bands, .* --bands 4 3 2"):
        open_scene(path)
    with pytest.raises(BadImageError, match=r"rgbi\.jp2: expected 1, 3 or 4 channels with names"):
        read_image(path, channel_order="RGB")
    assert np.array_equal(_scene(path, bands=[4, 1, 2]), bands[..., [3, 0, 1]])


def test_bytes_behind_the_end_are_no_fault_and_missing_ones_are(tmp_path: Path) -> None:
    for kind in ("jpg", "png"):
        path = _make(tmp_path, kind)
        content = path.read_bytes()
        expected = read_image(path, channel_order="RGB")
        path.write_bytes(content + b"x" * 100_000)
        assert np.array_equal(read_image(path, channel_order="RGB"), expected)
        path.write_bytes(content[:-40] + b"x" * 100_000)
        with pytest.raises(BadImageError, match=rf"a\.{kind}: expected a complete"):
            read_image(path, channel_order="RGB")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_thumbnail_in_the_head_is_not_the_end_of_a_jpeg(
    tmp_path: Path, progressive: bool
) -> None:
    thumbnail = io.BytesIO()
    Image.fromarray(RGB[:20, :20]).save(thumbnail, "JPEG")
    stream = io.BytesIO()
    exif = b"Exif\0\0" + thumbnail.getvalue()
    Image.fromarray(RGB).save(stream, "JPEG", exif=exif, progressive=progressive)
    content = stream.getvalue()
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert read_image(path, channel_order="RGB").shape == RGB.shape
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadImageError, match="truncated"):
        read_image(path, channel_order="RGB")


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_whose_data_end_early_before_an_end_mark(
    tmp_path: Path, subsampling: int, optimize: bool, mode: str
) -> None:
    path, stream = tmp_path / "a.jpg", io.BytesIO()
    picture = Image.fromarray(_picture(160, 210)).convert(mode)
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    picture.save(stream, "JPEG", quality=85, optimize=optimize, **options)
    content = stream.getvalue()
    path.write_bytes(content)
    read_image(path, channel_order="RGB")
    for share in (0.4, 0.7, 0.95):
        path.write_bytes(content[: int(len(content) * share)] + b"\xff\xd9")
        with pytest.raises(BadImageError, match=r"a\.jpg: .* data end before the picture does"):
            read_image(path, channel_order="RGB")


@pytest.mark.parametrize("optimize", [False, True])
def test_a_jpeg_that_is_grey_at_its_end_is_whole(tmp_path: Path, optimize: bool) -> None:
    grey = RGB.copy()
    grey[30:] = 128
    for picture in (grey, np.full_like(grey, 128)):
        Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95, optimize=optimize)
        assert (read_image(tmp_path / "a.jpg", channel_order="RGB")[-4:] == 128).all()
