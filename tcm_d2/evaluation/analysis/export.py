"""Write an evaluation as JSON, CSV and pictures, each file atomically.

=====================  ============================================================
evaluation.json        everything but the single matches; ``version`` first
matches.json           by image: each detection with its outcome, each object
classes.csv            one row per class, and the mean
curves.csv             class, score, recall, precision
bins.csv               AP by size, aspect ratio and angle tolerance
confusion_matrix.csv   rows: true class, columns: predicted class
``*.png``              see ``plots``
=====================  ============================================================
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tcm_d2.evaluation.analysis.numbers import Bin
from tcm_d2.evaluation.analysis.plots import draw_pictures
from tcm_d2.evaluation.analysis.result import (
    OUTCOMES,
    VERSION,
    ClassAnalysis,
    EvaluationResult,
)
from tcm_d2.evaluation.scoring.average_precision import ClassResult
from tcm_d2.files import write_bytes_atomically
from tcm_d2.structures.arrays import IntArray

EVALUATION_FILE = "evaluation.json"
MATCHES_FILE = "matches.json"
# Points kept of a curve; the ends always are.
MAX_CURVE_POINTS = 400
DETECTION_COLUMNS = ["class", "score", "iou", "outcome", "object", "quad"]
OBJECT_COLUMNS = ["class", "difficult", "found_by", "quad"]
_NUM_DIGITS = 6


def export_evaluation(
    output_dir: str | Path,
    result: EvaluationResult,
    *,
    pictures: bool = True,
    matches: bool = True,
) -> list[Path]:
    """Write all files into a folder, made where missing, and return their paths.

    Args:
        output_dir: where to.
        result: what to write.
        pictures: draw PNG files; needs matplotlib, without it a warning is logged.
        matches: write matches.json, which has a line per image.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        EVALUATION_FILE: _to_json(to_dict(result)),
        "classes.csv": _to_csv(_class_rows(result)),
        "curves.csv": _to_csv(_curve_rows(result)),
        "bins.csv": _to_csv(_bin_rows(result)),
        "confusion_matrix.csv": _to_csv(_confusion_rows(result)),
    }
    if matches:
        contents[MATCHES_FILE] = _matches_json(result)
    # The numbers first: whatever happens to the pictures, they are there.
    paths = []
    for name, content in chain(contents.items(), draw_pictures(result) if pictures else ()):
        write_bytes_atomically(folder / name, content)
        paths.append(folder / name)
    return paths


def to_dict(result: EvaluationResult) -> dict[str, Any]:
    """Return what evaluation.json holds: plain numbers, None for NaN and infinity."""
    table = result.table
    return {
        "version": result.version,
        **{key: value for key, value in table.as_dict().items() if key != "classes"},
        "classes": {
            name: _class_dict(table.classes[name], part) for name, part in result.classes.items()
        },
        "mean_by_size": _mean_bins([part.by_size for part in result.classes.values()]),
        "mean_by_aspect": _mean_bins([part.by_aspect for part in result.classes.values()]),
        "mean_by_angle": mean_by_angle(result),
        "confusion": {
            "score_threshold": result.confusion.score_threshold,
            "iou_threshold": result.confusion.iou_threshold,
            "rows_true": [*result.classes, "background"],
            "columns_predicted": [*result.classes, "missed"],
            "counts": result.confusion.counts.tolist(),
        },
    }


def mean_by_angle(result: EvaluationResult) -> list[dict[str, float | None]]:
    """Return the mean AP over classes with ground truth at each angle tolerance."""
    columns = zip(*(part.by_angle for part in result.classes.values()))
    return [
        {
            "max_error_deg": column[0].max_error_deg,
            "ap": _finite(_mean(entry.ap for entry in column)),
        }
        for column in columns
    ]


def thin_curve(result: ClassResult) -> IntArray:
    """Return the indices of the points of a curve to keep: evenly spread, with both ends."""
    num = result.num_detections
    if num <= MAX_CURVE_POINTS:
        return np.arange(num)
    return np.unique(np.linspace(0, num - 1, MAX_CURVE_POINTS).round().astype(np.int64))


def _class_dict(result: ClassResult, part: ClassAnalysis) -> dict[str, Any]:
    points = thin_curve(result)
    return {
        "ap": _finite(result.ap),
        "num_ground_truths": result.num_ground_truths,
        "num_difficult": result.num_difficult,
        "num_detections": result.num_detections,
        "max_recall": _finite(result.max_recall),
        "num_true": part.num_true,
        "ap_50_95": _finite(_mean(part.ap_by_iou.values())),
        "ap_by_iou": {f"{iou:.2f}": _finite(ap) for iou, ap in part.ap_by_iou.items()},
        "mean_iou": _finite(part.mean_iou),
        "median_angle_error_deg": _finite(part.median_angle_error_deg),
        "best_f1": _finite(part.best_f1),
        "best_f1_score": _finite(part.best_f1_score),
        "by_size": [_bin_dict(entry) for entry in part.by_size],
        "by_aspect": [_bin_dict(entry) for entry in part.by_aspect],
        "by_angle": [
            {"max_error_deg": entry.max_error_deg, "ap": _finite(entry.ap)}
            for entry in part.by_angle
        ],
        "curve": {
            "scores": _rounded(result.scores[points]),
            "recall": _rounded(result.recall[points]),
            "precision": _rounded(result.precision[points]),
        },
    }


def _bin_dict(entry: Bin) -> dict[str, Any]:
    return {
        "low": entry.low,
        "high": _finite(entry.high),
        "ap": _finite(entry.ap),
        "num_ground_truths": entry.num_ground_truths,
        "num_found": entry.num_found,
        "num_detections": entry.num_detections,
    }


def _mean_bins(parts: Sequence[list[Bin]]) -> list[dict[str, Any]]:
    """Bins over all classes: mean AP of the classes with objects there, sums of the counts."""
    return [
        _bin_dict(
            Bin(
                column[0].low,
                column[0].high,
                _mean(entry.ap for entry in column),
                sum(entry.num_ground_truths for entry in column),
                sum(entry.num_found for entry in column),
                sum(entry.num_detections for entry in column),
            )
        )
        for column in zip(*parts)
    ]


def _matches_json(result: EvaluationResult) -> bytes:
    prepared = result.prepared
    images: list[tuple[list[Any], list[Any]]] = [([], []) for _ in prepared.image_ids]
    for label, part in enumerate(result.classes.values()):
        objects = prepared.ground_truths[label]
        position = np.zeros(len(objects.difficult), dtype=np.int64)
        for gt, image in enumerate(objects.image_index.tolist()):
            rows = images[image][1]
            position[gt] = len(rows)
            quad = _rounded(prepared.object_quads[label][gt].reshape(8), 2)
            rows.append([label, int(objects.difficult[gt]), -1, quad])
        found = prepared.detections[label]
        quads = np.round(prepared.detection_quads[label].reshape(-1, 8), 2).tolist()
        columns = zip(
            found.image_index.tolist(),
            _rounded(found.scores),
            _rounded(part.best_iou),
            part.outcome.tolist(),
            part.best_gt.tolist(),
            quads,
        )
        for image, score, iou, outcome, gt, quad in columns:
            rows, object_rows = images[image]
            at = int(position[gt]) if gt >= 0 else -1
            if OUTCOMES[outcome] == "true":
                object_rows[at][2] = len(rows)
            rows.append([label, score, iou, outcome, at, quad])
    head = {
        "version": VERSION,
        "iou_threshold": result.table.iou_threshold,
        "classes": list(result.classes),
        "outcomes": list(OUTCOMES),
        "detection_columns": DETECTION_COLUMNS,
        "object_columns": OBJECT_COLUMNS,
    }
    lines = [
        f"{json.dumps(image_id)}: "
        + json.dumps({"detections": rows, "objects": objects}, separators=(",", ":"))
        for image_id, (rows, objects) in zip(prepared.image_ids, images)
    ]
    return (
        json.dumps(head, indent=1)[:-2] + ',\n "images": {\n' + ",\n".join(lines) + "\n}\n}\n"
    ).encode()


def _class_rows(result: EvaluationResult) -> list[list[Any]]:
    rows: list[list[Any]] = [
        [
            *("class", "ap", "ap_50_95", "max_recall", "num_ground_truths", "num_difficult"),
            *("num_detections", "num_true", "mean_iou", "median_angle_error_deg"),
            *("best_f1", "best_f1_score", "note"),
        ]
    ]
    table = result.table
    for name, part in result.classes.items():
        one = part.result
        rows.append(
            [
                *(name, one.ap, _mean(part.ap_by_iou.values()), one.max_recall),
                *(one.num_ground_truths, one.num_difficult, one.num_detections, part.num_true),
                *(part.mean_iou, part.median_angle_error_deg, part.best_f1, part.best_f1_score),
                table.notes.get(name, ""),
            ]
        )
    rows.append(["mean", table.mean_ap, table.mean_ap_coco, *[""] * 10])
    return rows


def _curve_rows(result: EvaluationResult) -> list[list[Any]]:
    rows: list[list[Any]] = [["class", "score", "recall", "precision"]]
    for name, part in result.classes.items():
        points = thin_curve(part.result)
        one = part.result
        columns = zip(one.scores[points], one.recall[points], one.precision[points])
        rows += [[name, *map(float, column)] for column in columns]
    return rows


def _bin_rows(result: EvaluationResult) -> list[list[Any]]:
    rows: list[list[Any]] = [
        ["class", "by", "low", "high", "ap", "num_ground_truths", "num_found", "num_detections"]
    ]
    for name, part in result.classes.items():
        for kind, bins in (("size_px", part.by_size), ("aspect", part.by_aspect)):
            for entry in bins:
                counts = (entry.num_ground_truths, entry.num_found, entry.num_detections)
                rows.append([name, kind, entry.low, entry.high, entry.ap, *counts])
        for tolerance in part.by_angle:
            rows.append([name, "angle_deg", 0.0, tolerance.max_error_deg, tolerance.ap, "", "", ""])
    return rows


def _confusion_rows(result: EvaluationResult) -> list[list[Any]]:
    names = list(result.classes)
    rows: list[list[Any]] = [["true \\ predicted", *names, "missed"]]
    for name, counts in zip([*names, "background"], result.confusion.counts.tolist()):
        rows.append([name, *counts])
    return rows


def _to_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([_to_cell(value) for value in row])
    return text.getvalue().encode()


def _to_cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{_NUM_DIGITS}g}"
    return value


def _to_json(content: dict[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode()


def _rounded(values: Any, decimals: int = _NUM_DIGITS) -> list[float | None]:
    return [None if math.isnan(v) else v for v in np.round(values, decimals).tolist()]


def _mean(values: Iterable[float]) -> float:
    """Mean of those that are numbers; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
