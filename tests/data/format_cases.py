"""Random objects written in every foreign format by code of its own, for the readers' tests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

SIZE_HW = (600, 800)
VEDAI_NUMBERS = {"car": 1, "truck": 2, "boat": 23, "plane": 31}


class Box(NamedTuple):
    """A rectangle; the angle is clockwise on screen."""

    cx: float
    cy: float
    width: float
    height: float
    angle_deg: float
    name: str
    difficult: int

    def corners(self) -> list[list[float]]:
        """Return the corners from the unturned top left on, clockwise."""
        angle = math.radians(self.angle_deg)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (self.width, self.height) / 2
        points: list[list[float]] = (half @ turn.T + (self.cx, self.cy)).tolist()
        return points


class Damage(NamedTuple):
    """Which object's first number is written as what."""

    index: int
    token: Any


# Takes the number of an object and one of its numbers; gives what is written.
Number = Callable[[int, float], Any]
Encoder = Callable[[Sequence[Box], Number], str]


@dataclass(frozen=True)
class FormatCase:
    """A format, how objects are written in it, and what it cannot say.

    Attributes:
        format: the name of its reader.
        file_name: of the file.
        encode: writes objects.
        names: classes that it can write.
        keeps_difficult: whether it has such a flag.
        classes: for the reader.
    """

    format: str
    file_name: str
    encode: Encoder
    names: tuple[str, ...] = ("ship", "tennis court", "\u8239")
    keeps_difficult: bool = True
    classes: dict[int, str] | None = None

    def write(self, boxes: Sequence[Box], damage: Damage | None = None) -> bytes:
        """Return the file, with one number of one object replaced."""
        used: set[int] = set()

        def number(index: int, value: float) -> Any:
            if damage is not None and damage.index == index and index not in used:
                used.add(index)
                return damage.token
            return value

        return self.encode(boxes, number).encode("utf-8")


def _tag(name: str, inner: object) -> str:
    return f"<{name}>{inner}</{name}>"


def _voc(inner: Callable[[int, Box, Number], str]) -> Encoder:
    def encode(boxes: Sequence[Box], number: Number) -> str:
        objects = "".join(
            _tag(
                "object",
                _tag("name", box.name)
                + _tag("difficult", box.difficult)
                + inner(index, box, number),
            )
            for index, box in enumerate(boxes)
        )
        return f"<annotation><folder>x</folder>{objects}</annotation>"

    return encode


def _values(tag: str, keys: str, prefix: str = "", unit: str = "rad") -> Any:
    def inner(index: int, box: Box, number: Number) -> str:
        angle = math.radians(box.angle_deg) if unit == "rad" else box.angle_deg
        values = (box.cx, box.cy, box.width, box.height, angle)
        return _tag(
            tag,
            "".join(_tag(prefix + k, number(index, v)) for k, v in zip(keys.split(), values)),
        )

    return inner


def _named_corners(tag: str, names: Sequence[str]) -> Any:
    def inner(index: int, box: Box, number: Number) -> str:
        pairs = zip(names, (v for corner in box.corners() for v in corner))
        return _tag(tag, "".join(_tag(name, number(index, value)) for name, value in pairs))

    return inner


def _cvat_voc(index: int, box: Box, number: Number) -> str:
    x1, y1 = box.cx - box.width / 2, box.cy - box.height / 2
    values = {"xmin": x1, "ymin": y1, "xmax": x1 + box.width, "ymax": y1 + box.height}
    inner = "".join(_tag(key, number(index, value)) for key, value in values.items())
    rotation = _tag("name", "rotation") + _tag("value", box.angle_deg)
    return _tag("bndbox", inner) + _tag("attributes", _tag("attribute", rotation))


def _fair1m(boxes: Sequence[Box], number: Number) -> str:
    objects = ""
    for index, box in enumerate(boxes):
        corners = box.corners()
        points = "".join(
            _tag("point", f"{number(index, x)},{y}") for x, y in [*corners, corners[0]]
        )
        result = _tag("possibleresult", _tag("name", box.name))
        objects += _tag("object", _tag("coordinate", "pixel") + result + _tag("points", points))
    return _tag("annotation", _tag("objects", objects))


def _hrsc(boxes: Sequence[Box], number: Number) -> str:
    objects = ""
    for index, box in enumerate(boxes):
        inner = _values("x", "cx cy w h ang", "mbox_")(index, box, number)[3:-4]
        objects += _tag("HRSC_Object", _tag("difficult", box.difficult) + inner)
    return _tag("HRSC_Image", _tag("HRSC_Objects", objects))


def _cvat(boxes: Sequence[Box], number: Number) -> str:
    shapes = ""
    for index, box in enumerate(boxes):
        x1, y1 = box.cx - box.width / 2, box.cy - box.height / 2
        shapes += (
            f'<box label="{box.name}" xtl="{number(index, x1)}" ytl="{y1}" '
            f'xbr="{x1 + box.width}" ybr="{y1 + box.height}" rotation="{box.angle_deg}">'
            f'<attribute name="difficult">{bool(box.difficult)}</attribute></box>'
        )
    image = f'<image id="0" name="d/a.jpg" width="800" height="600">{shapes}</image>'
    return _tag("annotations", image)


def _coco(annotation: Callable[[int, Box, Number], dict[str, Any]]) -> Encoder:
    def encode(boxes: Sequence[Box], number: Number) -> str:
        names = sorted({box.name for box in boxes})
        items = [
            {
                "id": index + 1,
                "image_id": 3,
                "category_id": names.index(box.name) + 5,
                "iscrowd": box.difficult,
                **annotation(index, box, number),
            }
            for index, box in enumerate(boxes)
        ]
        return json.dumps(
            {
                "images": [{"id": 3, "file_name": "d/a.jpg", "height": 600, "width": 800}],
                "annotations": items,
                "categories": [{"id": n + 5, "name": name} for n, name in enumerate(names)],
            }
        )

    return encode


def _flat(index: int, box: Box, number: Number) -> list[Any]:
    return [number(index, value) for corner in box.corners() for value in corner]


def _coco_turned(index: int, box: Box, number: Number) -> dict[str, Any]:
    corner = [number(index, box.cx - box.width / 2), box.cy - box.height / 2]
    return {
        "bbox": [*corner, box.width, box.height],
        "segmentation": [],
        "attributes": {"rotation": box.angle_deg},
    }


def _soda(boxes: Sequence[Box], number: Number) -> str:
    names = ["airplane", "ship"]
    items = [
        {"poly": _flat(index, box, number), "category_id": names.index(box.name)}
        for index, box in enumerate(boxes)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    tree = {"images": {"file_name": "a.jpg"}, "annotations": items, "categories": categories}
    return json.dumps(tree)


def _labelme(**more: Any) -> Encoder:
    def encode(boxes: Sequence[Box], number: Number) -> str:
        shapes = []
        for index, box in enumerate(boxes):
            points = [[number(index, x), y] for x, y in box.corners()]
            flag = bool(box.difficult)
            keys = {"difficult": flag} if more else {"flags": {"difficult": flag}}
            shape = {"label": box.name, "points": points, "shape_type": "polygon", **keys, **more}
            shapes.append(shape)
        size = {"imageHeight": 600, "imageWidth": 800}
        return json.dumps({"shapes": shapes, "imagePath": "a.jpg", "imageData": None, **size})

    return encode


def _label_studio(boxes: Sequence[Box], number: Number) -> str:
    height, width = SIZE_HW
    regions = []
    for index, box in enumerate(boxes):
        x, y = box.corners()[0]
        value = {
            "x": number(index, x / width * 100),
            "y": y / height * 100,
            "width": box.width / width * 100,
            "height": box.height / height * 100,
            "rotation": box.angle_deg,
            "rectanglelabels": [box.name],
        }
        size = {"original_width": width, "original_height": height}
        meta = {"difficult": box.difficult}
        regions.append({"type": "rectanglelabels", "value": value, "meta": meta, **size})
    data = {"image": "/data/upload/1/0a1b2c3d-a.jpg"}
    return json.dumps([{"id": 1, "data": data, "annotations": [{"result": regions}]}])


def _rows(row: Callable[[int, Box, Number], Sequence[object]], separator: str = " ") -> Encoder:
    def encode(boxes: Sequence[Box], number: Number) -> str:
        rows = (separator.join(map(str, row(i, box, number))) for i, box in enumerate(boxes))
        return "".join(f"{text}\n" for text in rows)

    return encode


def _yolo(index: int, box: Box, number: Number) -> list[object]:
    height, width = SIZE_HW
    parts = [v / side for corner in box.corners() for v, side in zip(corner, (width, height))]
    return [YOLO_NAMES.index(box.name), *(number(index, part) for part in parts)]


def _vedai(index: int, box: Box, number: Number) -> list[object]:
    xs, ys = zip(*box.corners())
    flags = [VEDAI_NUMBERS[box.name], 1, 0]
    return [box.cx, box.cy, 0.1, *flags, *(number(index, x) for x in xs), *ys]


YOLO_NAMES = ("plane", "ship", "car")
_CORNER_KEYS = [f"{axis}{n}" for n in range(1, 5) for axis in "xy"]
_DIOR_KEYS = [
    f"{axis}_{corner}"
    for corner in ("left_top", "right_top", "right_bottom", "left_bottom")
    for axis in "xy"
]
_UCAS_REST = [0.5, 1, 2, 3, 4]
ONE_WORD = ("ship", "\u8239", "small-vehicle")
CASES = {
    "coco": FormatCase("coco", "a.json", _coco(lambda *a: {"segmentation": [_flat(*a)]})),
    "coco-cvat": FormatCase("coco", "a.json", _coco(_coco_turned)),
    "cvat": FormatCase("cvat", "a.xml", _cvat),
    "dior": FormatCase("dior", "a.xml", _voc(_named_corners("robndbox", _DIOR_KEYS)), ("ship",)),
    "dota": FormatCase(
        "dota",
        "a.txt",
        _rows(lambda i, box, n: [*_flat(i, box, n), box.name, box.difficult]),
        ONE_WORD,
    ),
    "drone-vehicle": FormatCase(
        "drone-vehicle", "a.xml", _voc(_named_corners("polygon", _CORNER_KEYS))
    ),
    "fair1m": FormatCase("fair1m", "a.xml", _fair1m, keeps_difficult=False),
    "hrsc": FormatCase("hrsc", "a.xml", _hrsc, ("ship",)),
    "icdar": FormatCase(
        "icdar",
        "gt_a.txt",
        _rows(lambda i, box, n: [*_flat(i, box, n), "###" if box.difficult else "a,b"], ","),
        ("text",),
    ),
    "label-studio": FormatCase("label-studio", "a.json", _label_studio),
    "labelme": FormatCase("labelme", "a.json", _labelme()),
    "rolabelimg": FormatCase("rolabelimg", "a.xml", _voc(_values("robndbox", "cx cy w h angle"))),
    "shiprs": FormatCase("shiprs", "a.xml", _voc(_values("rotated_box", "cx cy width height rot"))),
    "soda-a": FormatCase("soda-a", "a.json", _soda, ("airplane", "ship"), keeps_difficult=False),
    "ssdd": FormatCase(
        "ssdd",
        "a.xml",
        _voc(_values("rotated_bndbox", "cx cy w h theta", "rotated_bbox_", "deg")),
    ),
    "ucas": FormatCase(
        "ucas",
        "a.txt",
        _rows(lambda *a: [*_flat(*a), *_UCAS_REST], "\t"),
        ("car",),
        keeps_difficult=False,
        classes={0: "car"},
    ),
    "vedai": FormatCase(
        "vedai", "a.txt", _rows(_vedai), tuple(VEDAI_NUMBERS), keeps_difficult=False
    ),
    "voc": FormatCase("voc", "a.xml", _voc(_cvat_voc)),
    "x-anylabeling": FormatCase(
        "x-anylabeling", "a.json", _labelme(shape_type="rotation", direction=0.5)
    ),
    "yolo-obb": FormatCase(
        "yolo-obb",
        "a.txt",
        _rows(_yolo),
        YOLO_NAMES,
        keeps_difficult=False,
        classes=dict(enumerate(YOLO_NAMES)),
    ),
}
