#!/usr/bin/env python
"""Score Task1 result files of any detector against DOTA labels, by the official devkit's rules.

Example:
    python tools/evaluate_dota.py --detections results/Task1 --annotations DOTA/val/labelTxt

The detections are files Task1_<class>.txt with rows `image_id score x1 y1 ... x4 y4` in pixels of
the whole image, in a folder or a zip. A class without a result file counts as without detections
(a warning says so; the devkit needs the file). The mean is taken over the classes that have ground
truth; `mean_ap_devkit` in the JSON is the sum over all classes divided by their number.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.data.dota.classes import DOTA_V1_CLASSES
from tcm_d2.data.dota.labels import ON_ERROR_CHOICES, list_labels
from tcm_d2.evaluation.average_precision import DIFFICULT_RULES, METRICS, TIE_ORDERS
from tcm_d2.evaluation.submission import read_task1
from tcm_d2.evaluation.task1_scoring import evaluate_task1, read_annotations


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--detections", required=True, type=Path, metavar="DIR_or_ZIP", help="Task1 files")
    add("--annotations", required=True, type=Path, metavar="LABELTXT_DIR", help="<image id>.txt")
    add(
        "--image-list",
        type=Path,
        metavar="FILE",
        help="image ids that count, one per line (default: all label files)",
    )
    add("--metric", choices=METRICS, default="11point", help="AP formula (default: 11point)")
    add("--iou", type=float, default=0.5, help="a match needs an IoU above this (default: 0.5)")
    add(
        "--classes",
        nargs="+",
        default=list(DOTA_V1_CLASSES),
        metavar="NAME",
        help="classes to score (default: the 15 of DOTA-v1.0)",
    )
    add("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    add(
        "--difficult",
        choices=DIFFICULT_RULES,
        default="ignore",
        help="difficult objects: ignore (official) or count (mmrotate's local metric)",
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
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score, print the table; return 0, or 1 after a message on standard error."""
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        detections = read_task1(args.detections)
        image_ids = _read_image_list(args.image_list, args.annotations)
        annotations = read_annotations(
            args.annotations,
            image_ids=image_ids,
            classes=list(dict.fromkeys(args.classes)),
            on_bad_label=args.on_bad_label,
        )
        report = evaluate_task1(
            detections,
            annotations,
            iou_threshold=args.iou,
            metric=args.metric,
            difficult=args.difficult,
            tie_order=args.tie_order,
            unknown_images="drop" if args.allow_unknown_images else "raise",
        )
        if args.json is not None:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            report.write_json(args.json)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.as_table())
    return 0


def _read_image_list(path: Path | None, label_dir: Path) -> list[str]:
    if path is None:
        image_ids = list(list_labels(label_dir))
        if not image_ids:
            raise ValueError(f"{label_dir}: expected label files <image id>.txt, found none")
        return image_ids
    image_ids = path.read_text(encoding="utf-8-sig").split()
    if not image_ids:
        raise ValueError(f"{path}: expected image ids, one per line, got an empty file")
    return image_ids


if __name__ == "__main__":
    sys.exit(main())
