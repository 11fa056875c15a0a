"""Put a report together: one HTML file with styles, scripts, numbers and pictures inside.

The page loads nothing: its content security policy forbids the network altogether.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from tcm_d2.evaluation.scoring.average_precision import ClassResult
from tcm_d2.report.analysis import (
    CONFUSION_STEP,
    THRESHOLDS,
    Analysis,
    Strata,
    count_outcomes,
)
from tcm_d2.report.gallery import Picture
from tcm_d2.visualize.palette import class_color

_SCRIPTS = ("base.js", "tables.js", "curves.js", "gallery.js", "viewer.js")
# Points that a drawn curve keeps.
_MAX_CURVE_POINTS = 400
_PLACEHOLDER = re.compile(r"(\{\{[A-Z]+\}\})")


def build_page(
    analysis: Analysis,
    pictures: Sequence[Picture],
    *,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    score_threshold: float = 0.3,
    min_score: float = 0.05,
) -> str:
    """Return the page as text.

    Args:
        analysis: numbers and outcomes.
        pictures: of the gallery, worst first.
        title: of the page.
        facts: (name, value) lines below the title, such as files and dates.
        score_threshold: where the slider starts.
        min_score: where the slider ends; detections below it are not in the page.

    Raises:
        ValueError: thresholds outside [0, 1] or in the wrong order.
    """
    if not 0 <= min_score <= score_threshold <= 1:
        raise ValueError(
            "expected 0 <= min_score <= score_threshold <= 1, got "
            f"min_score {min_score} and score_threshold {score_threshold}"
        )
    data = page_data(analysis, pictures, min_score=min_score)
    data["title"] = title
    data["facts"] = [list(fact) for fact in facts]
    data["start"] = round(100 * score_threshold)
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    parts = {
        "{{TITLE}}": html.escape(title),
        "{{STYLE}}": _asset("page.css"),
        # Inside a script element only "<" could end it.
        "{{DATA}}": text.replace("<", "\\u003c"),
        "{{SCRIPT}}": "\n".join(_asset(name) for name in _SCRIPTS),
    }
    # In one pass: what is put in may hold anything.
    pieces = _PLACEHOLDER.split(_asset("page.html"))
    return "".join(parts.get(piece, piece) for piece in pieces)


def page_data(
    analysis: Analysis, pictures: Sequence[Picture], *, min_score: float
) -> dict[str, Any]:
    """Return what the scripts read, as plain values; None stands for NaN."""
    hits, false = count_outcomes(analysis)
    return {
        "iou": analysis.iou_threshold,
        "metric": analysis.metric,
        "numImages": len(analysis.image_ids),
        "warnings": analysis.warnings,
        "meanAp": _number(analysis.mean_ap),
        "minStep": round(100 * min_score),
        "classes": [
            {
                "name": name,
                "color": list(class_color(index)),
                "ap": _number(result.ap),
                "ap75": _number(float(analysis.ap_75[index])),
                "ap5095": _number(float(analysis.ap_50_95[index])),
                "angleError": _number(float(analysis.angle_error_deg[index])),
                "maxRecall": _number(result.max_recall),
                "objects": result.num_ground_truths,
                "difficult": result.num_difficult,
                "detections": result.num_detections,
                "curve": _curve(result),
                "hits": hits[index].tolist(),
                "false": false[index].tolist(),
            }
            for index, (name, result) in enumerate(zip(analysis.class_names, analysis.results))
        ],
        "numSteps": len(THRESHOLDS),
        "confusionStep": CONFUSION_STEP,
        "confusion": analysis.confusion.tolist(),
        "bySize": _strata(analysis.by_size),
        "byAspect": _strata(analysis.by_aspect),
        "images": [_image(analysis, picture, min_score) for picture in pictures],
    }


def _image(analysis: Analysis, picture: Picture, min_score: float) -> dict[str, Any]:
    table, objects = analysis.detections, analysis.objects
    rows = np.flatnonzero(
        (table.image_index == picture.image_index) & (table.scores >= min_score - 1e-9)
    )
    rows = rows[np.argsort(-table.scores[rows], kind="stable")]
    truths = np.flatnonzero(objects.image_index == picture.image_index)
    height, width = picture.size_hw
    entry: dict[str, Any] = {
        "id": analysis.image_ids[picture.image_index],
        "w": width,
        "h": height,
        "src": picture.uri,
        "gt": {
            "quads": _corners(objects.quads[truths]),
            "cls": objects.class_index[truths].tolist(),
            "difficult": objects.difficult[truths].astype(int).tolist(),
            "found": [_number(float(s)) for s in np.round(objects.found_score[truths], 4)],
        },
        "det": {
            "quads": _corners(table.quads[rows]),
            "cls": table.class_index[rows].tolist(),
            "score": np.round(table.scores[rows], 4).tolist(),
            "outcome": table.outcome[rows].tolist(),
            "iou": np.round(table.iou[rows], 2).tolist(),
        },
    }
    if picture.score_maps is not None:
        num, map_h, map_w = picture.score_maps.shape
        entry["maps"] = {
            "n": num,
            "h": map_h,
            "w": map_w,
            "bytes": base64.b64encode(picture.score_maps.tobytes()).decode("ascii"),
        }
    return entry


def _curve(result: ClassResult) -> dict[str, list[float]]:
    """Return recall, precision and score of the curve, thinned without moving its corners."""
    empty: dict[str, list[float]] = {"recall": [], "precision": [], "score": []}
    if result.num_ground_truths == 0 or not len(result.recall):
        return empty
    rise = np.flatnonzero(np.diff(result.recall, prepend=0.0) > 0)
    # The points where recall rises, and those just before: the teeth of the curve.
    keep = np.unique(np.concatenate([rise, rise[1:] - 1, [len(result.recall) - 1]]))
    if len(keep) > _MAX_CURVE_POINTS:
        keep = keep[np.unique(np.linspace(0, len(keep) - 1, _MAX_CURVE_POINTS).astype(int))]
    return {
        "recall": np.round(result.recall[keep], 4).tolist(),
        "precision": np.round(result.precision[keep], 4).tolist(),
        "score": np.round(result.scores[keep], 4).tolist(),
    }


def _strata(strata: Strata) -> dict[str, Any]:
    return {
        "bins": strata.bins,
        "ap": [[_number(float(value)) for value in row] for row in strata.ap],
        "objects": strata.num_objects.tolist(),
    }


def _corners(quads: np.ndarray) -> list[list[float]]:
    """Return 8 numbers per quad, to a tenth of a pixel."""
    return [[float(value) for value in row] for row in np.round(quads.reshape(-1, 8), 1)]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def _asset(name: str) -> str:
    return resources.files("tcm_d2.report").joinpath("assets", name).read_text(encoding="utf-8")
