"""Train or evaluate a detector.

  tools/train_net.py --config-file configs/tcm_fcos.yaml MODEL.CLIP.WEIGHTS RN50.pt
  tools/train_net.py --config-file configs/tcm_fcos.yaml --num-gpus 2 SOLVER.IMS_PER_BATCH 8
  tools/train_net.py --config-file configs/tcm_fcos.yaml --resume
  tools/train_net.py --config-file configs/tcm_fcos.yaml --eval-only MODEL.WEIGHTS model_final.pth
  tools/train_net.py --config-file configs/tcm_fcos.yaml --eval-only MODEL.WEIGHTS best
  tools/train_net.py --config-file configs/lazy/tcm_fcos.py optimizer.lr=2e-4
  tools/train_net.py --import my_head.py --config-file my_head.yaml

Own patches: DATASETS.PATCH_DIRS "['mine=patch_dir=label_dir']" DATASETS.TRAIN "('mine',)"
     Python: "dataloader.patch_dirs=['mine=patch_dir=label_dir']" "dataloader.train.names=[mine]"
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from tcm_d2.config.registries import add_import_option, import_user_parts
from tcm_d2.config.run import Run, open_config
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.launch import launch
from tcm_d2.engine.loop import evaluate_only, train
from tcm_d2.engine.mishaps import EXIT_INTERRUPTED, WithoutTracebacks, explain, kept_in
from tcm_d2.engine.run_folder import prepared_folder, refuse_earlier_run, setup_run
from tcm_d2.inference.speed import keep_memory


def run_command(
    arguments: Sequence[str] | None = None,
    *,
    hooks: Sequence[HookBase] = (),
    writers: Sequence[EventWriter] = (),
) -> None:
    """Train or evaluate; exit with one sentence where the user can mend something.

    Args:
        arguments: None takes the process's own.
        hooks, writers: see `tcm_d2.engine.loop.train`.
    """
    args = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    run: Run | None = None
    try:
        run = _open(args)
        launch(
            _Job(args, run, hooks, writers),
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            use_cuda=run.device.type == "cuda",
        )
    except KeyboardInterrupt:
        if args.traceback:
            raise
        sys.stderr.write(f"stopped by Ctrl-C.{_kept(run, args)}\n")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        sentence = explain(error)
        if args.traceback or sentence is None:
            raise
        # What is wrong with the configuration or the data says nothing about checkpoints.
        kept = "" if isinstance(error, (ValueError, FileNotFoundError)) else _kept(run, args)
        sys.exit(f"error: {sentence}{kept and '.'}{kept} (--traceback shows where)")


def _kept(run: Run | None, args: argparse.Namespace) -> str:
    return "" if run is None or args.eval_only else f" {kept_in(run.train.output_dir)}"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line; options come before the overrides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help=".yaml or .py, see configs/")
    add_import_option(parser)
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
    return parser.parse_args(arguments)


class _Job:
    """What each process does. One that is started reads the configuration, and the files that
    register its parts, for itself: parts cannot be sent to it.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        run: Run,
        hooks: Sequence[HookBase],
        writers: Sequence[EventWriter],
    ) -> None:
        self.args, self.hooks, self.writers = args, hooks, writers
        self.command_line = shlex.join(sys.argv)
        self.run: Run | None = run

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "run": None}

    def __call__(self) -> None:
        run, args = self.run or _open(self.args), self.args
        keep_memory(run.device)
        if not args.traceback:
            logging.getLogger("detectron2.engine.train_loop").addFilter(WithoutTracebacks())
        with prepared_folder(run.train.output_dir, for_training=not args.eval_only):
            for_training = not args.eval_only
            # Before the model is built; the files go when everything has proved to fit.
            if for_training and not (args.resume or args.overwrite) and comm.is_main_process():
                refuse_earlier_run(run.train.output_dir)
            setup_run(run, self.command_line, for_training=for_training)
            experiment = build_experiment(run, for_training=for_training, resume=args.resume)
            if args.eval_only:
                evaluate_only(experiment, resume=args.resume)
            else:
                train(
                    experiment,
                    resume=args.resume,
                    overwrite=args.overwrite,
                    hooks=self.hooks,
                    writers=self.writers,
                )


def _open(args: argparse.Namespace) -> Run:
    import_user_parts(args.imports)
    return open_config(args.config_file, args.opts)
