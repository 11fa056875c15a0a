"""A data set of a few small images in the forms that people have: YOLO-OBB, COCO, DOTA."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

SIZE_PX = 64
CLASSES = ("small vehicle", "ship")


def draw(path: Path, index: int, *, size_px: int = SIZE_PX) -> np.ndarray:
    """Write an image with one turned rectangle; return its corners (4, 2)."""
    rng = np.random.default_rng(index)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = rng.integers(60, 90, (size_px, size_px, 3), dtype=np.uint8)
    centre = tuple(float(v) for v in rng.uniform(24, 40, 2))
    quad = cv2.boxPoints((centre, (30.0, 14.0), float(rng.uniform(0, 180))))
    cv2.fillConvexPoly(image, quad.astype(np.int32), (255,) * 3 if index % 2 else (0,) * 3)
    cv2.imwrite(str(path), image)
    return quad


def write_yolo(root: Path, *, num: int = 6, size_px: int = SIZE_PX) -> Path:
    """Write images/train, images/val, labels/... and data.yaml; return the last."""
    for split, count, start in (("train", num, 0), ("val", 2, 100)):
        for index in range(count):
            stem = f"{split}_{index}"
            quad = draw(root / f"images/{split}/{stem}.png", start + index, size_px=size_px)
            label = root / f"labels/{split}/{stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            parts = " ".join(f"{v:.6f}" for v in (quad / size_px).flatten())
            label.write_text(f"{index % 2} {parts}\n")
    draw(root / "images/train/nothing.png", 50, size_px=size_px)  # without label file
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: small vehicle, 1: ship}\n"
    )
    return root / "data.yaml"


def write_dota(root: Path, *, splits: tuple[str, ...] = ("train", "val"), num: int = 6) -> Path:
    """Write <split>/images and <split>/labelTxt; return the folder."""
    for split in splits:
        for index in range(num):
            place = root / split
            quad = draw(place / f"images/{split}_{index}.png", index)
            label = place / f"labelTxt/{split}_{index}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            corners = " ".join(f"{v:.1f}" for v in quad.flatten())
            label.write_text(f"{corners} {('small_vehicle', 'ship')[index % 2]} 0\n")
    return root


def write_coco(root: Path, *, num: int = 6) -> Path:
    """Write images/ and annotations/instances_{train,val}.json; return the train file."""
    for split, start in (("train", 0), ("val", 100)):
        images, annotations = [], []
        for index in range(num):
            name = f"{split}_{index}.png"
            quad = draw(root / "images" / name, start + index)
            images.append({"id": index, "file_name": name, "height": SIZE_PX, "width": SIZE_PX})
            annotations.append(
                {
                    "id": index,
                    "image_id": index,
                    "category_id": 1 + index % 2,
                    "segmentation": [quad.flatten().tolist()],
                    "bbox": [0, 0, 1, 1],
                }
            )
        categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
        path = root / f"annotations/instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        tree = {"images": images, "annotations": annotations, "categories": categories}
        path.write_text(json.dumps(tree))
    return root / "annotations/instances_train.json"
