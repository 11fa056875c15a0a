"""Pictures of strangers: nothing is fetched, nothing outside is read, nothing hangs or bursts."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcm_d2.data.dota.split import SplitConfig, SplitSource, split_dataset
from tcm_d2.data.images import BadImageError, read_head, read_image, read_image_size_hw
from tcm_d2.inference.rasters import open_scene
from tests.faults.hostile_rasters import (
    MAX_MEMORY_MB,
    MAX_SECONDS,
    jpeg_with_size,
    make_good_files,
    make_taller,
    measure,
    png_head,
    png_of_zeros,
    run_campaign,
    tiff_head,
    try_file,
)

WMS = (
    '<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>'
    "<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>0</UpperLeftY><LowerRightX>64</LowerRightX>"
    "<LowerRightY>64</LowerRightY><SizeX>64</SizeX><SizeY>64</SizeY><TileLevel>0</TileLevel>"
    "</DataWindow><BlockSizeX>64</BlockSizeX><BlockSizeY>64</BlockSizeY><BandsCount>3</BandsCount>"
    "</GDAL_WMS>"
)
BAND = (
    '<VRTRasterBand dataType="Byte" band="1"{attributes}><SimpleSource>'
    '<SourceFilename relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>1</SourceBand>'
    "</SimpleSource></VRTRasterBand>"
)
RAW_BAND = (
    '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    '<SourceFilename relativeToVRT="0">/etc/passwd</SourceFilename><ImageOffset>0</ImageOffset>'
    "<PixelOffset>1</PixelOffset><LineOffset>8</LineOffset></VRTRasterBand>"
)


def _vrt(name: str, relative: int = 1, attributes: str = "", extra: str = "") -> str:
    band = BAND.format(name=name, relative=relative, attributes=attributes)
    return f'<VRTDataset rasterXSize="8" rasterYSize="8">{extra}{band}</VRTDataset>'


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that notes what it is asked for."""
    seen: list[str] = []

    class _Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", seen
        running.shutdown()
        thread.join()


def _save_tiff(path: Path, size: int = 64, **options: object) -> Path:
    rasterio = pytest.importorskip("rasterio", reason="needs tcm_d2[geo]")
    profile = {"count": 1, "height": size, "width": size, "dtype": "uint8", **options}
    tags = profile.pop("overviews", None)
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(np.full((1, size, size), 9, np.uint8))
        if tags:
            file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=tags)
    return path


def test_nothing_is_fetched(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    pytest.importorskip("rasterio", reason="needs tcm_d2[geo]")
    url, seen = server
    wms = WMS.format(url=url)
    for name in ("a.jpg", "a.tif", "a.png", "a.vrt", "a.wms"):
        (tmp_path / name).write_text(wms)
        for read in (lambda p: read_image(p, channel_order="RGB"), open_scene):
            with pytest.raises(BadImageError, match=name.replace(".", r"\.")):
                read(tmp_path / name)
    # Files beside a good one, and files that a good one names.
    for suffix in (".ovr", ".msk", ".aux"):
        beside = _save_tiff(tmp_path / f"beside{suffix[1:]}.tif")
        Path(f"{beside}{suffix}").write_text(wms)
        with pytest.raises(BadImageError, match="the file beside it is refused"):
            open_scene(beside)
    for number, target in enumerate((f"/vsicurl/{url}/o.tif", str(tmp_path / "a.wms"), wms)):
        named = _save_tiff(tmp_path / f"named{number}.tif", overviews=target)
        with pytest.raises(BadImageError, match="for its overviews, which is not opened"):
            open_scene(named)
    aux = _save_tiff(tmp_path / "aux.tif")
    Path(f"{aux}.aux.xml").write_text(
        '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
        f"/vsicurl/{url}/aux.tif</MDI></Metadata></PAMDataset>"
    )
    with pytest.raises(BadImageError, match="for its overviews, which is not opened"):
        open_scene(aux)
    (tmp_path / "m.vrt").write_text(_vrt(f"/vsicurl/{url}/source.tif", relative=0))
    with pytest.raises(BadImageError, match="outside of its folder"):
        open_scene(tmp_path / "m.vrt")
    for given in (f"{url}/a.tif", f"/vsicurl/{url}/a.tif", wms):
        with pytest.raises((FileNotFoundError, BadImageError, OSError)):
            open_scene(given)
    time.sleep(0.1)
    assert not seen


def test_virtual_rasters_read_only_what_lies_below_them(tmp_path: Path) -> None:
    folder = tmp_path / "mosaic"
    (folder / "tiles").mkdir(parents=True)
    outside = _save_tiff(tmp_path / "secret.tif", 8)
    _save_tiff(folder / "tiles" / "a.tif", 8)
    (folder / "link.tif").symlink_to(outside)
    (folder / "loop.vrt").write_text(_vrt("loop.vrt"))
    (folder / "raw.tif").write_bytes(b"\xff\xd8\xff\xfe<VRTDataset rasterXSize='1'>" + b"\0" * 99)
    good = {"good": _vrt("tiles/a.tif"), "absolute": _vrt(str(folder / "tiles/a.tif"), relative=0)}
    for name, text in good.items():
        (folder / f"{name}.vrt").write_text(text)
        with open_scene(folder / f"{name}.vrt") as scene:
            assert np.array_equal(scene.read(0, 0, 8, 8), np.full((8, 8, 3), 9))
    python = "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</Pixel"
    python += "FunctionLanguage>"
    bad = {
        "parent": (_vrt("../secret.tif"), "outside of its folder"),
        "root": (_vrt(str(outside), relative=0), "outside of its folder"),
        "link": (_vrt("link.tif"), "outside of its folder"),
        "text": (_vrt("/etc/passwd", relative=0), "outside of its folder"),
        "nested": (_vrt("loop.vrt"), "is not a plain raster"),
        "disguised": (_vrt("raw.tif"), "is not a plain raster"),
        "missing": (_vrt("none.tif"), "image file not found"),
        "inline": (_vrt("&lt;VRTDataset/&gt;", relative=0), "outside of its folder"),
        "raw": (f'<VRTDataset rasterXSize="8" rasterYSize="8">{RAW_BAND}</VRTDataset>', "Raw"),
        "function": (_vrt("tiles/a.tif", extra=python), "PixelFunctionType"),
        "warped": (_vrt("tiles/a.tif", extra="<GDALWarpOptions/>"), "GDALWarpOptions"),
        "entity": ('<!DOCTYPE a [<!ENTITY b "c">]>' + _vrt("tiles/a.tif"), "document type"),
        "no xml": ("<VRTDataset", "no XML"),
        "overviews": (
            _vrt("tiles/a.tif", extra='<Metadata><MDI key="OVERVIEW_FILE">/etc/x</MDI></Metadata>'),
            "overviews",
        ),
    }
    for name, (text, reason) in bad.items():
        (folder / f"{name}.vrt").write_text(text)
        with pytest.raises(BadImageError, match=reason) as refused:
            open_scene(folder / f"{name}.vrt")
        assert f"{name}.vrt" in str(refused.value)
    # By another name it is not a picture at all.
    for suffix in (".tif", ".jpg", ".img"):
        (folder / f"good{suffix}").write_text(good["good"])
        with pytest.raises(BadImageError, match="expected an image file"):
            open_scene(folder / f"good{suffix}")


def _lying() -> dict[str, bytes]:
    return {
        "million.tif": tiff_head(10**6, 10**6),
        "million_strips.tif": tiff_head(10**6, 10**6, rows_per_strip=1),
        "wide.tif": tiff_head(2**31 - 1, 1),
        "grey.tif": tiff_head(60_000, 60_000, samples=1),
        "allowed.tif": tiff_head(9_000, 9_000),
        "rgba.tif": tiff_head(15_000, 15_000, samples=4),
        "huge.png": png_head(2**31 - 1, 2**31 - 1),
        "tall.png": png_head(1, 2**31 - 1),
        "large.png": png_head(60_000, 60_000),
        "zero.png": png_head(0, 5),
        "allowed.png": png_head(9_000, 9_000),
        "large.jpg": jpeg_with_size(65_500, 65_500),
        "zero.jpg": jpeg_with_size(0, 0),
        "large.bmp": b"BM"
        + bytes(8)
        + (54).to_bytes(4, "little")
        + (40).to_bytes(4, "little")
        + (2**30).to_bytes(4, "little")
        + (2**30).to_bytes(4, "little")
        + b"\1\0\x18\0"
        + bytes(64),
        "large.jp2": b"\xff\x4f\xff\x51\0\x2f\0\0\x7f\xff\xff\xff\x7f\xff\xff\xff"
        + bytes(8)
        + (b"\x7f\xff\xff\xff" * 2)
        + bytes(8)
        + b"\0\3"
        + b"\7\1\1" * 3,
        "large.webp": b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + bytes(64),
        "large.img": b"EHFA_HEADER_TAG\0" + b"\xff" * 200,
    }


@pytest.mark.parametrize("name", sorted(_lying()))
def test_heads_that_claim_what_the_file_cannot_hold(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(_lying()[name])
    outcome, seconds, memory_mb = measure(path, _refused_everywhere)
    assert outcome == "refused" and seconds < MAX_SECONDS and memory_mb < MAX_MEMORY_MB, (
        outcome,
        seconds,
        memory_mb,
    )


def _refused_everywhere(path: Path) -> str:
    """Every way of reading ends in the one error; splitting leaves the image out when asked to."""
    assert try_file(path) in ("refused", "read")
    with pytest.raises(BadImageError, match=path.name):
        read_image(path, channel_order="RGB")
    config = SplitConfig(on_bad_image="skip")
    summary = split_dataset(
        [SplitSource(path.parent, None)],
        path.parent / "out",
        config=config,
        classes=None,
        num_workers=1,
        show_progress=False,
    )
    assert summary.skipped == {"unreadable image": 1} and summary.num_patches == 0
    assert not list((path.parent / "out" / "images").iterdir())
    return "refused"


def test_bombs_are_not_unpacked_whole(tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="needs tcm_d2[geo]")
    (tmp_path / "bomb.png").write_bytes(png_of_zeros(26_000, 26_000))
    assert (tmp_path / "bomb.png").stat().st_size < 2.1e6
    bomb = _save_tiff(tmp_path / "bomb.tif", 4_000, compress="deflate")
    with open(bomb, "r+b") as stream:
        stream.truncate(bomb.stat().st_size)
    outcome, seconds, memory_mb = measure(tmp_path / "bomb.png", _first_rows)
    assert outcome == "first rows" and seconds < MAX_SECONDS and memory_mb < MAX_MEMORY_MB
    assert read_image(bomb, channel_order="RGB").shape == (4_000, 4_000, 3)


def _first_rows(path: Path) -> str:
    with pytest.raises(BadImageError, match="decompression bomb"):
        read_image(path, channel_order="RGB")
    # Its head is no lie: row by row it can be read.
    with open_scene(path) as scene:
        scene.plan_windows((256, 256))
        window = scene.read(0, 0, 256, 256)
        assert window is not None and not window.any()
    return "first rows"


def test_an_rgba_tiff_beyond_pillow_s_guard_is_read_or_refused_by_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    rgba = np.random.default_rng(0).integers(0, 255, (40, 50, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.tif")
    for has_rasterio in (True, False):
        monkeypatch.setattr("tcm_d2.data.raster_reader.gdal.has_rasterio", lambda h=has_rasterio: h)
        if not has_rasterio or pytest.importorskip("rasterio"):
            found = read_image(tmp_path / "a.tif", channel_order="RGB")
            assert np.array_equal(found, rgba[..., :3])


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link", "null", "empty"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    makers: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": path.mkdir,
        "link": lambda: path.symlink_to(tmp_path / "b.png"),
        "null": lambda: path.symlink_to("/dev/null"),
        "empty": path.touch,
    }
    makers[kind]()
    if kind == "link":
        (tmp_path / "b.png").symlink_to(path)
    started = time.monotonic()
    for read in (read_head, read_image_size_hw, lambda p: read_image(p, channel_order="RGB")):
        with pytest.raises((BadImageError, FileNotFoundError), match=r"a\.png"):
            read(path)
    with pytest.raises((BadImageError, FileNotFoundError), match=r"a\.png"):
        open_scene(path)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_truncated_files_of_all_kinds_are_refused(tmp_path: Path, share: float) -> None:
    for path in make_good_files(tmp_path):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        for read in (lambda p: read_image(p, channel_order="RGB"), _read_scene):
            with pytest.raises(BadImageError, match=path.name):
                read(path)


@pytest.mark.parametrize("factor", [2, 30])
def test_heads_that_claim_more_rows_than_the_data_have(tmp_path: Path, factor: int) -> None:
    """The data are whole and end in order: decoders give black rows, grey ones or old memory."""
    for path in make_good_files(tmp_path):
        content = make_taller(path.read_bytes(), factor)
        if content is None:
            continue
        path.write_bytes(content)
        for read in (lambda p: read_image(p, channel_order="RGB"), _read_scene):
            with pytest.raises(BadImageError, match=path.name):
                read(path)


def _read_scene(path: Path) -> None:
    with open_scene(path, value_range=(0, 255)) as scene:
        height, width = scene.size_hw
        scene.read(0, 0, width, height)


def test_mutated_files_of_all_kinds_end_in_a_picture_or_in_the_one_error(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    folder = tmp_path / "files"
    folder.mkdir()
    counts, faults, slowest, largest = run_campaign(
        folder, seed=1, seconds=5, max_files=1000, kept=kept
    )
    assert not faults
    assert sum(counts.values()) >= 200
    assert slowest < MAX_SECONDS and largest < MAX_MEMORY_MB
