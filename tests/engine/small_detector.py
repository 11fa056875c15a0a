"""The real detectors, small, and a folder of patches for them: 64 px images, two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances, RotatedBoxes

from tcm_d2.config import load_config
from tcm_d2.data.dota.split import SplitConfig, SplitSource, split_dataset
from tcm_d2.structures.masks import boxes_to_class_masks

SIZE_PX = 64
DATASET_NAME = "small_detector"
ARCHITECTURES = ("TCMRotatedFCOS", "TCMRotatedATSS", "TCMRotatedRetinaNet")
CONFIG = """
MODEL:
  META_ARCHITECTURE: "TCMRotatedFCOS"
  DEVICE: "cpu"
  CLIP: {NAME: "custom", EMBED_DIM: 32, VISION_LAYERS: [1, 1, 1, 1], VISION_WIDTH: 8,
         TEXT_WIDTH: 32, TEXT_HEADS: 1, TEXT_LAYERS: 1, CONTEXT_LENGTH: 16,
         POSITION_IMAGE_SIZE_PX: 64}
  TCM: {CLASS_NAMES: ["plane", "ship"], DECODER_WIDTH: 32, DECODER_HEADS: 2, DECODER_LAYERS: 1}
  ROTATED_FPN: {OUT_CHANNELS: 32}
  ROTATED_HEAD: {NUM_CLASSES: 2, CHANNELS: 32, NUM_CONVS: 1, SCORE_THRESH: 0.001}
DATASETS: {CLASSES: ["plane", "ship"], TRAIN: ["small_detector"], TEST: []}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 0.001, MAX_EPOCHS: 0, MAX_ITER: 6, STEPS: [], WARMUP_ITERS: 2,
         CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: "full_model", CLIP_VALUE: 1.0}}
LOG_PERIOD: 1
SEED: 1
"""


def write_config(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.yaml").write_text(CONFIG)
    return folder / "small.yaml"


def small_config(folder: Path, *overrides: str) -> CfgNode:
    return load_config(write_config(folder), list(overrides))


def make_patches(root: Path) -> Path:
    """Write six images with a turned rectangle each, split into patches; return their folder."""
    rng = np.random.default_rng(0)
    for name in ("images", "labelTxt"):
        (root / name).mkdir(parents=True)
    for index in range(6):
        image = rng.integers(60, 90, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        centre = tuple(float(v) for v in rng.uniform(24, 40, 2))
        quad = cv2.boxPoints((centre, (30.0, 14.0), float(rng.uniform(0, 180))))
        colour, class_name = ((255,) * 3, "plane") if index % 2 else ((0,) * 3, "ship")
        cv2.fillConvexPoly(image, quad.astype(np.int32), colour)
        cv2.imwrite(str(root / "images" / f"P{index}.png"), image)
        corners = " ".join(f"{value:.1f}" for value in quad.flatten())
        (root / "labelTxt" / f"P{index}.txt").write_text(f"{corners} {class_name} 0\n")
    split_dataset(
        [SplitSource(root / "images", root / "labelTxt")],
        root / "split",
        config=SplitConfig(patch_size_px=SIZE_PX, gap_px=0),
        classes=["plane", "ship"],
        num_workers=1,
        show_progress=False,
    )
    return root / "split"


def make_batch(*, empty: bool = False) -> list[dict[str, Any]]:
    """Return two training samples, with one object each or none."""
    batch = []
    for index in range(2):
        boxes = torch.tensor([[30.0, 34.0, 30.0, 14.0, 25.0 + 40 * index]])[: 0 if empty else 1]
        classes = torch.tensor([index])[: len(boxes)]
        size_hw = (SIZE_PX, SIZE_PX)
        instances = Instances(size_hw)
        instances.gt_boxes = RotatedBoxes(boxes)
        instances.gt_classes = classes
        masks = boxes_to_class_masks(
            boxes, classes, num_classes=2, image_size_hw=size_hw, stride_px=4
        )
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *size_hw), dtype=torch.uint8, generator=generator)
        batch.append({"image": image, "instances": instances, "class_masks": masks})
    return batch
