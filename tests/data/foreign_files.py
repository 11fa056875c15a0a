"""Small files of foreign formats, and how tests read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tcm_d2.data.conversion import read_annotations
from tcm_d2.data.formats.reading import Reading, ReadOptions

# (200, 150) with sides 200 x 40, turned clockwise by 30 degrees.
TURNED = np.array([[123.4, 82.7], [296.6, 182.7], [276.6, 217.3], [103.4, 117.3]])
BNDBOX = "<bndbox><xmin>100</xmin><ymin>130</ymin><xmax>300</xmax><ymax>170</ymax></bndbox>"


def voc(objects: str, root: str = "annotation") -> str:
    return f"<{root}><size><width>400</width><height>300</height></size>{objects}</{root}>"


def obj(inner: str, name: str = "ship") -> str:
    return f"<object><name>{name}</name>{inner}</object>"


def box(tag: str, **values: object) -> str:
    return f"<{tag}>{''.join(f'<{k}>{v}</{k}>' for k, v in values.items())}</{tag}>"


def attribute(name: str, value: str) -> str:
    return f"<attributes>{box('attribute', name=name, value=value)}</attributes>"


def robndbox(angle: object) -> str:
    return box("robndbox", cx=200, cy=150, w=200, h=40, angle=angle)


def read(
    folder: Path, name: str, content: str | bytes, fmt: str = "auto", **options: Any
) -> Reading:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return read_annotations(path, fmt, ReadOptions(**options))


def quads(reading: Reading) -> np.ndarray:
    found = [o.quad for image in reading.images.values() for o in image.objects]
    return np.array(found).reshape(-1, 4, 2)


def coco(annotation: dict[str, Any] | list[dict[str, Any]], **parts: Any) -> str:
    items = annotation if isinstance(annotation, list) else [annotation]
    items = [{"id": n, "image_id": 1, "category_id": 1, **item} for n, item in enumerate(items, 1)]
    tree = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 400, "height": 300}],
        "annotations": items,
        "categories": [{"id": 1, "name": "ship"}],
    }
    return json.dumps({**tree, **parts})


TURNED_FILES = {
    "CVAT's VOC": ("a.xml", voc(obj(BNDBOX + attribute("rotation", "30.0"))), "voc"),
    "SSDD": (
        "a.xml",
        voc(
            obj(
                BNDBOX
                + box(
                    "rotated_bndbox",
                    rotated_bbox_cx=200,
                    rotated_bbox_cy=150,
                    rotated_bbox_w=200,
                    rotated_bbox_h=40,
                    rotated_bbox_theta=30,
                )
            )
        ),
        "ssdd",
    ),
    "SSDD with corners": (
        "a.xml",
        voc(
            obj(
                BNDBOX
                + box(
                    "rotated_bndbox",
                    **{
                        f"{axis}{n + 1}": TURNED[n]["xy".index(axis)]
                        for n in range(4)
                        for axis in "xy"
                    },
                )
            )
        ),
        "ssdd",
    ),
    "ShipRSImageNet": (
        "a.xml",
        voc(obj(BNDBOX + box("rotated_box", cx=200, cy=150, width=200, height=40, rot=0.5236))),
        "shiprs",
    ),
    "roLabelImg": ("a.xml", voc(obj(BNDBOX + robndbox(0.523599))), "rolabelimg"),
    "CVAT's COCO": (
        "a.json",
        coco({"bbox": [100, 130, 200, 40], "segmentation": [], "attributes": {"rotation": 30.0}}),
        "coco",
    ),
    "CVAT's XML": (
        "a.xml",
        '<annotations><image id="0" name="a.jpg" width="400" height="300"><box label="ship" '
        'xtl="100" ytl="130" xbr="300" ybr="170" rotation="30"/></image></annotations>',
        "cvat",
    ),
    "DroneVehicle": (
        "a.xml",
        voc(
            obj(
                box(
                    "polygon",
                    **{
                        f"{axis}{n + 1}": TURNED[n]["xy".index(axis)]
                        for n in range(4)
                        for axis in "xy"
                    },
                )
            )
        ),
        "drone-vehicle",
    ),
    "Label Studio": (
        "a.json",
        json.dumps(
            [
                {
                    "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"},
                    "annotations": [
                        {
                            "result": [
                                {
                                    "type": "rectanglelabels",
                                    "original_width": 400,
                                    "original_height": 300,
                                    "value": {
                                        "x": TURNED[0, 0] / 4,
                                        "y": TURNED[0, 1] / 3,
                                        "width": 50,
                                        "height": 40 / 3,
                                        "rotation": 30,
                                        "rectanglelabels": ["ship"],
                                    },
                                }
                            ]
                        }
                    ],
                }
            ]
        ),
        "label-studio",
    ),
    "X-AnyLabeling": (
        "a.json",
        json.dumps(
            {
                "shapes": [
                    {
                        "label": "ship",
                        "points": TURNED.tolist(),
                        "shape_type": "rotation",
                        "direction": 0.5236,
                        "difficult": False,
                    }
                ],
                "imagePath": "a.jpg",
            }
        ),
        "x-anylabeling",
    ),
    "labelme": (
        "a.json",
        json.dumps(
            {
                "shapes": [{"label": "ship", "points": TURNED.tolist(), "shape_type": "polygon"}],
                "imagePath": "..\\images\\a.jpg",
            }
        ),
        "labelme",
    ),
    "FAIR1M": (
        "a.xml",
        "<annotation><objects><object><coordinate>pixel</coordinate><possibleresult><name>ship"
        "</name></possibleresult><points>"
        + "".join(f"<point>{x},{y}</point>" for x, y in [*TURNED, TURNED[0]])
        + "</points></object></objects></annotation>",
        "fair1m",
    ),
    "SODA-A": (
        "a.json",
        json.dumps(
            {
                "images": {"file_name": "a.jpg"},
                "annotations": [{"poly": TURNED.reshape(-1).tolist(), "category_id": 4}],
            }
        ),
        "soda-a",
    ),
    "VEDAI": (
        "a.txt",
        " ".join(map(str, [200, 150, 0.5, 23, 1, 0, *TURNED[:, 0], *TURNED[:, 1]])),
        "vedai",
    ),
    "VEDAI, all images": (
        "annotation1024.txt",
        " ".join(map(str, ["a", 200, 150, 0.5, *TURNED[:, 0], *TURNED[:, 1], 23, 1, 0])),
        "vedai",
    ),
}
