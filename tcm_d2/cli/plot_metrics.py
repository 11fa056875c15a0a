"""The command tcm-d2 plot-metrics."""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Colours of Okabe and Ito, told apart by the colour-blind too.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("-", "--", ":", "-.")
# Values that are set, not measured.
_NOT_SMOOTHED = ("lr", "num_skipped_steps")
_COLUMNS = 3
METRICS_FILE = "metrics.json"

Series = dict[str, list[tuple[float, float]]]


def read_metrics(path: Path) -> Series:
    """Return (iteration, value) pairs by key, in the order of iterations.

    A line that is not whole is left out: a run that was killed while it wrote leaves one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no line of the file can be used.
    """
    if path.is_dir():
        path = path / METRICS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give the OUTPUT_DIR of a training run, or its {METRICS_FILE}"
        )
    values: dict[str, dict[float, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            iteration = float(entry["iteration"])
        except (ValueError, KeyError, TypeError):
            continue
        for key, value in entry.items():
            if key != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                values.setdefault(key, {})[iteration] = float(value)
    if not values:
        raise ValueError(f"{path}: expected lines of JSON with an 'iteration', found none")
    return {key: sorted(series.items()) for key, series in values.items()}


def choose_keys(runs: dict[str, Series], patterns: Sequence[str]) -> list[str]:
    """Return the keys that match, in the order of the patterns, each once.

    Raises:
        ValueError: nothing matches.
    """
    known = sorted({key for series in runs.values() for key in series})
    chosen = [key for pattern in patterns for key in fnmatch.filter(known, pattern)]
    if not chosen:
        raise ValueError(f"--keys: nothing matches {list(patterns)}; known: {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Return the running median over an odd window, narrower at the ends."""
    half = max(0, (window - 1) // 2)
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def plot(runs: dict[str, Series], keys: Sequence[str], out: Path, *, window: int) -> None:
    """Draw one panel per key with a curve per run."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"matplotlib is needed ({error}): pip install matplotlib") from error
    columns = min(_COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for index, key in enumerate(keys):
        panel = figure.add_subplot(rows, columns, index + 1)
        for number, (name, series) in enumerate(runs.items()):
            if key not in series:
                continue
            iterations, values = np.array(series[key]).T
            color, dashes = _COLORS[number % len(_COLORS)], _DASHES[number % len(_DASHES)]
            if key not in _NOT_SMOOTHED and len(values) > 3 * window > 3:
                panel.plot(iterations, values, color=color, alpha=0.2, linewidth=0.8)
                values = smooth(values, window)
            marker = "o" if len(values) < 8 else None
            panel.plot(
                iterations, values, dashes, color=color, label=name, marker=marker, markersize=4
            )
        panel.set_title(key, fontsize=10)
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=8)
    handles = {}
    for panel in figure.axes:
        for handle, name in zip(*panel.get_legend_handles_labels()):
            handles.setdefault(name, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def run(args: argparse.Namespace) -> int:
    """Draw; return 0, or 1 after a message on standard error."""
    try:
        runs: dict[str, Series] = {}
        for text in args.runs:
            name, given, place = text.partition("=")
            path = Path(place if given else text)
            label = name if given else (path.parent if path.is_file() else path).name
            if label in runs:
                raise ValueError(f"runs: two are called {label!r}; name them, as in a=RUN b=RUN")
            runs[label] = read_metrics(path)
        keys = choose_keys(runs, args.keys)
        plot(runs, keys, args.output, window=args.smooth)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}  {len(keys)} panels, {len(runs)} runs")
    return 0
