"""Experiments and the one training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.engine import HookBase
    from detectron2.utils.events import EventWriter


def main(
    arguments: Sequence[str] | None = None,
    *,
    hooks: Sequence[HookBase] = (),
    writers: Sequence[EventWriter] = (),
) -> None:
    """Train or evaluate as a command line says: all that ``tcm-d2 train`` does.

    Args:
        arguments: None takes the process's own; see ``tcm-d2 train --help``.
        hooks, writers: Detectron2's, beside our own; see `tcm_d2.engine.loop.train`. With
            ``--num-gpus`` above 1 they are sent to the processes and have to be picklable.
    """
    # Not at the top: torch is loaded after the environment is set, and tools without training
    # import parts of this package.
    from tcm_d2.engine.command import run_command
    from tcm_d2.engine.options import parse_arguments

    run_command(parse_arguments(arguments), hooks=hooks, writers=writers)
