"""Files as people meet them: what they hold is read, said, or refused with file, place and reason.

Each case stands for a kind that was lost or changed without a word: turned boxes read as upright,
class names by rank, flags, angles in other units, files of another format.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tcm_d2.data.conversion import (
    convert_annotations,
    describe_conversion,
    read_class_names,
)
from tcm_d2.data.formats.reading import ReadOptions, _is_plainly_convex, image_id_of
from tcm_d2.structures.quads import quads_cross_themselves, signed_areas
from tests.data.foreign_files import (
    BNDBOX,
    TURNED,
    TURNED_FILES,
    coco,
    obj,
    quads,
    read,
    robndbox,
    voc,
)


@pytest.mark.parametrize("case", TURNED_FILES)
def test_turned_boxes_stay_turned(tmp_path: Path, case: str) -> None:
    name, content, fmt = TURNED_FILES[case]
    reading = read(tmp_path, name, content, strict=True)
    np.testing.assert_allclose(quads(reading), TURNED[None], atol=0.06)
    assert reading.summary.kinds == {"turned": 1} and reading.summary.formats == {fmt: 1}
    assert list(reading.images) == ["a"]


def test_upright_boxes_are_counted_and_refused_when_strict(tmp_path: Path) -> None:
    files = {
        "a.xml": voc(obj(BNDBOX)),
        "a.json": coco({"bbox": [100, 130, 200, 40]}),
        "b.json": json.dumps(
            {
                "shapes": [
                    {"label": "ship", "points": [[1, 2], [30, 20]], "shape_type": "rectangle"}
                ],
                "imagePath": "b.jpg",
            }
        ),
    }
    for name, content in files.items():
        assert read(tmp_path, name, content).summary.kinds == {"upright": 1}
        with pytest.raises(ValueError, match=rf"{name}.* an upright one without an angle"):
            read(tmp_path, name, content, strict=True)
    zero = coco({"bbox": [1, 2, 30, 20], "attributes": {"rotation": 0.0}})
    assert read(tmp_path, "c.json", zero, strict=True).summary.kinds == {"turned": 1}


@pytest.mark.parametrize("case", TURNED_FILES)
@pytest.mark.parametrize("fmt", ["hrsc", "dior", "coco", "yolo-obb", "ssdd", "icdar"])
def test_files_of_another_format_are_refused_and_the_right_one_named(
    tmp_path: Path, case: str, fmt: str
) -> None:
    name, content, own = TURNED_FILES[case]
    if own != fmt:
        with pytest.raises(ValueError, match=rf"read it with --format {own}$"):
            read(tmp_path, name, content, fmt)


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        *[(word, 0) for word in ("0", "", "False", "false", "Unspecified", "no", " 0 ")],
        *[(word, 1) for word in ("1", "True", "yes")],
        *[(word, None) for word in ("2", "-1", "hard", "0.5", "10")],
    ],
)
def test_difficult_flags(tmp_path: Path, word: str, flag: int | None) -> None:
    content = voc(obj(f"<difficult>{word}</difficult>{robndbox(0.1)}"))
    if flag is None:
        with pytest.raises(ValueError, match=r"a\.xml: object 1: expected 1 or true, 0 or false"):
            read(tmp_path, "a.xml", content)
        return
    assert read(tmp_path, "a.xml", content).images["a"].objects[0].difficult == flag


def test_degrees_are_not_taken_as_radians(tmp_path: Path) -> None:
    content = voc(obj(robndbox(0.1)) + obj(robndbox(30.0)))
    for on_error in ("stop", "skip", "repair"):
        with pytest.raises(ValueError, match=r"object 2: expected an angle in radians, got 30"):
            read(tmp_path, "a.xml", content, on_error=on_error)
    reading = read(tmp_path, "a.xml", content, angle_unit="degrees")
    np.testing.assert_allclose(quads(reading)[1], TURNED, atol=0.06)


@pytest.mark.parametrize("declared", ["GB2312", "GBK", "gb18030", None])
def test_chinese_encodings(tmp_path: Path, declared: str | None) -> None:
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    content = (head + voc(obj(robndbox(0.1), name="\u8239\u8236\u9f98"))).encode("gb18030")
    reading = read(tmp_path, "a.xml", content)
    assert reading.images["a"].objects[0].class_name == "\u8239\u8236\u9f98"
    path = tmp_path / "classes.txt"
    path.write_bytes("\u8239\n\u8f66\n".encode("gbk"))
    assert read_class_names(path) == {0: "\u8239", 1: "\u8f66"}


def test_icdar_with_and_without_languages(tmp_path: Path) -> None:
    corners = "377,117,463,117,465,130,378,130"
    texts = ["Latin,HELLO", "None,###", "Korean,###", "###", "hello, you", "#####", "Arabic,a,###"]
    content = "\ufeff" + "\r\n".join(f"{corners},{text}" for text in texts)
    objects = read(tmp_path, "gt_img_1.txt", content).images["img_1"].objects
    assert [o.difficult for o in objects] == [0, 1, 1, 1, 0, 0, 0]


def test_the_index_of_a_class_is_its_key(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "labels").mkdir()
    row = "0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5"
    (tmp_path / "labels" / "a.TXT").write_text(f"1 {row}\n2 {row}\n")
    names = {
        "from1.yaml": ("names:\n  1: ship\n  2: car\n  3: plane\n", ["ship", "car"]),
        "quoted.yaml": ("names:\n  '2': car\n  '1': ship\n  '0': no\n", ["ship", "car"]),
        "list.yaml": ("names: [a, b, c]\n", ["b", "c"]),
        "gaps.yaml": (
            "names:\n  0: a\n  2: c\n  5: f\n",
            r"a\.TXT:1: .* index of 0, 2, 5, got '1'",
        ),
        "rows.txt": ("a\nb\nc\n\n", ["b", "c"]),
        "blank.txt": ("a\n\nb\nc\n", r"blank\.txt: expected class names, one a line, got a blank"),
        "words.yaml": ("names:\n  a: b\n", r"words\.yaml: names: expected an index"),
        "none.yaml": ("train: x\n", r"none\.yaml: expected class names"),
        "broken.yaml": ("names: [a\n", r"broken\.yaml: expected YAML"),
    }
    for name, (text, wanted) in names.items():
        (tmp_path / name).write_text(text)

        def convert(name: str = name) -> list[str]:
            options = ReadOptions(classes=read_class_names(tmp_path / name))
            convert_annotations(
                tmp_path / "labels",
                tmp_path / "out",
                image_dir=tmp_path / "images",
                options=options,
            )
            rows = (tmp_path / "out" / "a.txt").read_text().splitlines()
            return [row.split()[8] for row in rows]

        if isinstance(wanted, str):
            with pytest.raises(ValueError, match=wanted):
                convert()
        else:
            assert convert() == wanted


def test_other_spellings_of_a_class_become_one_and_are_said(tmp_path: Path) -> None:
    content = voc(obj(robndbox(0.1), name="tennis court") + obj(robndbox(0.1), name="ship"))
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "a.XML").write_text(content)
    summary = convert_annotations(tmp_path / "xml", tmp_path / "out")
    text = describe_conversion(summary, tmp_path / "out")
    assert "class 'tennis court' is written 'tennis-court'" in text
    (tmp_path / "xml" / "a.XML").write_text(content.replace("ship", "tennis_court"))
    summary = convert_annotations(tmp_path / "xml", tmp_path / "both")
    written = (tmp_path / "both" / "a.txt").read_text()
    assert written.count("tennis-court") == 2 and "_" not in written
    assert "class 'tennis_court' is written 'tennis-court'" in describe_conversion(
        summary, tmp_path / "both"
    )
    with pytest.raises(ValueError, match=r"object 1: expected a class name, got ''"):
        read(tmp_path, "b.xml", content.replace("tennis court", " "), on_error="stop")


def test_ids_with_dots_lose_only_the_suffixes_of_images() -> None:
    names = {
        "a.jpg": "a",
        "a.b.TIF": "a.b",
        "scene.v2": "scene.v2",
        "P1.webp": "P1",
        ".jpg": ".jpg",
    }
    assert {name: image_id_of(name) for name in names} == names


def test_skipping_counts_what_is_left_out_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    good, bad = obj(robndbox(0.1)), obj(robndbox("x"))
    (tmp_path / "xml" / "a.xml").write_text(voc(good + bad + good))
    (tmp_path / "xml" / "b.xml").write_text(voc(good)[:-20])
    with pytest.raises(ValueError, match=r"a\.xml: object 2: expected a finite number in <angle>"):
        convert_annotations(tmp_path / "xml", tmp_path / "out")
    summary = convert_annotations(
        tmp_path / "xml", tmp_path / "out", options=ReadOptions(on_error="skip")
    )
    assert summary.read.left_out.counts == {"not a number": 1, "not an XML file": 1}
    text = describe_conversion(summary, tmp_path / "out")
    assert "1 images, 2 objects" in text and "left out: 1 x not an XML file" in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_what_has_no_outline_is_left_out_and_said(tmp_path: Path) -> None:
    content = (
        '<annotations><image id="0" name="d/a.jpg" width="40" height="30"><points label="x" '
        'points="1,2"/><tag label="x"/><ellipse label="ship" cx="20" cy="10" rx="9" ry="4" '
        'rotation="90"/><mask label="ship" rle="1,3,1,3" left="5" top="6" width="4" height="2"/>'
        '<polygon label="ship" points="1,1;9,1;9,9;5,12;1,9"/></image></annotations>'
    )
    reading = read(tmp_path, "a.xml", content)
    assert reading.summary.left_out.counts == {
        "<points> without outline": 1,
        "<tag> without outline": 1,
    }
    assert reading.summary.kinds == {"turned": 1, "fitted": 2}
    found = quads(reading)
    np.testing.assert_allclose(found[0].min(axis=0), [16, 1], atol=1e-9)
    np.testing.assert_allclose(found[1].max(axis=0), [9, 8], atol=1e-9)
    with pytest.raises(ValueError, match="not left out because of --strict"):
        read(tmp_path, "a.xml", content, strict=True)
    video = '<annotations><track id="0" label="x"><box frame="0"/></track></annotations>'
    with pytest.raises(ValueError, match="export the task as 'CVAT for images'"):
        read(tmp_path, "b.xml", video)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", b"\x89PNG\r\n\x1a\n\0\0\0", "expected a text file"),
        ("a.xml", b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>", "entities"),
        ("a.json", b"[" * 100_000, "expected a JSON file, got a damaged one"),
        ("a.json", b'{"shapes": 5}', "looks like none; say with --format which"),
        ("a.txt", b"", "looks like none|expected annotations of images, found none"),
        ("a.txt", b"some words\n", "looks like none"),
    ],
)
def test_files_of_no_format(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, name, content)


def test_a_misspelt_rotation_is_said(tmp_path: Path) -> None:
    content = TURNED_FILES["CVAT's XML"][1].replace("rotation", "rotatiom")
    summary = read(tmp_path, "a.xml", content).summary
    assert summary.repaired.counts == {"unknown attribute of a box": 1}
    with pytest.raises(ValueError, match="rotatiom: not read; not repaired because of --strict"):
        read(tmp_path, "a.xml", content, strict=True)


def test_the_quick_check_of_corners_agrees_with_the_thorough_one() -> None:
    rng = np.random.default_rng(0)
    quads = rng.uniform(-50, 50, (4000, 4, 2))
    quads[::3] = np.round(quads[::3] / 20) * 20
    plain = np.array([_is_plainly_convex(quad.reshape(-1).tolist()) for quad in quads])
    areas = np.abs(signed_areas(quads))
    assert plain.sum() > 500
    assert not quads_cross_themselves(quads[plain]).any() and (areas[plain] > 0.5).all()
