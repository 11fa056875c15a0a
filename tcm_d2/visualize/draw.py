"""Pictures of oriented boxes: data sets, detections, comparisons, score maps.

Images are RGB uint8 (H, W, 3); inputs are never changed. Boxes (M, 5) are cx, cy, w, h, angle_deg
(counter-clockwise) in image pixels, as NumPy arrays or tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch

from tcm_d2.ops import box_iou_rotated
from tcm_d2.visualize.annotate import (
    LegendEntry,
    busy_mask,
    draw_headings,
    draw_legend,
    outline_quads,
    place_labels,
)
from tcm_d2.visualize.checks import (
    ArrayLike,
    checked_boxes,
    checked_classes,
    checked_image,
    checked_line_width,
    checked_quads,
    checked_vector,
    to_numpy,
)
from tcm_d2.visualize.palette import (
    FALSE_COLOR,
    HIT_COLOR,
    IGNORED_COLOR,
    MISSED_COLOR,
    Color,
    class_color,
)
from tcm_d2.visualize.sheets import make_contact_sheet, save_image

__all__ = [
    "Comparison",
    "draw_boxes",
    "draw_comparison",
    "draw_score_map",
    "make_contact_sheet",
    "match_boxes",
    "save_image",
]

LabelMode = Literal["auto", "always", "never"]
# When fewer of the labels find room, the legend names the classes with more boxes than this.
_CROWDED_FRACTION, _MAX_RARE = 0.6, 10
LABEL_MODES: tuple[str, ...] = ("auto", "always", "never")


class Comparison(NamedTuple):
    """Outcome of matching predictions with ground truths.

    Attributes:
        is_hit: bool (P,), predictions that found a ground truth first.
        is_ignored: bool (P,), predictions that lie on a difficult ground truth.
        is_found: bool (M,), ground truths that were found.
    """

    is_hit: np.ndarray
    is_ignored: np.ndarray
    is_found: np.ndarray


def draw_boxes(
    image_rgb: np.ndarray,
    boxes: ArrayLike,
    *,
    labels: ArrayLike | Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    scores: ArrayLike | Sequence[float] | None = None,
    colors: Sequence[Color] | None = None,
    line_width_px: int | None = None,
    label_mode: LabelMode = "auto",
    legend: bool | None = None,
    headings: bool = False,
) -> np.ndarray:
    """Return a copy of the image with oriented boxes.

    Args:
        image_rgb: uint8 (H, W, 3).
        boxes: (M, 5).
        labels: class indices (M,); None draws all boxes as class 0, without names.
        class_names: names by class index.
        scores: (M,), written behind the names.
        colors: one RGB colour per box; by default each class has its own, whatever the picture.
        line_width_px: by default from the sizes of image and boxes.
        label_mode: "auto" writes a label where it hides no box, "always" everywhere, "never"
            nowhere.
        legend: a legend of classes with counts; None draws one when labels are given and not all
            of them found room.
        headings: mark the direction of each box's +w axis.

    Raises:
        TypeError: image not a uint8 array.
        ValueError: wrong shapes, lengths or label mode, class index without name.
    """
    image, quads = checked_image(image_rgb).copy(), checked_quads(boxes, "boxes")
    num_boxes = len(quads)
    if label_mode not in LABEL_MODES:
        raise ValueError(f"label_mode: expected one of {LABEL_MODES}, got {label_mode!r}")
    classes = checked_classes(labels, num_boxes, class_names, "labels")
    values = checked_vector(scores, num_boxes, "scores")
    if colors is None:
        colors = [class_color(int(c)) for c in classes]
    elif len(colors) != num_boxes:
        raise ValueError(f"colors: expected one per box ({num_boxes}), got {len(colors)}")
    width = checked_line_width(line_width_px, image, quads)
    outline_quads(image, quads, colors, line_width_px=width)
    if headings:
        draw_headings(image, quads, colors, line_width_px=width)
    busy = busy_mask(image.shape[:2], quads)
    texts = _texts(num_boxes, None if labels is None else classes, class_names, values)
    wanted = sum(bool(text) for text in texts)
    order = np.argsort(-(_areas(quads) if values is None else values), kind="stable")
    if legend or (legend is None and label_mode == "auto" and labels is not None):
        rehearsal = image.copy()
        written = place_labels(
            rehearsal, quads, texts, colors, busy=busy.copy(), order=order, force=False
        )
        if legend or written < wanted:
            drawn = draw_legend(image, _class_entries(classes, class_names), busy=busy)
            if drawn and label_mode == "auto" and written < _CROWDED_FRACTION * wanted:
                is_rare = np.bincount(classes)[classes] <= _MAX_RARE
                texts = [text if rare else "" for text, rare in zip(texts, is_rare)]
    if label_mode != "never":
        place_labels(
            image, quads, texts, colors, busy=busy, order=order, force=label_mode == "always"
        )
    return image


def match_boxes(
    gt_boxes: ArrayLike,
    gt_classes: ArrayLike | Sequence[int],
    pred_boxes: ArrayLike,
    pred_classes: ArrayLike | Sequence[int],
    pred_scores: ArrayLike | Sequence[float],
    *,
    gt_difficult: ArrayLike | Sequence[bool] | None = None,
    iou_threshold: float = 0.5,
) -> Comparison:
    """Match predictions with ground truths as DOTA's metric does.

    Each prediction, best score first, takes the ground truth of its class with the largest
    IoU, which must exceed the threshold; a second one on the same ground truth is false. A
    prediction on a difficult ground truth counts neither way.
    """
    gt = checked_boxes(gt_boxes, "gt_boxes")
    pred = checked_boxes(pred_boxes, "pred_boxes")
    gt_labels = checked_classes(gt_classes, len(gt), None, "gt_classes")
    pred_labels = checked_classes(pred_classes, len(pred), None, "pred_classes")
    scores = checked_vector(pred_scores, len(pred), "pred_scores")
    assert scores is not None
    difficult = np.zeros(len(gt), bool)
    if gt_difficult is not None:
        vector = checked_vector(gt_difficult, len(gt), "gt_difficult")
        assert vector is not None
        difficult = vector.astype(bool)
    is_hit, is_ignored = np.zeros(len(pred), bool), np.zeros(len(pred), bool)
    is_found = np.zeros(len(gt), bool)
    if len(gt) and len(pred):
        ious = box_iou_rotated(pred, gt).numpy()  # (P, M)
        ious[pred_labels[:, None] != gt_labels[None, :]] = -1.0
        best = ious.argmax(1)
        for index in np.argsort(-scores, kind="stable"):
            target = best[index]
            if ious[index, target] <= iou_threshold:
                continue
            if difficult[target]:
                is_ignored[index] = True
            elif not is_found[target]:
                is_hit[index] = is_found[target] = True
    return Comparison(is_hit, is_ignored, is_found)


def draw_comparison(
    image_rgb: np.ndarray,
    gt_boxes: ArrayLike,
    gt_classes: ArrayLike | Sequence[int],
    pred_boxes: ArrayLike,
    pred_classes: ArrayLike | Sequence[int],
    pred_scores: ArrayLike | Sequence[float],
    *,
    class_names: Sequence[str] | None = None,
    gt_difficult: ArrayLike | Sequence[bool] | None = None,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.3,
    line_width_px: int | None = None,
    label_mode: LabelMode = "auto",
    legend: bool = True,
    headings: bool = False,
) -> np.ndarray:
    """Return a copy of the image that shows hits, misses and false detections.

    Hits are blue (the predicted box), missed ground truths yellow and dashed, false detections
    vermilion, difficult ground truths that were not found and predictions on difficult ones
    grey. Names are written at misses and false detections.

    Args:
        image_rgb: uint8 (H, W, 3).
        gt_boxes: (M, 5) with gt_classes (M,) and, optionally, gt_difficult (M,).
        pred_boxes: (P, 5) with pred_classes (P,) and pred_scores (P,).
        class_names: names by class index.
        iou_threshold: a hit needs an IoU above it.
        score_threshold: predictions with a lower score are left out.
        headings: mark the direction of each drawn box's +w axis.

    Raises:
        TypeError: image not a uint8 array.
        ValueError: wrong shapes, lengths or label mode, class index without name.
    """
    image = checked_image(image_rgb).copy()
    if label_mode not in LABEL_MODES:
        raise ValueError(f"label_mode: expected one of {LABEL_MODES}, got {label_mode!r}")
    gt, pred = checked_quads(gt_boxes, "gt_boxes"), checked_quads(pred_boxes, "pred_boxes")
    gt_labels = checked_classes(gt_classes, len(gt), class_names, "gt_classes")
    pred_labels = checked_classes(pred_classes, len(pred), class_names, "pred_classes")
    scores = checked_vector(pred_scores, len(pred), "pred_scores")
    assert scores is not None
    kept = scores >= score_threshold
    pred, pred_labels, scores = pred[kept], pred_labels[kept], scores[kept]
    outcome = match_boxes(
        gt_boxes,
        gt_labels,
        checked_boxes(pred_boxes, "pred_boxes")[torch.from_numpy(kept)],
        pred_labels,
        scores,
        gt_difficult=gt_difficult,
        iou_threshold=iou_threshold,
    )
    difficult = np.zeros(len(gt), bool)
    if gt_difficult is not None:
        difficult = np.asarray(gt_difficult).astype(bool)
    is_missed = ~outcome.is_found & ~difficult
    missed = gt[is_missed]
    false = ~outcome.is_hit & ~outcome.is_ignored
    width = checked_line_width(line_width_px, image, np.concatenate([gt, pred]))
    layers = (
        (gt[difficult], IGNORED_COLOR, True),
        (pred[outcome.is_ignored], IGNORED_COLOR, False),
        (pred[outcome.is_hit], HIT_COLOR, False),
        (missed, MISSED_COLOR, True),
        (pred[false], FALSE_COLOR, False),
    )
    for quads, color, dashed in layers:
        outline_quads(image, quads, [color] * len(quads), line_width_px=width, dashed=dashed)
        if headings:
            draw_headings(image, quads, [color] * len(quads), line_width_px=width)
    busy = busy_mask(image.shape[:2], np.concatenate([gt, pred]))
    if legend:
        entries = [
            LegendEntry(f"hit {int(outcome.is_hit.sum())}", HIT_COLOR),
            LegendEntry(f"missed {len(missed)}", MISSED_COLOR, dashed=True),
            LegendEntry(f"false {int(false.sum())}", FALSE_COLOR),
        ]
        if difficult.any():
            entries.append(LegendEntry(f"difficult {int(difficult.sum())}", IGNORED_COLOR, True))
        draw_legend(image, entries, busy=busy)
    if label_mode != "never":
        texts = _texts(int(false.sum()), pred_labels[false], class_names, scores[false])
        texts += _texts(len(missed), gt_labels[is_missed], class_names, None)
        _name_errors(
            image,
            np.concatenate([pred[false], missed]),
            texts,
            np.concatenate([pred_labels[false], gt_labels[is_missed]]),
            num_false=int(false.sum()),
            busy=busy,
            label_mode=label_mode,
        )
    return image


def _name_errors(
    image: np.ndarray,
    quads: np.ndarray,
    texts: list[str],
    classes: np.ndarray,
    *,
    num_false: int,
    busy: np.ndarray,
    label_mode: LabelMode,
) -> None:
    """Write names at false detections and misses, in place.

    Args:
        image: (H, W, 3).
        quads: (E, 4, 2) false detections, then misses.
        texts: E of them.
        classes: (E,).
        num_false: how many of the E are false detections.
        busy: (H, W) where no text should be; changed.
        label_mode: "auto" leaves out misses of frequent classes where there is no room for most.
    """
    colors = [FALSE_COLOR] * num_false + [MISSED_COLOR] * (len(quads) - num_false)
    order = np.argsort(-_areas(quads), kind="stable")
    if label_mode == "auto":
        written = place_labels(
            image.copy(), quads, texts, colors, busy=busy.copy(), order=order, force=False
        )
        if written < _CROWDED_FRACTION * len(texts):
            # Names at some of many misses say nothing; the legend counts them.
            is_rare = np.bincount(classes)[classes] <= _MAX_RARE
            is_rare[:num_false] = True
            texts = [text if rare else "" for text, rare in zip(texts, is_rare)]
    place_labels(image, quads, texts, colors, busy=busy, order=order, force=label_mode == "always")


def draw_score_map(
    image_rgb: np.ndarray,
    score_map_HW: ArrayLike,
    *,
    value_range: tuple[float, float] | None = None,
    opacity: float = 0.55,
) -> np.ndarray:
    """Return the image with a score map (any size, h x w) laid over it as a heat map.

    Args:
        image_rgb: uint8 (H, W, 3).
        score_map_HW: float (h, w), resized bilinearly to the image.
        value_range: scores of the darkest and brightest colour; by default the map's own.
        opacity: weight of the heat map, 0..1.

    Raises:
        TypeError: image not a uint8 array.
        ValueError: map not two-dimensional, empty or not finite; opacity outside 0..1.
    """
    image = checked_image(image_rgb)
    scores = to_numpy(score_map_HW).astype(np.float32)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"score_map_HW: expected shape (h, w), got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("score_map_HW: expected finite values, got NaN or infinity")
    if not 0.0 <= opacity <= 1.0:
        raise ValueError(f"opacity: expected 0..1, got {opacity}")
    low, high = (float(scores.min()), float(scores.max())) if value_range is None else value_range
    size = (image.shape[1], image.shape[0])
    large = cv2.resize(scores, size, interpolation=cv2.INTER_LINEAR)
    unit = np.clip((large - low) / max(high - low, 1e-12), 0.0, 1.0)
    heat = cv2.applyColorMap(np.rint(255 * unit).astype(np.uint8), cv2.COLORMAP_INFERNO)
    gray = image.mean(2, keepdims=True).astype(np.float32)
    mixed = (1 - opacity) * gray + opacity * heat[..., ::-1].astype(np.float32)
    picture: np.ndarray = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return picture


def _texts(
    num_boxes: int,
    classes: np.ndarray | None,
    class_names: Sequence[str] | None,
    scores: np.ndarray | None,
) -> list[str]:
    """Return the label of each box; "" without classes and scores."""
    texts = []
    for index in range(num_boxes):
        parts = []
        if classes is not None:
            parts.append(_class_name(int(classes[index]), class_names))
        if scores is not None:
            parts.append(f"{scores[index]:.2f}")
        texts.append(" ".join(parts))
    return texts


def _class_entries(classes: np.ndarray, class_names: Sequence[str] | None) -> list[LegendEntry]:
    present, counts = np.unique(classes, return_counts=True)
    return [
        LegendEntry(f"{_class_name(int(c), class_names)} {int(n)}", class_color(int(c)))
        for c, n in zip(present, counts)
    ]


def _class_name(class_index: int, class_names: Sequence[str] | None) -> str:
    return f"class {class_index}" if class_names is None else class_names[class_index]


def _areas(quads: np.ndarray) -> np.ndarray:
    """Return the areas (M,) of rectangles given by their corners (M, 4, 2)."""
    sides = np.hypot(*np.moveaxis(quads[:, 1:3] - quads[:, 0:2], -1, 0))  # (M, 2)
    areas: np.ndarray = sides.prod(1)
    return areas
