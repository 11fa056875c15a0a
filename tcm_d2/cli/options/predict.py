"""Detect in pictures of any size, and write what was found: pictures, GeoJSON, DOTA, COCO, JSON.

  %(prog)s --weights output/tcm_fcos --images a.png b.tif folder/ 'scenes/*.tif' --output out
  %(prog)s --weights model_final.pth --config-file configs/tcm_fcos.yaml --images big.tif \\
      --output out --window 1024 --overlap 300 --bands 4 3 2

Larger pictures are cut into overlapping windows and put together. A run that was stopped goes on
when it is started again. Exit status: 0, 1 where a file was left out or a result could not be
written, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tcm_d2.command_line import add_classes_option, add_import_option, new_parser, parse_options

# Of earlier releases.
OLD_WORDS = {"--input": "--images"}


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = new_parser(__doc__, prog)
    parser.add_argument(
        "--images", nargs="+", required=True, help="files, folders, patterns in quotes"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder, made where missing")
    model = parser.add_argument_group("detector")
    model.add_argument(
        "--weights",
        help="output folder of a training, .pth or .safetensors beside config.yaml, or a published "
        "detector of mmrotate; default: the small one in the package",
    )
    add_import_option(parser)
    model.add_argument("--config-file", help="where it does not lie beside the weights")
    model.add_argument("--device", help="cuda, cuda:1, cpu; default: CUDA where there is one")
    add_classes_option(model, "names in label order; with an open vocabulary what to find")
    model.add_argument("--score-threshold", type=float, help="default 0.3")
    model.add_argument("--tta", action="store_true", help="8 views of each window (TEST.TTA)")
    cut = parser.add_argument_group("large pictures")
    cut.add_argument("--window", type=int, help="side in px; default: as the model was trained")
    cut.add_argument("--overlap", type=int, help="px, more than the longest object; default: 1/4")
    cut.add_argument(
        "--scales",
        type=float,
        nargs="+",
        metavar="FACTOR",
        help="sizes at which a picture is looked at, as 0.5 1 2; default: as the detector says",
    )
    cut.add_argument("--batch-size", type=int, help="windows at once, default 4")
    cut.add_argument("--seam-rule", choices=("whole", "nms"), default="whole")
    read = parser.add_argument_group("reading")
    read.add_argument(
        "--bands", type=int, nargs="+", help="shown as red, green, blue, from 1: 4 3 2"
    )
    read.add_argument(
        "--value-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="shown black and white"
    )
    read.add_argument("--apply-exif", action="store_true", help="turn as EXIF's orientation says")
    read.add_argument(
        "--crs", help="coordinate system of files that have a position and name none: EPSG:32633"
    )
    write = parser.add_argument_group("results")
    write.add_argument(
        "--geopackage", action="store_true", help="also detections.gpkg, of files with a position"
    )
    write.add_argument("--wgs84", action="store_true", help="GeoJSON in longitude and latitude")
    write.add_argument("--picture-format", choices=("png", "jpg", "none"), default="png")
    write.add_argument("--picture-side", type=int, default=4096, metavar="PX")
    write.add_argument(
        "--to",
        nargs="+",
        default=[],
        metavar="FORMAT",
        help="also for labelling tools: cvat, x-anylabeling, labelme, label-studio, yolo-obb",
    )
    write.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return parse_options(make_parser(prog), arguments, old_words=OLD_WORDS)
