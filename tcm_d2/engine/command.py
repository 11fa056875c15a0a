"""What a command line for training or evaluation does; see tcm_d2/engine/options.py."""

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

from tcm_d2.config.registries import import_user_parts
from tcm_d2.config.run import Run, open_config
from tcm_d2.engine.build_experiment import build_experiment
from tcm_d2.engine.launch import launch
from tcm_d2.engine.loop import evaluate_only, train
from tcm_d2.engine.mishaps import EXIT_INTERRUPTED, EndedRun, WithoutTracebacks, explain, kept_in
from tcm_d2.engine.own_data import with_own_data
from tcm_d2.engine.run_folder import (
    prepared_folder,
    refuse_earlier_run,
    setup_run,
    write_copy,
)
from tcm_d2.inference.speed import keep_memory


def run_command(
    args: argparse.Namespace,
    *,
    hooks: Sequence[HookBase] = (),
    writers: Sequence[EventWriter] = (),
) -> None:
    """Train or evaluate; exit with one sentence where the user can mend something.

    Args:
        args: of `tcm_d2.engine.options.parse_arguments`.
        hooks, writers: see `tcm_d2.engine.loop.train`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # What is chosen for the user is said, also before the run has its own log.
    logging.getLogger("tcm_d2.data.preparation").setLevel(logging.INFO)
    run: Run | None = None
    try:
        run = _open(args)
        args.config_file = run.source  # found once, for all processes
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
        if self.run is not None:
            self._do(self.run)
            return
        try:
            self._do(_open(self.args))
        except Exception as error:
            sentence = explain(error)
            if self.args.traceback or sentence is None:
                raise
            raise EndedRun(sentence) from None

    def _do(self, run: Run) -> None:
        args = self.args
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
            if experiment.training is None:
                evaluate_only(experiment, resume=args.resume)
            else:
                if comm.is_main_process():
                    # With what the data have told: a detector reads it.
                    write_copy(run.with_patch_size(experiment.training.patch_size_px))
                train(
                    experiment,
                    resume=args.resume,
                    overwrite=args.overwrite,
                    hooks=self.hooks,
                    writers=self.writers,
                )


def _open(args: argparse.Namespace) -> Run:
    import_user_parts(args.imports)
    run = open_config(args.config_file, args.opts)
    if args.data is not None and not (args.eval_only or args.resume or args.overwrite):
        refuse_earlier_run(run.train.output_dir)  # before images are cut for nothing
    return with_own_data(run, args)
