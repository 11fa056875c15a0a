"""Pictures of an evaluation: curves, confusion matrix, AP by class, size, shape and angle."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tcm_d2.evaluation.analysis.result import EvaluationResult
from tcm_d2.structures.arrays import FloatArray

logger = logging.getLogger(__name__)

_Painter = Callable[[Any, EvaluationResult], None]
_DPI = 110
# Colours that stay apart for most kinds of colour vision (Okabe and Ito), then again with another
# line style.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#7F7F7F")
_LINE_STYLES = ("-", "--", ":")
_BAR_COLOR = "#0072B2"
# More curves than this have no place in a legend.
_MAX_LEGEND_ENTRIES = 40
# Inches of a class in the confusion matrix. More classes share its side and have no counts in the
# cells: memory grows with the square of the side.
_CELL_INCH, _MAX_MATRIX_INCH, _MIN_CELL_WITH_COUNT_INCH = 0.42, 24.0, 0.3
_POINTS_PER_INCH = 72


def draw_pictures(result: EvaluationResult) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of PNG files; none, with a warning, where matplotlib is missing.

    A picture that cannot be drawn is left out with a warning.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        logger.warning("no pictures of the evaluation: %s; pip install matplotlib", error)
        return

    def draw(painter: _Painter, width: float, height: float) -> bytes:
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        painter(figure, result)
        buffer = io.BytesIO()
        # Without the version of matplotlib equal results give equal files more often.
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    num_classes = len(result.classes)
    matrix = min(_CELL_INCH * num_classes, _MAX_MATRIX_INCH)
    pictures: dict[str, tuple[_Painter, float, float]] = {
        "precision_recall.png": (_draw_curves, 10, 6.5),
        "ap_by_class.png": (_draw_classes, 8, 1.8 + 0.34 * num_classes),
        "confusion_matrix.png": (_draw_confusion, 5.3 + matrix, 4.5 + matrix),
        "ap_by_size_shape_angle.png": (_draw_bins, 13, 4.2),
    }
    for name, (painter, width, height) in pictures.items():
        try:
            content = draw(painter, width, height)
        except Exception as error:
            logger.warning("%s could not be drawn: %s: %s", name, type(error).__name__, error)
        else:
            yield name, content


def _draw_curves(figure: Any, result: EvaluationResult) -> None:
    axes = figure.subplots()
    shown = {n: p.result for n, p in result.classes.items() if p.result.num_ground_truths > 0}
    for index, (name, one) in enumerate(shown.items()):
        style = _LINE_STYLES[index // len(_COLORS) % len(_LINE_STYLES)]
        axes.plot(
            np.concatenate([np.zeros_like(one.recall[:1]), one.recall, one.recall[-1:]]),
            np.concatenate([one.precision[:1], one.precision, np.zeros_like(one.recall[-1:])]),
            style,
            color=_COLORS[index % len(_COLORS)],
            linewidth=1.6,
            label=f"{name} {100 * one.ap:.1f}" if index < _MAX_LEGEND_ENTRIES else None,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    table = result.table
    axes.set_title(
        f"Precision and recall at IoU {table.iou_threshold:g} "
        f"(mean AP {_percent(table.mean_ap)}, {table.metric})"
    )
    axes.grid(alpha=0.3)
    if shown:
        title = "AP in percent"
        if len(shown) > _MAX_LEGEND_ENTRIES:
            title += f"\nfirst {_MAX_LEGEND_ENTRIES} of {len(shown)}"
        size = None if len(shown) <= _MAX_LEGEND_ENTRIES // 2 else 7
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title=title, fontsize=size)


def _draw_classes(figure: Any, result: EvaluationResult) -> None:
    axes = figure.subplots()
    names = list(result.classes)
    values = [100 * part.result.ap for part in result.classes.values()]
    heights = [0.0 if math.isnan(value) else value for value in values]
    axes.barh(range(len(names)), heights, color=_BAR_COLOR)
    for row, (name, value) in enumerate(zip(names, values)):
        objects = result.classes[name].result.num_ground_truths
        text = "no objects" if math.isnan(value) else f"{value:.1f}  ({objects} objects)"
        axes.text(heights[row] + 1, row, text, va="center", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 132), xlabel="AP in percent")
    axes.set_xticks(range(0, 101, 20))
    axes.set_title(
        f"AP at IoU {result.table.iou_threshold:g}: mean {_percent(result.table.mean_ap)}; "
        f"IoU 0.50:0.95: {_percent(result.table.mean_ap_coco)}"
    )
    axes.spines[["top", "right"]].set_visible(False)


def _draw_confusion(figure: Any, result: EvaluationResult) -> None:
    axes = figure.subplots()
    names = list(result.classes)
    counts = result.confusion.counts
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / total
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    cell_inch = min(_CELL_INCH, _MAX_MATRIX_INCH / max(len(names), 1))
    has_counts = cell_inch >= _MIN_CELL_WITH_COUNT_INCH
    size = None if has_counts else 0.8 * cell_inch * _POINTS_PER_INCH
    for row, column in zip(*np.nonzero(counts)) if has_counts else ():
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(
            column,
            row,
            _short(int(counts[row, column])),
            ha="center",
            va="center",
            color=color,
            fontsize=8,
        )
    axes.set_xticks(
        range(len(names) + 1), [*names, "missed"], rotation=60, ha="right", fontsize=size
    )
    axes.set_yticks(range(len(names) + 1), [*names, "background"], fontsize=size)
    axes.set(xlabel="predicted", ylabel="true")
    axes.axhline(len(names) - 0.5, color="black", linewidth=0.8)
    axes.axvline(len(names) - 0.5, color="black", linewidth=0.8)
    confusion = result.confusion
    axes.set_title(
        f"Confusion: score >= {confusion.score_threshold:g}, IoU > {confusion.iou_threshold:g}\n"
        f"colour: share of the row{'' if has_counts else '; counts in confusion_matrix.csv'}"
    )


def _draw_bins(figure: Any, result: EvaluationResult) -> None:
    panels = figure.subplots(1, 3, sharey=True)
    parts = list(result.classes.values())
    options = result.options
    _draw_binned(panels[0], [part.by_size for part in parts], "object size: sqrt(area) in px")
    _draw_binned(panels[1], [part.by_aspect for part in parts], "aspect ratio: long / short side")
    by_angle = np.array([[entry.ap for entry in part.by_angle] for part in parts])
    labels = [f"{tolerance:g}" for tolerance in options.angle_tolerances_deg]
    _draw_bars(panels[2], labels, _column_means(by_angle), [""] * len(labels))
    panels[2].set_xlabel("match only within this angle error in degrees")
    panels[0].set_ylabel("mean AP in percent")
    panels[0].set_ylim(0, 112)
    figure.suptitle(f"Mean AP at IoU {result.table.iou_threshold:g} over classes with objects")


def _draw_binned(axes: Any, bins: Sequence[Sequence[Any]], xlabel: str) -> None:
    columns = list(zip(*bins))
    labels, notes = [], []
    for column in columns:
        low, high = column[0].low, column[0].high
        labels.append(f">= {low:g}" if math.isinf(high) else f"{low:g} - {high:g}")
        notes.append(f"\n{sum(entry.num_ground_truths for entry in column)} obj.")
    values = np.array([[entry.ap for entry in column] for column in columns]).T
    _draw_bars(axes, labels, _column_means(values.reshape(-1, len(columns))), notes)
    axes.set_xlabel(xlabel)


def _draw_bars(
    axes: Any, labels: Sequence[str], values: Sequence[float], notes: Sequence[str]
) -> None:
    heights = [0.0 if math.isnan(value) else 100 * value for value in values]
    axes.bar(range(len(labels)), heights, color=_BAR_COLOR, width=0.7)
    for index, (value, height) in enumerate(zip(values, heights)):
        text = "-" if math.isnan(value) else f"{height:.1f}"
        axes.text(index, height + 1, text, ha="center", fontsize=9)
    ticks = [f"{label}{note}" for label, note in zip(labels, notes)]
    axes.set_xticks(range(len(labels)), ticks, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _column_means(values: FloatArray) -> list[float]:
    """Mean of each column over the rows that are numbers; NaN without any."""
    means = []
    for column in values.T:
        known = column[~np.isnan(column)]
        means.append(float(known.mean()) if len(known) else float("nan"))
    return means


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _short(count: int) -> str:
    """Return a count in at most four characters."""
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"
