#!/usr/bin/env python3
"""Train or evaluate a detector.

  tools/train_net.py --config-file configs/tcm_fcos.yaml MODEL.CLIP.WEIGHTS RN50.pt
  tools/train_net.py --config-file configs/tcm_fcos.yaml --num-gpus 2 SOLVER.IMS_PER_BATCH 8
  tools/train_net.py --config-file configs/tcm_fcos.yaml --resume
  tools/train_net.py --config-file configs/tcm_fcos.yaml --eval-only MODEL.WEIGHTS model_final.pth
  tools/train_net.py --config-file configs/lazy/tcm_fcos.py optimizer.lr=2e-4

Own patches: DATASETS.PATCH_DIRS "['mine=patch_dir=label_dir']" DATASETS.TRAIN "('mine',)"
       lazy: "dataloader.patch_dirs=['mine=patch_dir=label_dir']" "dataloader.train.names=[mine]"
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys

# Read by OpenMP when torch is loaded: idle threads sleep. Spinning ones make CPU training ten times
# slower as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from tcm_d2.engine.assembly import assemble_experiment
from tcm_d2.engine.launch import launch
from tcm_d2.engine.loop import evaluate_only, train
from tcm_d2.engine.open_config import open_plan
from tcm_d2.engine.run_folder import setup_run
from tcm_d2.inference.speed import keep_memory


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line; options come before the KEY VALUE pairs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help=".yaml or .py, see configs/")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR"
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
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Train or evaluate in this process, one of those started."""
    plan = open_plan(args.config_file, args.opts)
    keep_memory(plan.device)
    setup_run(plan, shlex.join(sys.argv))
    experiment = assemble_experiment(plan, for_training=not args.eval_only, resume=args.resume)
    if args.eval_only:
        evaluate_only(experiment, resume=args.resume)
    else:
        train(experiment, resume=args.resume)


def main() -> None:
    args = parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        plan = open_plan(args.config_file, args.opts)
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
            use_cuda=torch.device(plan.device).type == "cuda",
        )
    except (ValueError, FileNotFoundError) as error:
        if args.traceback:
            raise
        sys.exit(f"error: {error} (--traceback shows where)")


if __name__ == "__main__":
    main()
