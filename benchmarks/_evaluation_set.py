"""A seeded evaluation set like DOTA's validation set: labels, detections, detections on patches.

Crowded and empty images, objects of one class side by side in rows, several detections of most
objects and many of nothing; all as flat arrays, since what is timed starts from arrays.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.evaluation.scoring.average_precision import GroundTruths
from tcm_d2.structures.conversions import boxes_to_quads
from tcm_d2.structures.detections import (
    BoxDetections,
    ClassDetections,
    PatchDetections,
    QuadDetections,
)

NUM_CLASSES = len(DOTA_V1_CLASSES)
IMAGE_SIZE_PX = 3000.0
PATCH_SIZE_PX, PATCH_STRIDE_PX = 1024.0, 824.0
# Mean long side by class, in label order, and the share of objects as in DOTA: vehicles and ships
# are nearly all of them.
LONG_SIDES_PX = (70, 110, 100, 280, 22, 55, 40, 90, 110, 35, 180, 80, 110, 45, 60)
CLASS_SHARES = (6, 1, 2, 0.5, 35, 20, 25, 2, 1, 7, 0.5, 0.5, 5, 2, 0.5)


class Objects(NamedTuple):
    """Objects or detections: image_index (N,), class_ids (N,), boxes (N, 5) cx cy w h angle_deg."""

    image_index: NDArray[np.int64]
    class_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]


class EvaluationSet(NamedTuple):
    """What a run of the benchmark works on."""

    image_ids: list[str]
    detections: list[QuadDetections]  # by class
    ground_truths: list[GroundTruths]
    patch_detections: PatchDetections


def make_evaluation_set(
    *, num_images: int, num_objects: int, num_detections: int, num_patch_detections: int, seed: int
) -> EvaluationSet:
    """Draw a set; equal arguments give equal sets."""
    rng = np.random.default_rng(seed)
    image_ids = [f"P{index:04d}" for index in range(num_images)]
    truth = _draw_objects(rng, num_images, num_objects)
    found = _concatenate(
        _jitter(rng, _choose(rng, truth, int(1.5 * num_objects))),
        _draw_objects(rng, num_images, num_detections - int(1.5 * num_objects)),
    )
    is_near = np.arange(num_detections) < int(1.5 * num_objects)
    scores = _draw_scores(rng, is_near)
    return EvaluationSet(
        image_ids,
        [
            QuadDetections(found.image_index[mine], _to_quads(found.boxes[mine]), scores[mine])
            for mine in (found.class_ids == label for label in range(NUM_CLASSES))
        ],
        [
            GroundTruths(
                truth.image_index[mine],
                _to_quads(truth.boxes[mine]).round(),
                rng.random(mine.sum()) < 0.05,
            )
            for mine in (truth.class_ids == label for label in range(NUM_CLASSES))
        ],
        _draw_patch_detections(rng, image_ids, truth, num_patch_detections),
    )


def to_rows(data: EvaluationSet) -> dict[str, ClassDetections]:
    """Return the detections as Task1 rows by class name."""
    return {
        name: ClassDetections(
            [data.image_ids[i] for i in part.image_index.tolist()], part.scores, part.quads
        )
        for name, part in zip(DOTA_V1_CLASSES, data.detections)
    }


def write_labels(data: EvaluationSet, folder: Path) -> None:
    """Write one label file per image."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[list[str]] = [[] for _ in data.image_ids]
    for name, part in zip(DOTA_V1_CLASSES, data.ground_truths):
        rows = zip(part.image_index.tolist(), part.quads.reshape(-1, 8), part.difficult.tolist())
        for image, quad, difficult in rows:
            numbers = " ".join(f"{value:.1f}" for value in quad)
            lines[image].append(f"{numbers} {name} {int(difficult)}\n")
    for image_id, content in zip(data.image_ids, lines):
        (folder / f"{image_id}.txt").write_text("".join(content))


def _draw_objects(rng: np.random.Generator, num_images: int, num: int) -> Objects:
    weight = rng.lognormal(0.0, 1.2, num_images)
    image_index = np.sort(rng.choice(num_images, num, p=weight / weight.sum()))
    # Few classes per image: each image has its own shares.
    shares = np.array(CLASS_SHARES) * rng.gamma(0.3, 1.0, (num_images, NUM_CLASSES)) + 1e-9
    cumulative = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
    class_ids = (rng.random(num)[:, None] > cumulative[image_index]).sum(axis=1)
    class_ids = np.minimum(class_ids, NUM_CLASSES - 1)
    long = np.array(LONG_SIDES_PX)[class_ids] * rng.lognormal(0.0, 0.25, num)
    short = long * rng.uniform(0.3, 0.9, num)
    # Half of them stand in rows: side by side with their predecessor.
    angle_deg = rng.uniform(-90, 90, num)
    centre = rng.uniform(0, IMAGE_SIZE_PX, (num, 2))
    in_row = (rng.random(num) < 0.5) & (np.diff(image_index, prepend=-1) == 0)
    for index in np.flatnonzero(in_row).tolist():
        angle_deg[index] = angle_deg[index - 1]
        turn = np.deg2rad(angle_deg[index])
        step = 1.2 * max(short[index], short[index - 1])
        centre[index] = centre[index - 1] + step * np.array([np.sin(turn), np.cos(turn)])
    centre = np.clip(centre, 0, IMAGE_SIZE_PX)
    return Objects(image_index, class_ids, np.column_stack([centre, long, short, angle_deg]))


def _choose(rng: np.random.Generator, objects: Objects, num: int) -> Objects:
    chosen = rng.integers(0, len(objects.class_ids), num)
    return Objects(*(column[chosen] for column in objects))


def _jitter(rng: np.random.Generator, objects: Objects) -> Objects:
    boxes = objects.boxes.copy()
    boxes[:, :2] += rng.normal(0, 0.08, (len(boxes), 2)) * boxes[:, 3:4]
    boxes[:, 2:4] *= rng.lognormal(0.0, 0.12, (len(boxes), 2))
    boxes[:, 4] += rng.normal(0, 4.0, len(boxes))
    return objects._replace(boxes=boxes)


def _draw_scores(rng: np.random.Generator, is_near: NDArray[np.bool_]) -> NDArray[np.float64]:
    near, far = rng.beta(4, 2, len(is_near)), rng.beta(1, 8, len(is_near))
    return np.where(is_near, near, far).astype(np.float32).astype(np.float64)


def _draw_patch_detections(
    rng: np.random.Generator, image_ids: list[str], truth: Objects, num: int
) -> PatchDetections:
    """Detections of the objects in every patch that shows their centre, and of nothing."""
    per_side = int((IMAGE_SIZE_PX - PATCH_SIZE_PX) // PATCH_STRIDE_PX) + 2
    # Half of them show objects, from one or more patches; half are of nothing.
    found = _concatenate(
        _jitter(rng, _choose(rng, truth, num // 2)),
        _draw_objects(rng, len(image_ids), num - num // 2),
    )
    # Each detection is made in one of the patches around its centre.
    cell = np.floor(found.boxes[:, :2] / PATCH_STRIDE_PX) - rng.integers(0, 2, (num, 2))
    cell = np.clip(cell, 0, per_side - 1).astype(np.int64)
    patch_of = (found.image_index * per_side + cell[:, 1]) * per_side + cell[:, 0]
    order = np.argsort(patch_of, kind="stable")
    origin_of = np.stack(np.meshgrid(np.arange(per_side), np.arange(per_side)), axis=-1)
    origins_xy = np.tile(origin_of.reshape(-1, 2) * PATCH_STRIDE_PX, (len(image_ids), 1))
    num_cells = per_side * per_side
    images = [image_id for image_id in image_ids for _ in range(num_cells)]
    boxes = found.boxes[order]
    boxes[:, :2] -= origins_xy[patch_of[order]]
    return PatchDetections(
        patch_ids=[
            f"{image_id}__{PATCH_SIZE_PX:.0f}__{x:.0f}___{y:.0f}"
            for image_id, (x, y) in zip(images, origins_xy.tolist())
        ],
        image_ids=images,
        origins_xy=origins_xy,
        scales=np.ones(len(images)),
        patch_index=patch_of[order],
        found=BoxDetections(
            boxes.astype(np.float32),
            _draw_scores(rng, order < num // 2).astype(np.float32),
            found.class_ids[order],
        ),
    )


def _to_quads(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(boxes_to_quads(torch.from_numpy(boxes)).numpy())


def _concatenate(one: Objects, two: Objects) -> Objects:
    return Objects(*(np.concatenate(columns) for columns in zip(one, two)))
