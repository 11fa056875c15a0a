"""Labels made on a picture as EXIF turns it meet the stored pixels, in every reader, and back."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from tcm_d2.data.conversion import convert_annotations, describe_conversion
from tcm_d2.data.dota.labels import DotaLabel, DotaObject, read_label, write_label
from tcm_d2.data.dota.loading import load_dota_images
from tcm_d2.data.dota.split import SplitConfig, SplitSource, split_dataset
from tcm_d2.data.formats.contract import all_formats
from tcm_d2.data.formats.reading import ReadOptions
from tcm_d2.data.images import read_image
from tcm_d2.data.raster_reader.orientation import points_to_stored, turn_upright
from tcm_d2.data.validation import validate_dataset

STORED_HW = (90, 120)
# Bright in the stored picture.
X, Y = slice(20, 50), slice(10, 25)
TOOLS = ("coco", "cvat", "labelme", "x-anylabeling", "label-studio", "yolo-obb")


def _data_set(folder: Path, orientation: int) -> Path:
    picture = np.zeros((*STORED_HW, 3), dtype=np.uint8)
    picture[Y, X] = 255
    (folder / "images").mkdir(parents=True)
    (folder / "labelTxt").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(folder / "images" / "a.png", exif=exif)
    quad = (X.start, Y.start, X.stop, Y.start, X.stop, Y.stop, X.start, Y.stop)
    label = DotaLabel([DotaObject(tuple(map(float, quad)), "ship", 0)])
    write_label(folder / "labelTxt" / "a.txt", label)
    return folder


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_go_where_the_pixels_go(orientation: int) -> None:
    stored = np.arange(5 * 7).reshape(5, 7)
    upright = turn_upright(stored, orientation)
    for y, x in np.ndindex(upright.shape):
        px, py = points_to_stored(
            np.array([x + 0.5, y + 0.5]), size_hw=(5, 7), orientation=orientation
        )
        assert stored[int(py), int(px)] == upright[y, x]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_tools_meet_the_stored_pixels(
    tmp_path: Path, tool: str, orientation: int
) -> None:
    data = _data_set(tmp_path / "data", orientation)
    images = data / "images"
    options = ReadOptions(classes={0: "ship"})
    # What the tool would hold: the object as the picture is shown.
    convert_annotations(
        data / "labelTxt",
        tmp_path / "tool",
        source_format="dota",
        target_format=tool,
        image_dir=images,
        options=options,
    )
    written = tmp_path / "tool" / "labels"
    source = written if written.is_dir() else tmp_path / "tool"
    summary = convert_annotations(
        source, tmp_path / "back", source_format=tool, image_dir=images, options=options
    )
    assert summary.read.turned_images == (["a.png"] if orientation != 1 else [])
    assert ("EXIF orientation" in describe_conversion(summary, tmp_path)) == (orientation != 1)
    (found,) = read_label(tmp_path / "back" / "a.txt").objects
    corners = np.array(found.quad).reshape(4, 2)
    expected = [[X.start, Y.start], [X.stop, Y.stop]]
    assert np.allclose([corners.min(axis=0), corners.max(axis=0)], expected, atol=0.1)
    pixels = read_image(images / "a.png", channel_order="RGB")
    low, high = np.rint(corners.min(axis=0)).astype(int), np.rint(corners.max(axis=0)).astype(int)
    assert (pixels[low[1] : high[1], low[0] : high[0]] == 255).all()


def test_yolo_labels_are_parts_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    images = _data_set(tmp_path / "data", 6) / "images"
    upright = np.asarray(ImageOps.exif_transpose(Image.open(images / "a.png")))
    height, width = upright.shape[:2]
    rows, columns = np.nonzero(upright[..., 0])
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    parts = (corners / [width, height]).reshape(-1)
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "a.txt").write_text("0 " + " ".join(f"{part:.9f}" for part in parts))
    convert_annotations(
        tmp_path / "yolo",
        tmp_path / "out",
        source_format="yolo-obb",
        image_dir=images,
        options=ReadOptions(classes={0: "ship"}),
    )
    (found,) = read_label(tmp_path / "out" / "a.txt").objects
    corners = np.array(found.quad).reshape(4, 2)
    assert np.allclose(corners.min(axis=0), [X.start, Y.start], atol=0.01)
    assert np.allclose(corners.max(axis=0), [X.stop, Y.stop], atol=0.01)


def test_loader_splitter_and_validator_say_the_same_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = _data_set(tmp_path / "data", 6)
    sentence = "1 images have an EXIF orientation, which is not applied (a.png)"
    with caplog.at_level(logging.WARNING):
        (item,) = load_dota_images(data / "images", data / "labelTxt", ["ship"])
    assert (item["height"], item["width"]) == STORED_HW and caplog.text.count(sentence) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        summary = split_dataset(
            [SplitSource(data / "images", data / "labelTxt")],
            tmp_path / "split",
            config=SplitConfig(patch_size_px=128, gap_px=0, min_image_rate=0.1),
            classes=None,
            num_workers=1,
            show_progress=False,
        )
    assert summary.turned_images == ["a.png"] and caplog.text.count(sentence) == 1
    patch = cv2.imread(str(tmp_path / "split" / "images" / "a__128__0___0.png"))
    assert (patch[Y, X] == 255).all()
    report = validate_dataset(
        data / "images", data / "labelTxt", ["ship"], decode_images=True, num_workers=1
    )
    assert [f.kind for f in report.findings] == ["EXIF orientation"] and report.num_errors == 0


def test_tools_of_this_list_are_all_that_show_pictures_upright() -> None:
    upright = {name for name, item in all_formats().items() if item.shows_upright}
    assert upright == {*TOOLS, "voc", "rolabelimg"}
