"""Draw what a detector found, against the truth where there are labels, and what its prompts see.

  %(prog)s --images DOTA/val/images --detections out/inference/val
  %(prog)s --images ... --detections ... --labels DOTA/val/labelTxt
  %(prog)s --images a.png b.png --score-maps \\
      --config-file configs/tcm_fcos.yaml --weights model_final.pth

The results are what an evaluation leaves (a folder with Task1/) or Task1 files in a folder or a
zip. With labels hits are blue, missed objects yellow and dashed, false detections red. Score maps
are the probabilities that TCM gives each place by the text of the class alone, before the
detector's head; their sheet is NAME_score_maps.jpg.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, add_import_option, new_parser, parse_options
from tcm_d2.data.dota.classes import DOTA_V1_CLASSES

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
    add("--images", nargs="+", required=True, type=Path, metavar="FILE_or_DIR")
    add("--detections", type=Path, metavar="DIR_or_ZIP", help="Task1 files")
    add("--labels", type=Path, metavar="LABELTXT_DIR", help="<image id>.txt, to compare with")
    add_classes_option(
        parser, "in label order (default: the 15 of DOTA-v1.0)", default=DOTA_V1_CLASSES
    )
    add(
        "--score-threshold",
        type=float,
        default=0.3,
        help="draw detections from this on (default: 0.3)",
    )
    add(
        "--iou-threshold",
        type=float,
        default=0.5,
        help="a hit needs an IoU above this (default: 0.5)",
    )
    add("--headings", action="store_true", help="mark the direction of each box's width")
    add("--score-maps", action="store_true", help="a sheet of TCM's score maps")
    add("--map-classes", nargs="+", metavar="NAME", help="only these, in this order")
    add("--window-px", type=int, default=1024, help="of score maps: the patches' size in training")
    add_import_option(parser)
    add("--config-file", type=Path, metavar="FILE", help="of the detector, for score maps")
    add("--weights", metavar="FILE", help="of the detector, for score maps")
    add("--device", metavar="NAME", help="of the detector (default: CUDA where there is one)")
    add("--output", type=Path, default=Path("output/pictures"), metavar="DIR")
    add("--num", type=int, default=0, metavar="N", help="the first N images (default: all)")
    add("opts", nargs="*", metavar="OVERRIDE", help="of --config-file, after --")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = make_parser(prog)
    args = parse_options(parser, arguments, old_words=OLD_WORDS)
    if args.score_maps and not (args.config_file and args.weights):
        parser.error("--score-maps needs --config-file and --weights")
    if not args.score_maps and args.detections is None:
        parser.error("nothing to draw: give --detections, or --score-maps with a detector")
    return args
