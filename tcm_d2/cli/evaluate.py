"""The command tcm-d2 evaluate."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tcm_d2.data.dota.labels import list_labels
from tcm_d2.evaluation.analysis.export import export_evaluation
from tcm_d2.evaluation.analysis.numbers import ASPECT_EDGES, SIZE_EDGES_PX
from tcm_d2.evaluation.analysis.result import AnalysisOptions, analyze_evaluation
from tcm_d2.evaluation.files.escapes import read_image_list
from tcm_d2.evaluation.files.task_files import read_results
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.evaluation.scoring.protocols import PROTOCOLS, prepare_evaluation
from tcm_d2.evaluation.scoring.score import score_prepared

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Score, print the table; return 0, or 1 after a message on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    rules = replace(
        PROTOCOLS[args.protocol], task=args.task, metric=args.metric, tie_order=args.tie_order
    )
    if args.difficult is not None:
        rules = replace(rules, difficult=args.difficult)
    try:
        options = AnalysisOptions(
            size_edges_px=_check_edges("--size-edges", args.size_edges or SIZE_EDGES_PX),
            aspect_edges=_check_edges("--aspect-edges", args.aspect_edges or ASPECT_EDGES),
            confusion_score=args.confusion_score,
        )
        detections = read_results(args.detections, task=args.task)
        image_ids = _read_image_list(args.image_list, args.labels)
        annotations = read_annotations(
            args.labels,
            image_ids=image_ids,
            classes=list(dict.fromkeys(args.classes)),
            on_bad_label=args.on_bad_label,
        )
        prepared = prepare_evaluation(
            detections,
            annotations,
            rules=rules,
            unknown_images="drop" if args.allow_unknown_images else "raise",
        )
        for text in prepared.warnings:
            logger.warning("%s", text)
        result = None
        if args.output is None:
            table = score_prepared(
                prepared, iou_threshold=args.iou_threshold, rules=rules, sweep=True
            )
        else:
            result = analyze_evaluation(
                prepared, iou_threshold=args.iou_threshold, rules=rules, options=options
            )
            table = result.table
        # First of all: a full disk must not cost the numbers.
        print(table.as_table(), flush=True)
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            table.write_json(args.json)
        if result is not None:
            export_evaluation(
                args.output,
                result,
                pictures=not args.no_pictures,
                matches=not args.no_matches,
            )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _check_edges(name: str, edges: Sequence[float]) -> Sequence[float]:
    if len(edges) < 2 or any(not low < high for low, high in pairwise(edges)):
        raise ValueError(f"{name}: expected at least two increasing limits, got {edges}")
    return edges


def _read_image_list(path: Path | None, label_dir: Path) -> list[str]:
    if path is None:
        image_ids = list(list_labels(label_dir))
        if not image_ids:
            raise ValueError(f"{label_dir}: expected label files <image id>.txt, found none")
        return image_ids
    return read_image_list(path)
