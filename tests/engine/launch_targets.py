"""What the processes of the launcher's tests run; quick to import for a fresh interpreter."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from detectron2.utils import comm


def write_place(folder: str) -> None:
    facts = [comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()]
    gathered = comm.all_gather(facts)
    if comm.is_main_process():
        Path(folder, "place.json").write_text(json.dumps(gathered))


def fail_on_rank_one(folder: str) -> None:
    if comm.get_rank() == 1:
        raise ValueError("the reason is written here")
    comm.synchronize()


def sleep_long(folder: str) -> None:
    Path(folder, f"pid{comm.get_rank()}").write_text(str(os.getpid()))
    comm.synchronize()
    time.sleep(120)
