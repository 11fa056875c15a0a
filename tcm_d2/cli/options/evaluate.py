"""Score result files of any detector against DOTA labels, by the official devkit's rules.

Examples:
    %(prog)s --detections results/Task1 --labels DOTA/val/labelTxt
    %(prog)s --detections Task1.zip --labels DOTA/val/labelTxt \\
        --output analysis
    %(prog)s --task 2 --detections results/Task2 \\
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
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, new_parser, parse_options
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES

# Of earlier releases.
OLD_WORDS = {"--annotations": "--labels", "--iou": "--iou-threshold", "--output-dir": "--output"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    add("--detections", required=True, type=Path, metavar="DIR_or_ZIP", help="result files")
    add("--labels", required=True, type=Path, metavar="LABELTXT_DIR", help="<image id>.txt")
    add(
        "--image-list",
        type=Path,
        metavar="FILE",
        help="image ids that count, one per line (default: all label files)",
    )
    add("--task", type=int, choices=(1, 2), default=1, help="1 oriented, 2 upright boxes")
    add(
        "--protocol",
        choices=("devkit", "mmrotate"),
        default="devkit",
        help="devkit (official) or mmrotate (its local metric: difficult objects count, the "
        "smallest rectangles around quads are compared, an IoU equal to the threshold matches)",
    )
    add(
        "--metric",
        choices=("11point", "area"),
        default="11point",
        help="AP formula (default: 11point)",
    )
    add(
        "--iou-threshold",
        type=float,
        default=0.5,
        help="a match needs an IoU above this (default: 0.5)",
    )
    add_classes_option(
        parser, "classes to score (default: the 15 of DOTA-v1.0)", default=DOTA_V1_CLASSES
    )
    add("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    add("--output", type=Path, metavar="DIR", help="write the whole analysis there")
    add("--no-pictures", action="store_true", help="leave out the PNG files of the analysis")
    add("--no-matches", action="store_true", help="leave out matches.json of the analysis")
    add(
        "--confusion-score",
        type=float,
        default=0.3,
        help="detections from this score on enter the confusion matrix (default: 0.3)",
    )
    add(
        "--size-edges",
        type=float,
        nargs="+",
        metavar="PX",
        help="limits of the size bins, sqrt(area) in px (default: 0 16 32 96 inf)",
    )
    add(
        "--aspect-edges",
        type=float,
        nargs="+",
        metavar="RATIO",
        help="limits of the bins of long side / short side (default: 1 1.5 3 5 inf)",
    )
    add(
        "--difficult",
        choices=("ignore", "count"),
        default=None,
        help="difficult objects: ignore (devkit's default) or count (mmrotate's)",
    )
    add(
        "--tie-order",
        choices=("devkit", "stable"),
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
        choices=("raise", "skip", "repair"),
        default="raise",
        help="bad label lines: raise (default; objects without area or crossing themselves count "
        "as in the devkit), skip, or repair what can be repaired",
    )
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words=OLD_WORDS)
