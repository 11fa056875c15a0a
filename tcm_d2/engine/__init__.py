"""Experiments and the one training loop."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or evaluate as a command line says: all that ``tools/train_net.py`` does.

    Args:
        arguments: None takes the process's own; see ``tools/train_net.py --help``.
    """
    # Not at the top: torch is loaded after the environment is set, and tools without training
    # import parts of this package.
    from tcm_d2.engine.command import run_command

    run_command(arguments)
