"""Detectors and inputs for the benchmarks; random weights, made to have candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances, RotatedBoxes
from torch import Tensor, nn

from tcm_d2.config.run import open_config
from tcm_d2.inference.speed import make_fast

REPO_DIR = Path(__file__).resolve().parents[1]
MASK_STRIDE_PX = 4


def make_detector(
    config: str, device: torch.device, overrides: Sequence[str] = (), *, fast: bool = True
) -> nn.Module:
    """Return a detector with seeded random weights.

    Args:
        config: stem of a YAML file in configs.
        device: where it lives.
        overrides: keys and values of the configuration.
        fast: whether to make it fast, as the tools do.
    """
    run = open_config(
        REPO_DIR / "configs" / f"{config}.yaml", ["MODEL.DEVICE", str(device), *overrides]
    )
    torch.manual_seed(0)
    model = run.build_model()
    if hasattr(model.head, "distance_predictor"):
        # Untrained distances are near 0: such boxes have no area and drop out before NMS.
        nn.init.constant_(model.head.distance_predictor.bias, 2.0)
    model = model.to(device)
    if fast:
        make_fast(model)
    return model


@torch.inference_mode()
def give_candidates(model: nn.Module, inputs: list[dict[str, Any]], share: float) -> None:
    """Shift the class bias so that ``share`` of all class scores pass the threshold."""
    model.eval()
    logits = run_head(model, inputs).class_logits
    values = torch.cat([level.float().flatten() for level in logits])
    threshold = model.head.score_threshold
    wanted = math.log(threshold / (1 - threshold))
    rank = max(1, round((1 - share) * len(values)))
    model.head.class_predictor.bias += wanted - values.kthvalue(rank).values


def run_head(model: nn.Module, inputs: list[dict[str, Any]]) -> Any:
    """Return the head's raw output."""
    pyramid, _ = model.features(model.preprocess_images(inputs).tensor)
    return model.head(pyramid)


def make_inputs(
    num_images: int, side_px: int, *, num_objects: int = 0, num_classes: int = 15
) -> list[dict[str, Any]]:
    """Return seeded images with their targets, as the data loader makes them."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, side_px, side_px)
    inputs = []
    for _ in range(num_images):
        instances = Instances((side_px, side_px))
        instances.gt_boxes = RotatedBoxes(_make_boxes(num_objects, side_px, generator))
        instances.gt_classes = torch.randint(num_classes, (num_objects,), generator=generator)
        side = side_px // MASK_STRIDE_PX
        masks = torch.rand(num_classes, side, side, generator=generator) > 0.99
        image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "class_masks": masks})
    return inputs


def _make_boxes(count: int, side_px: int, generator: torch.Generator) -> Tensor:
    """Return boxes (count, 5) of 8 to 200 px, many small ones."""
    draws = torch.rand(count, 5, generator=generator)
    width = 8 + 192 * draws[:, 2] ** 4
    height = width * (0.2 + 0.8 * draws[:, 3])
    angle_deg = 180 * draws[:, 4] - 90
    return torch.stack([side_px * draws[:, 0], side_px * draws[:, 1], width, height, angle_deg], 1)
