"""Annotations of other tools come back as the quads they were made from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tcm_d2.cli.main import run_command
from tcm_d2.data.conversion import ConversionSummary, convert_annotations, read_class_names
from tcm_d2.data.dota.labels import read_label
from tcm_d2.data.formats.reading import ReadOptions

SIZE_HW = (120, 200)
# center, sides, angle in radians (clockwise on screen), class
BOXES = [((60.0, 50.0), (40.0, 20.0), 0.4, "ship"), ((150.0, 80.0), (30.0, 30.0), -1.2, "plane")]


def corners(center: tuple[float, float], sides: tuple[float, float], angle: float) -> np.ndarray:
    u = np.array([math.cos(angle), math.sin(angle)]) * sides[0] / 2
    v = np.array([-math.sin(angle), math.cos(angle)]) * sides[1] / 2
    return np.array(center) + np.array([-u - v, u - v, u + v, -u + v])


def convert_to_dota(
    source_format: str, source: Path, out: Path, *, image_dir: Path | None, classes: Any
) -> ConversionSummary:
    names = classes if classes is None or isinstance(classes, dict) else dict(enumerate(classes))
    return convert_annotations(
        source,
        out,
        source_format=source_format,
        image_dir=image_dir,
        options=ReadOptions(classes=names),
    )


QUADS = [corners(*box[:3]) for box in BOXES]
NAMES = [box[3] for box in BOXES]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        picture = np.zeros((*SIZE_HW, 3), dtype=np.uint8)
        assert cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), picture)
    return tmp_path / "images"


def _check(path: Path, *, atol: float = 1e-3, names: list[str] | None = None) -> None:
    objects = read_label(path).objects
    assert [obj.class_name for obj in objects] == (names or NAMES)
    for obj, quad in zip(objects, QUADS):
        ours = np.array(obj.quad).reshape(4, 2)
        turns = [abs(np.roll(ours, turn, axis=0) - quad).max() for turn in range(4)]
        turns += [abs(np.roll(ours[::-1], turn, axis=0) - quad).max() for turn in range(4)]
        assert min(turns) < atol


def test_rolabelimg_round_trip(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    parts = [
        f"<object><type>robndbox</type><name>{name}</name><difficult>{i}</difficult><robndbox>"
        f"<cx>{c[0]}</cx><cy>{c[1]}</cy><w>{s[0]}</w><h>{s[1]}</h><angle>{angle}</angle>"
        "</robndbox></object>"
        for i, (c, s, angle, name) in enumerate(BOXES)
    ]
    parts.append(
        "<object><type>bndbox</type><name>tennis court</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
        "<xmax>9</xmax><ymax>7</ymax></bndbox></object>"
    )
    (tmp_path / "xml" / "a.xml").write_text(f"<annotation>{''.join(parts)}</annotation>")
    summary = convert_to_dota(
        "rolabelimg", tmp_path / "xml", tmp_path / "out", image_dir=None, classes=None
    )
    assert (summary.num_files, summary.read.num_objects) == (1, 3)
    _check(tmp_path / "out" / "a.txt", names=[*NAMES, "tennis-court"])
    objects = read_label(tmp_path / "out" / "a.txt").objects
    assert [obj.difficult for obj in objects] == [0, 1, 0]
    assert objects[2].quad == (1, 2, 9, 2, 9, 7, 1, 7)


def test_yolo_obb_round_trip(tmp_path: Path, images: Path) -> None:
    (tmp_path / "labels").mkdir()
    rows = []
    for quad, name in zip(QUADS, NAMES):
        numbers = " ".join(f"{v:.8f}" for v in (quad / SIZE_HW[::-1]).reshape(-1))
        rows.append(f"{['plane', 'ship'].index(name)} {numbers}")
    (tmp_path / "labels" / "a.txt").write_text("\r\n".join(rows))
    (tmp_path / "data.yaml").write_text("names:\n  0: plane\n  1: ship\n")
    classes = read_class_names(tmp_path / "data.yaml")
    assert classes == {0: "plane", 1: "ship"}
    summary = convert_to_dota(
        "yolo-obb", tmp_path / "labels", tmp_path / "out", image_dir=images, classes=classes
    )
    _check(tmp_path / "out" / "a.txt")
    assert summary.images_without_labels == ["b"]
    assert summary.read.class_counts == {"ship": 1, "plane": 1}


def test_coco_round_trip_keeps_quads_and_fits_rectangles_to_other_outlines(tmp_path: Path) -> None:
    ship, plane = (quad.reshape(-1).tolist() for quad in QUADS)
    # The plane as two triangles: the rectangle around all of it is the square again.
    triangles = [plane[:6], plane[4:8] + plane[:2]]
    annotations = [
        {"image_id": 7, "category_id": 2, "segmentation": [ship]},
        {"image_id": 7, "category_id": 1, "segmentation": triangles, "iscrowd": 0},
        {"image_id": 7, "category_id": 1, "segmentation": {"counts": [3, 4], "size": [9, 9]}},
        {"image_id": 8, "category_id": 1, "bbox": [1, 2, 8, 5], "iscrowd": 1},
    ]
    content = {
        "images": [{"id": 7, "file_name": "train/a.png"}, {"id": 8, "file_name": "b.png"}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "plane"}, {"id": 2, "name": "ship"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"coco\.json: annotation number 3: expected runs that fill"
    ):
        convert_annotations(tmp_path / "coco.json", tmp_path / "out")
    summary = convert_annotations(
        tmp_path / "coco.json", tmp_path / "out", options=ReadOptions(on_error="skip")
    )
    assert summary.read.kinds == {"turned": 1, "fitted": 1, "upright": 1}
    assert (summary.read.num_objects, summary.read.left_out.counts) == (3, {"bad mask": 1})
    _check(tmp_path / "out" / "a.txt")
    upright = read_label(tmp_path / "out" / "b.txt").objects[0]
    assert (upright.quad, upright.difficult) == ((1, 2, 9, 2, 9, 7, 1, 7), 1)


@pytest.mark.parametrize(
    ("source_format", "name", "content", "message"),
    [
        ("rolabelimg", "a.xml", "<annotation><object>", r"a\.xml: expected an XML file"),
        (
            "rolabelimg",
            "a.xml",
            "<a><object/></a>",
            r"a\.xml: object 1: expected <robndbox> or <bndbox>",
        ),
        ("dior", "a.xml", "<a><object/></a>", r"expected <robndbox> in every <object>"),
        ("hrsc", "a.xml", "<a><HRSC_Object/></a>", r"expected <mbox_cx> in every <HRSC_Object>"),
        ("yolo-obb", "a.txt", "0 .1 .2 .3", r"a\.txt:1: expected 9 fields"),
        ("yolo-obb", "a.txt", "5" + " .5" * 8, r"a\.txt:1: expected a class index of \[0, 1\)"),
        ("yolo-obb", "a.txt", "0" + " 50" * 8, r"a\.txt:1: .*are these pixels"),
        (
            "yolo-obb",
            "c.txt",
            "0" + " .5" * 8,
            r"c\.txt: image 'c': its corners are parts of the image's size",
        ),
        ("ucas", "a.txt", "1 2 3", r"a\.txt:1: expected 13 numbers"),
        (
            "icdar",
            "a.txt",
            "1,2,3,x,5,6,7,8,hi",
            r"a\.txt:1: expected a finite number in a corner, got 'x'",
        ),
        ("icdar", "a.txt", "1,2,3", r"a\.txt:1: expected 8 coordinates"),
        ("coco", "", '{"images": []}', r"expected a COCO file .* without annotations, categories"),
        ("rolabelimg", "a.txt", "", r"expected rolabelimg files \(\*\.xml\), found none"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, images: Path, source_format: str, name: str, content: str, message: str
) -> None:
    source = tmp_path / "source"
    if name:
        source.mkdir()
        (source / name).write_text(content)
    else:
        source.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert_to_dota(source_format, source, tmp_path / "out", image_dir=images, classes=["ship"])


def test_command_line(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gt").mkdir()
    text = "\ufeff1,2,9,2,9,7,1,7,hi, you\r\n1,2,9,2,9,7,1,7,###\r\n"
    (tmp_path / "gt" / "gt_a.txt").write_text(text, encoding="utf-8")
    arguments = ["--format", "icdar", "--annotations", tmp_path / "gt", "--out", tmp_path / "out"]
    arguments += ["--image-dir", images]
    assert run_command("convert-annotations", [str(argument) for argument in arguments]) == 0
    shown = capsys.readouterr().out
    assert "1 images, 2 objects" in shown and "1 images have no annotations" in shown
    objects = read_label(tmp_path / "out" / "a.txt").objects
    assert [obj.difficult for obj in objects] == [0, 1]
    arguments[3] = tmp_path / "nowhere"
    assert run_command("convert-annotations", [str(argument) for argument in arguments]) == 1
    assert "annotations not found" in capsys.readouterr().err


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("source_format", "folder", "annotations", "classes", "atol"),
    [
        ("dior", "dior_r", "xml_obb", None, 0.01),
        ("hrsc", "hrsc2016", "xml", None, 0.06),
        ("icdar", "icdar2015", "gt", None, 0.01),
        ("yolo-obb", "dota/dota8", "labels_yolo_obb", "dota", 0.06),
        ("yolo-obb", "ucas_aod", "labels_yolo_poly", "plane", 0.06),
    ],
)
def test_real_files(
    realdata_dir: Path,
    tmp_path: Path,
    source_format: str,
    folder: str,
    annotations: str,
    classes: str | None,
    atol: float,
) -> None:
    root = realdata_dir / folder
    names = None
    if classes == "dota":
        # Ultralytics' order of the same fifteen classes.
        names = (
            "plane ship storage-tank baseball-diamond tennis-court basketball-court "
            "ground-track-field harbor bridge large-vehicle small-vehicle helicopter roundabout "
            "soccer-ball-field swimming-pool"
        ).split()
    elif classes:
        names = ["plane", "car"]
    convert_to_dota(
        source_format, root / annotations, tmp_path, image_dir=root / "images", classes=names
    )
    num_compared = 0
    for path in tmp_path.glob("*.txt"):
        ours = read_label(path).objects
        theirs = read_label(root / "labelTxt" / path.name).objects
        assert len(ours) == len(theirs)
        for obj, expected in zip(ours, theirs):
            if classes != "plane":
                assert (obj.class_name, obj.difficult) == (expected.class_name, expected.difficult)
            quad = np.array(obj.quad).reshape(4, 2)
            turns = np.stack([np.roll(quad, turn, axis=0) for turn in range(4)])
            other = np.array(expected.quad).reshape(4, 2)
            assert abs(turns - other).max(axis=(1, 2)).min() <= atol
            num_compared += 1
    assert num_compared > 0
