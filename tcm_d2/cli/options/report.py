"""Write an evaluation as one HTML page: AP table, curves, confusion, and pictures of the errors.

  %(prog)s --run output/tcm_fcos/inference/dota_v1_val \\
      --labels DOTA/val/labelTxt --images DOTA/val/images --output report.html

The run is what an evaluation leaves: a folder with Task1/ and ap.json, which says the classes, the
AP formula and the IoU. --detections takes Task1_<class>.txt files of any detector in a folder or a
zip. The page needs no other file and no network. With --config-file and
--weights the pictures get TCM's score maps as a layer:

  %(prog)s --detections ... --labels ... --images ... --output report.html \\
      --config-file configs/tcm_fcos.yaml --weights model_final.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, add_import_option, new_parser, parse_options

# Of earlier releases.
OLD_WORDS = {
    "--results": "--detections",
    "--out": "--output",
    "--iou": "--iou-threshold",
    "--score": "--score-threshold",
}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, metavar="DIR", help="OUTPUT_DIR/inference/<data set>")
    source.add_argument("--detections", type=Path, metavar="DIR_or_ZIP", help="Task1 files")
    add("--labels", required=True, type=Path, metavar="LABELTXT_DIR", help="<image id>.txt")
    add("--images", type=Path, metavar="DIR", help="whole images; none: a page without pictures")
    add("--output", type=Path, default=Path("report.html"), metavar="FILE")
    add("--title", default="", help="default: from the folder of the results")
    add_classes_option(parser, "default: the run's, or DOTA-v1.0's")
    add("--metric", choices=("11point", "area"), help="AP formula (default: the run's, or 11point)")
    add(
        "--iou-threshold",
        type=float,
        help="a hit needs an IoU above this (default: the run's, or 0.5)",
    )
    add("--score-threshold", type=float, default=0.3, help="threshold to start with (default: 0.3)")
    add("--min-score", type=float, default=0.05, help="lower ones are left out of the pictures")
    add("--num-pictures", type=int, default=24, metavar="N", help="the worst N (default: 24)")
    add("--max-mb", type=float, default=12.0, help="for the pictures, which shrink to fit")
    add("--image-format", choices=("webp", "jpeg"), default="webp")
    add_import_option(parser)
    add("--config-file", type=Path, metavar="FILE", help="of a detector, for score maps")
    add("--weights", metavar="FILE", help="of that detector")
    add("--device", metavar="NAME", help="of that detector (default: CUDA where there is one)")
    add("opts", nargs="*", metavar="OVERRIDE", help="of --config-file, after --")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = make_parser(prog)
    args = parse_options(parser, arguments, old_words=OLD_WORDS)
    if (args.config_file is None) != (args.weights is None):
        parser.error("score maps need both --config-file and --weights")
    return args
