"""Windows, kept objects and pixels recomputed from mmrotate's rules, one object at a time."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely

from tcm_d2.data.dota import patch_pixels as pixels
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.dota.manifest import read_manifest
from tcm_d2.data.dota.split import (
    MULTI_SCALE,
    SINGLE_SCALE,
    SplitConfig,
    SplitSource,
    split_dataset,
)

PAD_BGR = (104, 116, 124)


def expected_windows(width: int, height: int, sizes_gaps: list[tuple[int, int]]) -> list[list[int]]:
    """Return the windows from the published rule: steps, the last one moved to the border."""
    windows = []
    for size, gap in sizes_gaps:
        starts = []
        for length in (width, height):
            step = size - gap
            count = 1 if length <= size else math.ceil((length - size) / step + 1)
            line = [step * i for i in range(count)]
            if count > 1 and line[-1] + size > length:
                line[-1] = length - size
            starts.append(line)
        windows += [[x, y, x + size, y + size] for x in starts[0] for y in starts[1]]
    shares = [
        (min(x2, width) - x1) * (min(y2, height) - y1) / ((x2 - x1) * (y2 - y1))
        for x1, y1, x2, y2 in windows
    ]
    if max(shares) <= 0.6:
        shares = [1.0 if abs(share - max(shares)) < 0.01 else share for share in shares]
    return [window for window, share in zip(windows, shares) if share > 0.6]


def _write_source(root: Path, size_hw: tuple[int, int], *, suffix: str = ".png") -> np.ndarray:
    """Write image P1 with 60 objects, many of them cut by windows."""
    rng = np.random.default_rng(size_hw)
    (root / "images").mkdir(parents=True)
    (root / "labelTxt").mkdir()
    image = rng.integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    assert cv2.imwrite(str(root / "images" / f"P1{suffix}"), image)
    lines = []
    for _ in range(60):
        center = rng.uniform((0, 0), size_hw[::-1])
        angle, (w, h) = rng.uniform(0, np.pi), rng.uniform(6, 90, 2)
        u, v = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        quad = [
            center + a * u * w / 2 + b * v * h / 2 for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))
        ]
        numbers = " ".join(f"{value:.1f}" for value in np.ravel(quad))
        lines.append(f"{numbers} {DOTA_V1_CLASSES[rng.integers(15)]} {rng.integers(2)}")
    (root / "labelTxt" / "P1.txt").write_text("\n".join(lines) + "\n")
    return image


def _split(root: Path, out: Path, config: SplitConfig) -> None:
    split_dataset(
        [SplitSource(root / "images", root / "labelTxt")],
        out,
        config=config,
        classes=DOTA_V1_CLASSES,
        num_workers=1,
        show_progress=False,
    )


@pytest.mark.parametrize(
    ("size_hw", "config"),
    [
        ((270, 301), SplitConfig(patch_size_px=96, gap_px=20)),
        ((270, 301), SplitConfig(patch_size_px=96, gap_px=48, rates=(0.5, 1.0, 1.5))),
        ((70, 301), SplitConfig(patch_size_px=96, gap_px=48, rates=(0.5, 1.0, 1.5))),
        ((50, 60), SplitConfig(patch_size_px=96, gap_px=48, rates=(0.5, 1.0, 1.5))),
    ],
)
@pytest.mark.parametrize("truncated", ["whole", "clip"])
def test_windows_objects_and_pixels(
    tmp_path: Path, size_hw: tuple[int, int], config: SplitConfig, truncated: str
) -> None:
    image = _write_source(tmp_path / "in", size_hw)
    height, width = size_hw
    objects = read_label(tmp_path / "in" / "labelTxt" / "P1.txt").objects
    settings = SplitConfig(
        **{
            **vars(config),
            "resize_patches": False,
            "mark_truncated": True,
            "truncated": truncated,
        }
    )
    _split(tmp_path / "in", tmp_path / "out", settings)
    sizes_gaps = [(int(config.patch_size_px / r), int(config.gap_px / r)) for r in config.rates]
    windows = expected_windows(width, height, sizes_gaps)
    records = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert [r.patch_id for r in records] == [
        f"P1__{x2 - x1}__{x1}___{y1}" for x1, y1, x2, _ in windows
    ]
    num_kept = num_cut = 0
    for (x1, y1, x2, y2), record in zip(windows, records):
        padded = np.empty((y2 - y1, x2 - x1, 3), dtype=np.uint8)
        padded[:] = PAD_BGR
        part = image[y1:y2, x1:x2]
        padded[: part.shape[0], : part.shape[1]] = part
        assert np.array_equal(cv2.imread(str(tmp_path / "out" / record.file_name)), padded)
        written = read_label(tmp_path / "out" / "labelTxt" / f"{record.patch_id}.txt").objects
        expected = []
        for obj in objects:
            polygon = shapely.Polygon(np.array(obj.quad).reshape(4, 2))
            inside = polygon.intersection(shapely.box(x1, y1, x2, y2)).area / polygon.area
            if inside >= 0.7:
                expected.append((obj, inside))
        assert len(written) == len(expected)
        for ours, (theirs, inside) in zip(written, expected):
            is_cut = inside < 1 - 1e-9
            assert ours.class_name == theirs.class_name
            assert ours.difficult == (2 if is_cut else theirs.difficult)
            moved = np.array(theirs.quad).reshape(4, 2) - (x1, y1)
            if truncated == "whole" or not is_cut:
                np.testing.assert_allclose(np.array(ours.quad).reshape(4, 2), moved, atol=1e-4)
            else:
                assert 0 <= min(ours.quad) and max(ours.quad) <= x2 - x1
            num_kept += 1
            num_cut += is_cut
    assert num_kept > 20
    assert num_cut > 3 or size_hw == (50, 60)


def test_published_settings() -> None:
    """Sizes and overlaps of the published single- and multi-scale splits."""
    assert (SINGLE_SCALE.patch_size_px, SINGLE_SCALE.gap_px, SINGLE_SCALE.rates) == (
        1024,
        200,
        (1.0,),
    )
    sizes = [(int(1024 / r), int(MULTI_SCALE.gap_px / r)) for r in MULTI_SCALE.rates]
    assert sizes == [(2048, 1000), (1024, 500), (682, 333)]


@pytest.mark.parametrize("rates", [(1.0,), (0.5, 1.0, 1.5)])
def test_large_tiffs_are_read_once_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: tuple[float, ...]
) -> None:
    pytest.importorskip("rasterio")
    _write_source(tmp_path / "in", (270, 301), suffix=".tif")
    config = SplitConfig(patch_size_px=96, gap_px=20, rates=rates)
    _split(tmp_path / "in", tmp_path / "whole", config)
    monkeypatch.setattr(pixels, "WHOLE_FILE_PX", 1)
    read, rows_read = pixels.RasterRows._read, []

    def count(self: pixels.RasterRows, y1: int, y2: int) -> np.ndarray:
        rows_read.extend(range(y1, y2))
        return read(self, y1, y2)

    monkeypatch.setattr(pixels.RasterRows, "_read", count)
    _split(tmp_path / "in", tmp_path / "rows", config)
    assert rows_read == list(range(270))
    for path in (tmp_path / "whole" / "images").iterdir():
        assert (tmp_path / "rows" / "images" / path.name).read_bytes() == path.read_bytes()


def test_large_tiffs_of_another_depth_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rasterio")
    monkeypatch.setattr(pixels, "WHOLE_FILE_PX", 1)
    _write_source(tmp_path / "in", (120, 130), suffix=".tif")
    path = tmp_path / "in" / "images" / "P1.tif"
    assert cv2.imwrite(str(path), np.zeros((120, 130, 3), dtype=np.uint16))
    with pytest.raises(ValueError, match=r"P1\.tif: expected 8 bits per channel, got uint16"):
        _split(tmp_path / "in", tmp_path / "out", SplitConfig())
    assert not list((tmp_path / "out" / "images").iterdir())
