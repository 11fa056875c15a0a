"""Say in one sentence what ended a run, what is kept, and what to do."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from torch.multiprocessing.spawn import ProcessRaisedException

from tcm_d2.checkpoint.load import LAST_CHECKPOINT
from tcm_d2.engine.non_finite import NonFiniteLossError

# What a shell shows for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130
_LOADER_DEATH = re.compile(r"DataLoader worker \(pid.*\) .*(killed|exited|died)", re.DOTALL)


class EndedRun(Exception):
    """What `explain` says of an error in a process of several, for the one that started it."""


# The end of the traceback that a process sends.
_FROM_PROCESS = re.compile(rf"\n{re.escape(EndedRun.__module__)}\.EndedRun: (.+)", re.DOTALL)


def explain(error: BaseException) -> str | None:
    """Return what a user can do something about as a sentence; None for a bug."""
    if isinstance(error, (ValueError, NonFiniteLossError)):
        return str(error)
    if isinstance(error, ProcessRaisedException):
        sent = _FROM_PROCESS.search(str(error))
        return sent and sent[1].strip()
    # A loader that is killed shows in either way, depending on when it was.
    if isinstance(error, (ConnectionError, EOFError)) or (
        isinstance(error, RuntimeError) and _LOADER_DEATH.search(str(error))
    ):
        return (
            "a data-loading process was killed, most often because memory ran out; lower "
            "DATALOADER.NUM_WORKERS or the batch, or give the machine more shared memory"
        )
    if isinstance(error, OSError):
        return str(error) if error.errno is None or error.filename else f"the system says: {error}"
    return None


def kept_in(output_dir: str) -> str:
    """Return what of a run is left, as a sentence."""
    if (Path(output_dir) / LAST_CHECKPOINT).is_file():
        return f"The checkpoints in '{output_dir}' are kept; --resume goes on from the last one"
    return f"No checkpoint had been written in '{output_dir}'"


class WithoutTracebacks(logging.Filter):
    """Takes the traceback off the log record of an error that `explain` has a sentence for."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always kept."""
        error = record.exc_info[1] if record.exc_info else None
        sentence = None if error is None else explain(error)
        if sentence is not None:
            record.msg, record.args, record.exc_info = "training ended: %s", (sentence,), None
        return True
