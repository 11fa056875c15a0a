"""The command tcm-d2 draw."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tcm_d2.config.registries import import_user_parts
from tcm_d2.data.dota.labels import list_labels, read_label
from tcm_d2.data.images import list_images, read_image
from tcm_d2.evaluation.files.task_files import read_task1
from tcm_d2.inference.find_files import find_detector_files
from tcm_d2.inference.model_images import to_model_image
from tcm_d2.inference.pretrained import build_pretrained
from tcm_d2.inference.score_maps import compute_score_maps
from tcm_d2.inference.speed import make_fast
from tcm_d2.structures.conversions import quads_to_boxes
from tcm_d2.structures.detections import ClassDetections
from tcm_d2.visualize import (
    draw_boxes,
    draw_class_score_maps,
    draw_comparison,
    save_image,
)

TASK1_DIR = "Task1"


def find_files(places: Sequence[Path]) -> dict[str, Path]:
    """Return the image files by name without suffix."""
    files: dict[str, Path] = {}
    for place in places:
        if place.is_dir():
            files.update(list_images(place))
        elif place.is_file():
            files[place.stem] = place
        else:
            raise FileNotFoundError(f"--images: {place}: no such file or folder")
    if not files:
        raise FileNotFoundError(f"--images: no images in {', '.join(map(str, places))}")
    return files


class Results:
    """Detections of Task1 files, by image."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        inner = path / TASK1_DIR
        rows = read_task1(inner if inner.is_dir() else path)
        unknown = sorted(set(rows) - set(classes))
        if unknown:
            raise ValueError(f"--detections: classes not in --classes: {', '.join(unknown)}")
        self._rows: list[tuple[int, ClassDetections, np.ndarray]] = [
            (index, rows[name], np.array(rows[name].image_ids, dtype=str))
            for index, name in enumerate(classes)
            if name in rows
        ]

    def of(self, image_id: str, min_score: float) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Return boxes (M, 5), class indices (M,) and scores (M,) of an image."""
        quads, labels, scores = [np.zeros((0, 4, 2))], [np.zeros(0, np.int64)], [np.zeros(0)]
        for index, rows, image_ids in self._rows:
            here = (image_ids == image_id) & (rows.scores >= min_score)
            quads.append(rows.quads[here])
            labels.append(np.full(int(here.sum()), index))
            scores.append(rows.scores[here])
        boxes = quads_to_boxes(torch.from_numpy(np.concatenate(quads)))
        return boxes, np.concatenate(labels), np.concatenate(scores)


def draw(
    image: np.ndarray, image_id: str, results: Results, args: argparse.Namespace
) -> np.ndarray:
    """Return the image with detections, compared with its labels where there are any."""
    boxes, labels, scores = results.of(image_id, args.score_threshold)
    if args.labels is None:
        return draw_boxes(
            image,
            boxes,
            labels=labels,
            scores=scores,
            class_names=args.classes,
            headings=args.headings,
        )
    label = read_label(args.labels / f"{image_id}.txt")
    objects = [o for o in label.objects if o.class_name in args.classes]
    quads = np.array([o.quad for o in objects], dtype=np.float64).reshape(-1, 4, 2)
    return draw_comparison(
        image,
        quads_to_boxes(quads),
        [args.classes.index(o.class_name) for o in objects],
        boxes,
        labels,
        scores,
        class_names=args.classes,
        gt_difficult=[o.difficult != 0 for o in objects],
        iou_threshold=args.iou_threshold,
        score_threshold=args.score_threshold,
        headings=args.headings,
    )


def run(args: argparse.Namespace) -> int:
    """Draw; return 0, or 1 after a message on standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        files = find_files(args.images)
        if args.labels is not None:
            known = list_labels(args.labels)
            files = {image_id: path for image_id, path in files.items() if image_id in known}
            if not files:
                raise FileNotFoundError(f"--labels: {args.labels} has no label of these images")
        results = None if args.detections is None else Results(args.detections, args.classes)
        detector = chosen = None
        if args.score_maps:
            import_user_parts(args.imports)
            detector = build_pretrained(
                find_detector_files(args.config_file, weights=args.weights, config_file=None),
                device=args.device,
                class_names=None,
                overrides=args.opts,
            )
            make_fast(detector.model)
            chosen = _class_indices(args.map_classes, args.classes)
        for image_id, path in list(files.items())[: args.num or None]:
            image = read_image(path, channel_order="RGB")
            picture = None if results is None else draw(image, image_id, results, args)
            if picture is not None:
                save_image(args.output / f"{image_id}.png", picture)
                print(args.output / f"{image_id}.png")
            if detector is None:
                continue
            shown = to_model_image(
                image, image_format=detector.image_format, resize_factor=detector.resize_factor
            )
            maps = compute_score_maps(detector.model, shown, window_px=args.window_px)
            sheet = draw_class_score_maps(
                image, maps, args.classes, classes=chosen, picture=picture
            )
            save_image(args.output / f"{image_id}_score_maps.jpg", sheet)
            print(args.output / f"{image_id}_score_maps.jpg")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _class_indices(names: Sequence[str] | None, classes: Sequence[str]) -> list[int] | None:
    if names is None:
        return None
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise ValueError(
            f"--map-classes: unknown: {', '.join(unknown)}; known: {', '.join(classes)}"
        )
    return [classes.index(name) for name in names]
