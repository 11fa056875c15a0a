"""A project of its own: one file that registers a backbone, a head, a loss and a data set.

The tests copy it into a folder outside the package and name it with ``--import``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from tcm_d2.config.registries import ROTATED_HEAD_REGISTRY, ROTATED_LOSS_REGISTRY
from tcm_d2.modeling.heads.fcos import RotatedFCOSHead
from tcm_d2.modeling.losses.contract import BoxLoss

CLASSES = ["plane", "ship"]
SIZE_PX = 64


@BACKBONE_REGISTRY.register()
class ThreeConvolutions(Backbone):  # type: ignore[misc]
    """The smallest backbone with the outputs that the pyramid takes."""

    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        width = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS
        self.res3 = nn.Conv2d(input_shape.channels, width, 8, stride=8)
        self.res4 = nn.Conv2d(width, width, 2, stride=2)
        self.res5 = nn.Conv2d(width, width, 2, stride=2)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        res3 = self.res3(images).relu()
        res4 = self.res4(res3).relu()
        return {"res3": res3, "res4": res4, "res5": self.res5(res4).relu()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        width, strides = self.res3.out_channels, {"res3": 8, "res4": 16, "res5": 32}
        return {name: ShapeSpec(channels=width, stride=s) for name, s in strides.items()}


@ROTATED_HEAD_REGISTRY.register()
class PatientHead(RotatedFCOSHead):  # type: ignore[misc]
    """FCOS that also takes the cells near a border for positive ones; here, FCOS."""


@ROTATED_LOSS_REGISTRY.register()
class PowerLoss(BoxLoss):
    """The differences of the sides and centres, to a power."""

    defaults = {"power": 2.0}

    @configurable
    def __init__(self, *, power: float, weight: float) -> None:
        super().__init__(weight=weight)
        self.power = power

    def __call__(self, *pairs: Tensor) -> Tensor:
        pred_boxes, target_boxes = pairs
        difference = (pred_boxes - target_boxes)[:, :4].abs()
        return (1 + difference).log().pow(self.power).sum(dim=1)


def load_rectangles() -> list[dict[str, Any]]:
    """Return six images with a turned rectangle each, made where they are missing."""
    folder = Path(os.environ["RECTANGLES_DIR"])
    rng = np.random.default_rng(0)
    dicts = []
    for index in range(6):
        image = rng.integers(60, 90, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        quad = cv2.boxPoints(((32.0, 32.0), (30.0, 14.0), float(rng.uniform(0, 180))))
        cv2.fillConvexPoly(image, quad.astype(np.int32), (255 * (index % 2),) * 3)
        path = folder / f"P{index}.png"
        if not path.is_file():
            cv2.imwrite(str(path), image)
        annotation = {"quad": quad.tolist(), "category_id": index % 2, "difficult": 0}
        dicts.append(
            {
                "file_name": str(path),
                "image_id": path.stem,
                "height": SIZE_PX,
                "width": SIZE_PX,
                "annotations": [annotation],
            }
        )
    return dicts


DatasetCatalog.register("rectangles", load_rectangles)
MetadataCatalog.get("rectangles").set(
    thing_classes=CLASSES, evaluator_type="dota", label_dir=None, labels_in_dicts=True
)
# Nothing in this file runs a network.
assert torch is not None
