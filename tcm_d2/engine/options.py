"""Train or evaluate a detector.

  %(prog)s --config-file configs/tcm_fcos.yaml MODEL.CLIP.WEIGHTS RN50.pt
  %(prog)s --config-file configs/tcm_fcos.yaml --num-gpus 2 SOLVER.IMS_PER_BATCH 8
  %(prog)s --config-file configs/tcm_fcos.yaml --resume
  %(prog)s --config-file configs/tcm_fcos.yaml --eval-only MODEL.WEIGHTS model_final.pth
  %(prog)s --config-file configs/tcm_fcos.yaml --eval-only MODEL.WEIGHTS best
  %(prog)s --config-file configs/lazy/tcm_fcos.py optimizer.lr=2e-4
  %(prog)s --import my_head.py --config-file my_head.yaml

  %(prog)s --config-file configs/tcm_fcos.yaml --data data.yaml OUTPUT_DIR output/ships

Own patches: DATASETS.PATCH_DIRS "['mine=patch_dir=label_dir']" DATASETS.TRAIN "('mine',)"
     Python: "dataloader.patch_dirs=['mine=patch_dir=label_dir']" "dataloader.train.names=[mine]"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tcm_d2.command_line import add_classes_option, add_import_option, new_parser


def make_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; options come before the overrides."""
    parser = new_parser(__doc__, prog)
    parser.add_argument("--config-file", required=True, help=".yaml or .py, see configs/")
    add_import_option(parser)
    data = parser.add_argument_group("data of your own (docs/own_data.md)")
    data.add_argument(
        "--data",
        metavar="PATH",
        help="a data.yaml of YOLO's, a COCO file, or a folder with train/images and "
        "train/labelTxt: classes, prompts, splits and patches follow from it",
    )
    add_classes_option(data, "names in label order, where --data has none")
    data.add_argument(
        "--keep-classes", nargs="+", metavar="NAME", help="only objects of these classes"
    )
    data.add_argument(
        "--patch-size", type=int, metavar="PX", help="side of the patches; default: by the images"
    )
    data.add_argument(
        "--data-cache", metavar="DIR", help="for labels and patches; default: OUTPUT_DIR/data"
    )
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="evaluate MODEL.WEIGHTS: a file, or last or best of OUTPUT_DIR",
    )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR"
    )
    earlier.add_argument(
        "--overwrite",
        action="store_true",
        help="remove the checkpoints and metrics of a run in OUTPUT_DIR before the first step",
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes on this machine; works on CPUs too"
    )
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", help="tcp://HOST:PORT of the first of several machines"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the code an error comes from"
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="OVERRIDE",
        help="KEY VALUE pairs for a .yaml file, key=value for a .py file",
    )
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    """Return the parsed command line."""
    return make_parser(prog).parse_args(arguments)
