"""Augmentations that move an image and points in it together.

Points are (P, 2) x, y in continuous pixel coordinates: the image spans [0, W] x [0, H], so a
horizontal flip takes x to W - x. Boxes are fitted to the moved corners afterwards (see the mapper),
so nothing here knows about boxes, angles or borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from detectron2.config import CfgNode

from tcm_d2.config.plain import make_node
from tcm_d2.config.registries import PART_REGISTRY


class Augmented(NamedTuple):
    """An image (H, W, 3) uint8 and the points (P, 2) float64 in it, in its own pixels."""

    image: np.ndarray
    points: np.ndarray


class PointAugmentation(Protocol):
    """Draws its parameters from ``rng`` and moves image and points; inputs are not changed."""

    def __call__(
        self, image: np.ndarray, points: np.ndarray, rng: np.random.Generator
    ) -> Augmented: ...


def flip(image: np.ndarray, points: np.ndarray, *, along_x: bool, along_y: bool) -> Augmented:
    """Mirror left and right (along_x), top and bottom (along_y), or both."""
    height, width = image.shape[:2]
    moved = points.copy()
    if along_x:
        moved[:, 0] = width - moved[:, 0]
    if along_y:
        moved[:, 1] = height - moved[:, 1]
    if not (along_x or along_y):
        return Augmented(image, moved)
    # OpenCV's codes: 1 mirrors left and right, 0 top and bottom, -1 both.
    code = -1 if along_x and along_y else int(along_x)
    return Augmented(cv2.flip(image, code), moved)


def resize(image: np.ndarray, points: np.ndarray, *, factor: float) -> Augmented:
    """Scale both sides by ``factor``, rounded to whole pixels; points follow the rounded size."""
    height, width = image.shape[:2]
    new_height, new_width = max(1, round(height * factor)), max(1, round(width * factor))
    if (new_height, new_width) == (height, width):
        return Augmented(image, points.copy())
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (new_width, new_height), interpolation=method)
    return Augmented(resized, points * np.array([new_width / width, new_height / height]))


def rotate(
    image: np.ndarray,
    points: np.ndarray,
    *,
    angle_deg: float,
    border_rgb: Sequence[float],
) -> Augmented:
    """Turn the image about its centre, counter-clockwise on screen, keeping its size.

    Corners of the image that turn out of it are lost; uncovered pixels get ``border_rgb`` (in the
    image's own channel order). Points are not clipped.
    """
    height, width = image.shape[:2]
    radians = math.radians(angle_deg)
    cos, sin = math.cos(radians), math.sin(radians)
    center = np.array([width / 2, height / 2])
    turn = np.array([[cos, sin], [-sin, cos]])  # y points down
    moved = (points - center) @ turn.T + center
    # OpenCV counts from pixel centres: its (0, 0) is our (0.5, 0.5).
    offset = center - turn @ center + turn @ np.array([0.5, 0.5]) - 0.5
    turned = cv2.warpAffine(
        image,
        np.concatenate([turn, offset[:, None]], axis=1),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=tuple(float(value) for value in border_rgb),
    )
    return Augmented(turned, moved)


@PART_REGISTRY.register()
class RandomFlip:
    """At most one flip: horizontal, vertical or diagonal (both), with their probabilities."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        if len(probabilities) != 3 or min(probabilities) < 0 or sum(probabilities) > 1 + 1e-6:
            raise ValueError(
                "INPUT.FLIP_PROBS: expected 3 probabilities (horizontal, vertical, diagonal) with "
                f"a sum of at most 1, got {list(probabilities)}"
            )
        self._limits = np.cumsum(probabilities)

    def __call__(
        self, image: np.ndarray, points: np.ndarray, rng: np.random.Generator
    ) -> Augmented:
        choice = int(np.searchsorted(self._limits, rng.random(), side="right"))
        if choice == 3:
            return Augmented(image, points)
        return flip(image, points, along_x=choice != 1, along_y=choice != 0)


@PART_REGISTRY.register()
class RandomResize:
    """Resize by one of the factors, drawn evenly."""

    def __init__(self, factors: Sequence[float]) -> None:
        if not factors or min(factors) <= 0:
            raise ValueError(
                f"INPUT.RESIZE_FACTORS_TRAIN: expected positive factors, got {list(factors)}"
            )
        self._factors = tuple(factors)

    def __call__(
        self, image: np.ndarray, points: np.ndarray, rng: np.random.Generator
    ) -> Augmented:
        return resize(image, points, factor=self._factors[rng.integers(len(self._factors))])


@PART_REGISTRY.register()
class RandomRotation:
    """Turn by an angle drawn evenly from +-max_angle_deg, with a probability."""

    def __init__(
        self, probability: float, max_angle_deg: float, *, border_rgb: Sequence[float]
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"INPUT.ROTATION_PROB: expected 0..1, got {probability}")
        self._probability = probability
        self._max_angle_deg = max_angle_deg
        self._border_rgb = tuple(border_rgb)

    def __call__(
        self, image: np.ndarray, points: np.ndarray, rng: np.random.Generator
    ) -> Augmented:
        if rng.random() >= self._probability:
            return Augmented(image, points)
        angle_deg = rng.uniform(-self._max_angle_deg, self._max_angle_deg)
        return rotate(image, points, angle_deg=angle_deg, border_rgb=self._border_rgb)


def apply_augmentations(
    augmentations: Sequence[PointAugmentation],
    image: np.ndarray,
    points: np.ndarray,
    rng: np.random.Generator,
) -> Augmented:
    """Apply the augmentations one after another."""
    current = Augmented(image, points)
    for augmentation in augmentations:
        current = augmentation(current.image, current.points, rng)
    return current


def augmentation_nodes(cfg: CfgNode, is_train: bool) -> list[dict[str, Any]]:
    """Return the augmentations of a configuration (``INPUT.*``) that do something, as nodes.

    Uncovered pixels after a rotation get ``MODEL.PIXEL_MEAN``, which is in the image's own channel
    order and 0 after normalisation.
    """
    image = cfg.INPUT
    if not is_train:
        factors = [image.RESIZE_FACTOR_TEST]
        return [] if factors == [1.0] else [make_node(RandomResize, {"factors": factors})]
    nodes = []
    if list(image.RESIZE_FACTORS_TRAIN) != [1.0]:
        nodes.append(make_node(RandomResize, {"factors": image.RESIZE_FACTORS_TRAIN}))
    if any(image.FLIP_PROBS):
        nodes.append(make_node(RandomFlip, {"probabilities": image.FLIP_PROBS}))
    if image.ROTATION_PROB > 0:
        rotation = {
            "probability": image.ROTATION_PROB,
            "max_angle_deg": image.ROTATION_MAX_DEG,
            "border_rgb": cfg.MODEL.PIXEL_MEAN,
        }
        nodes.append(make_node(RandomRotation, rotation))
    return nodes
