#!/usr/bin/env python
"""Score result files of any detector against DOTA labels, by the official devkit's rules.

Examples:
    python tools/evaluate_dota.py --detections results/Task1 --labels DOTA/val/labelTxt
    python tools/evaluate_dota.py --detections Task1.zip --labels DOTA/val/labelTxt \\
        --output analysis
    python tools/evaluate_dota.py --task 2 --detections results/Task2 \\
        --labels DOTA/val/labelTxt

The detections are files Task1_<class>.txt with rows `image_id score x1 y1 ... x4 y4` (Task 2:
Task2_<class>.txt, `image_id score x1 y1 x2 y2`) in pixels of the whole image, in a folder or a zip.
A class without a result file counts as without detections (a warning says so; the devkit needs the
file). The mean is taken over the classes that have ground truth; `mean_ap_devkit` in the JSON is
the sum over all classes divided by their number. The COCO-style mean is taken over IoU 0.50, 0.55,
... 0.95 with the same AP formula.

--output writes the analysis: evaluation.json, matches.json, CSV files and pictures of curves,
confusion, and AP by size, aspect ratio and angle error; docs/evaluation.md explains them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tcm_d2.cli.options import parse_options
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import ON_ERROR_CHOICES, list_labels
from tcm_d2.evaluation.analysis.export import export_evaluation
from tcm_d2.evaluation.analysis.numbers import ASPECT_EDGES, SIZE_EDGES_PX
from tcm_d2.evaluation.analysis.result import AnalysisOptions, analyze_evaluation
from tcm_d2.evaluation.files.escapes import read_image_list
from tcm_d2.evaluation.files.rows import TASKS
from tcm_d2.evaluation.files.task_files import read_results
from tcm_d2.evaluation.scoring.annotations import read_annotations
from tcm_d2.evaluation.scoring.average_precision import DIFFICULT_RULES, METRICS, TIE_ORDERS
from tcm_d2.evaluation.scoring.protocols import PROTOCOLS, prepare_evaluation
from tcm_d2.evaluation.scoring.score import score_prepared

logger = logging.getLogger("evaluate_dota")

# Of earlier releases.
_OLD_WORDS = {"--annotations": "--labels", "--iou": "--iou-threshold", "--output-dir": "--output"}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--detections", required=True, type=Path, metavar="DIR_or_ZIP", help="result files")
    add("--labels", required=True, type=Path, metavar="LABELTXT_DIR", help="<image id>.txt")
    add(
        "--image-list",
        type=Path,
        metavar="FILE",
        help="image ids that count, one per line (default: all label files)",
    )
    add("--task", type=int, choices=TASKS, default=1, help="1 oriented, 2 upright boxes")
    add(
        "--protocol",
        choices=list(PROTOCOLS),
        default="devkit",
        help="devkit (official) or mmrotate (its local metric: difficult objects count, the "
        "smallest rectangles around quads are compared, an IoU equal to the threshold matches)",
    )
    add("--metric", choices=METRICS, default="11point", help="AP formula (default: 11point)")
    add(
        "--iou-threshold",
        type=float,
        default=0.5,
        help="a match needs an IoU above this (default: 0.5)",
    )
    add(
        "--classes",
        nargs="+",
        default=list(DOTA_V1_CLASSES),
        metavar="NAME",
        help="classes to score (default: the 15 of DOTA-v1.0)",
    )
    add("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    add("--output", type=Path, metavar="DIR", help="write the whole analysis there")
    add("--no-pictures", action="store_true", help="leave out the PNG files of the analysis")
    add("--no-matches", action="store_true", help="leave out matches.json of the analysis")
    add(
        "--confusion-score",
        type=float,
        default=AnalysisOptions.confusion_score,
        help="detections from this score on enter the confusion matrix (default: %(default)s)",
    )
    add(
        "--size-edges",
        type=float,
        nargs="+",
        default=list(SIZE_EDGES_PX),
        metavar="PX",
        help="limits of the size bins, sqrt(area) in px (default: 0 16 32 96 inf)",
    )
    add(
        "--aspect-edges",
        type=float,
        nargs="+",
        default=list(ASPECT_EDGES),
        metavar="RATIO",
        help="limits of the bins of long side / short side (default: 1 1.5 3 5 inf)",
    )
    add(
        "--difficult",
        choices=DIFFICULT_RULES,
        default=None,
        help="difficult objects: ignore (devkit's default) or count (mmrotate's)",
    )
    add(
        "--tie-order",
        choices=TIE_ORDERS,
        default="devkit",
        help="equal scores: sorted by the devkit's unstable call (default; the order depends on "
        "numpy and CPU) or kept in file order",
    )
    add(
        "--allow-unknown-images",
        action="store_true",
        help="drop detections of images that do not count instead of stopping",
    )
    add(
        "--on-bad-label",
        choices=ON_ERROR_CHOICES,
        default="raise",
        help="bad label lines: raise (default; objects without area or crossing themselves count "
        "as in the devkit), skip, or repair what can be repaired",
    )
    return parse_options(parser, arguments, old_words=_OLD_WORDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score, print the table; return 0, or 1 after a message on standard error."""
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    rules = replace(
        PROTOCOLS[args.protocol], task=args.task, metric=args.metric, tie_order=args.tie_order
    )
    if args.difficult is not None:
        rules = replace(rules, difficult=args.difficult)
    try:
        options = AnalysisOptions(
            size_edges_px=_check_edges("--size-edges", args.size_edges),
            aspect_edges=_check_edges("--aspect-edges", args.aspect_edges),
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


def _check_edges(name: str, edges: list[float]) -> list[float]:
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


if __name__ == "__main__":
    sys.exit(main())
