"""The command tcm-d2: finds a command by its name, reads its options, and only then loads torch."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from tcm_d2 import __version__
from tcm_d2.data.dota.classes import expand_class_names
from tcm_d2.files import FolderInUseError, locked_output
from tcm_d2.messages import near_match_hint


class Command(NamedTuple):
    """A command: one line on it, the stem of its modules, and options it always has.

    Attributes:
        summary: for the list of commands.
        module: of ``tcm_d2.cli.options`` (``make_parser``, ``parse_arguments``: the standard
            library only) and of ``tcm_d2.cli`` (``run(args)``, which returns the exit status).
        preset: options in front of those that are given.
        fills_folder: ``--output`` names a folder that no other command may write into meanwhile. A
            training locks its folder itself, once the configuration has named it.
    """

    summary: str
    module: str
    preset: tuple[str, ...] = ()
    fills_folder: bool = False


COMMANDS = {
    "train": Command("train a detector", "train"),
    "eval": Command("evaluate a detector on a data set", "train", ("--eval-only",)),
    "predict": Command("detect in pictures of any size", "predict", fills_folder=True),
    "serve": Command("open a page to try a detector on", "serve"),
    "split": Command("cut images and labels into patches", "split", fills_folder=True),
    "validate": Command("check a data set before training on it", "validate", fills_folder=True),
    "convert": Command("say what a weight file is, write it in our names", "convert"),
    "convert-annotations": Command(
        "convert between formats of labels", "convert_annotations", fills_folder=True
    ),
    "evaluate": Command("score result files of any detector", "evaluate", fills_folder=True),
    "merge": Command("merge detections of patches, write a submission", "merge", fills_folder=True),
    "lint": Command("say what the DOTA server would reject", "lint"),
    "report": Command("write an evaluation as one HTML page", "report"),
    "export": Command("write a detector as ONNX or torch.export file", "export"),
    "draw": Command(
        "draw detections, beside the labels, and score maps", "draw", fills_folder=True
    ),
    "draw-data": Command(
        "draw a data set as it is, or as training sees it", "draw_data", fills_folder=True
    ),
    "plot-metrics": Command("draw the curves of training runs", "plot_metrics"),
    "analyze": Command("count parameters and multiply-adds", "analyze"),
    "make-synthetic": Command(
        "render a data set to try things on", "make_synthetic", fills_folder=True
    ),
    "demo": Command("render, train, evaluate and draw, in ten minutes", "demo"),
    "zoo": Command("list the configurations, or copy them", "zoo"),
    "env": Command("print versions and devices, for bug reports", "env"),
    "install-detectron2": Command("install Detectron2 where it is missing", "install_detectron2"),
    "completion": Command("print the completion of commands for a shell", "completion"),
}
NO_DETECTRON2 = (
    "error: Detectron2 is not installed, and pip cannot find it by its name; this installs it: "
    "tcm-d2 install-detectron2"
)


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Run the command line and return its exit status.

    Args:
        arguments: None takes those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return 0 if given else 2
    if name == "--version":
        print(f"tcm_d2 {__version__}")
        return 0
    if name not in COMMANDS:
        hint = near_match_hint(name, list(COMMANDS))
        print(f"error: no command {name!r}{hint}; tcm-d2 --help lists all", file=sys.stderr)
        return 2
    return run_command(name, given[1:])


def run_command(
    name: str, arguments: Sequence[str] | None = None, *, prog: str | None = None
) -> int | None:
    """Run one command and return its exit status; exits where its options are wrong.

    Args:
        name: of `COMMANDS`.
        arguments: None takes those of the process.
        prog: how it was called, for its help; None takes ``tcm-d2 <name>``.
    """
    command = COMMANDS[name]
    given = [*command.preset, *(sys.argv[1:] if arguments is None else arguments)]
    options = importlib.import_module(f"tcm_d2.cli.options.{command.module}")
    args = options.parse_arguments(given, prog or f"tcm-d2 {name}")
    if getattr(args, "classes", None):
        try:
            args.classes = expand_class_names(args.classes)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    # Read by OpenMP when torch is loaded: idle threads sleep. Spinning ones make everything ten
    # times slower as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Libraries that Detectron2 imports say so; nobody at the command line can change it.
    warnings.filterwarnings("ignore", r".*torch\.jit\.\w+` is deprecated", FutureWarning)
    try:
        with _lock(args, command):
            status: int | None = importlib.import_module(f"tcm_d2.cli.{command.module}").run(args)
        return status
    except FolderInUseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "detectron2":
            raise
        print(NO_DETECTRON2, file=sys.stderr)
        return 2


def _lock(args: argparse.Namespace, command: Command) -> AbstractContextManager[None]:
    """Return what keeps other writers out of the output folder, where there is one."""
    output = getattr(args, "output", None)
    if not command.fills_folder or output is None or getattr(args, "dry_run", False):
        return nullcontext()
    if output.exists() and not (output.is_dir() and os.access(output, os.W_OK)):
        return nullcontext()  # the command says it in its own words
    return locked_output(output, what="--output")


def overview() -> str:
    """Return the help of the whole."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {item.summary}" for name, item in COMMANDS.items())
    return (
        "usage: tcm-d2 COMMAND [options]    tcm-d2 COMMAND --help    tcm-d2 --version\n\n"
        f"Rotated object detection for aerial images.\n\ncommands:\n{rows}"
    )
