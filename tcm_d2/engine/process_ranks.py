"""Where a process stands among all: read from the variables of torchrun or SLURM."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

logger = logging.getLogger(__name__)

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
_SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
# MASTER_PORT of a SLURM job without one: below the ports that Linux gives to clients (32768 ..).
_FIRST_PORT, _NUM_PORTS = 20000, 10000


class Place(NamedTuple):
    """Where a process stands among all.

    Attributes:
        rank: among all processes, machine by machine.
        local_rank: among those of its machine.
        world_size: number of processes.
        local_size: number of processes on each machine.
    """

    rank: int
    local_rank: int
    world_size: int
    local_size: int


class Rendezvous(NamedTuple):
    """A process's place and where all meet.

    Attributes:
        place: of this process.
        dist_url: "env://" or "tcp://host:port".
    """

    place: Place
    dist_url: str


def rendezvous_from_environment(environment: Mapping[str, str]) -> Rendezvous | None:
    """Return what torchrun or else ``srun`` says of this process; None if it runs under neither.

    One SLURM task alone is None as well: it starts its processes itself.

    Args:
        environment: usually ``os.environ``.

    Raises:
        ValueError: a variable is missing or makes no sense.
    """
    if all(name in environment for name in _TORCHRUN_VARIABLES):
        return Rendezvous(Place(*_torchrun_place(environment)), "env://")
    if all(name in environment for name in _SLURM_VARIABLES):
        return _slurm_rendezvous(environment)
    return None


def first_host(nodelist: str) -> str:
    """Return the first host of SLURM's compact list: "gpu[03-05,7],big1" -> "gpu03".

    Raises:
        ValueError: for brackets that do not close or hold no number.
    """
    end = _end_of_first_entry(nodelist)
    # Each bracket stands for a choice; the first host takes the first of each.
    host = re.sub(r"\[(\d+)(?:[-,][\d,-]*)?\]", r"\1", nodelist[:end].strip())
    if not host or "[" in host or "]" in host:
        raise ValueError(
            "SLURM_NODELIST: expected host names like 'node[01-03,07]', got "
            f"{nodelist!r}; or set MASTER_ADDR to the first machine"
        )
    return host


def _end_of_first_entry(nodelist: str) -> int:
    """Return where the first comma outside of brackets stands, or the length."""
    depth = 0
    for position, character in enumerate(nodelist):
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            return position
    return len(nodelist)


def _torchrun_place(environment: Mapping[str, str]) -> Place:
    rank, world_size, local_rank, local_size = (
        _integer(environment, name) for name in _TORCHRUN_VARIABLES[:4]
    )
    return Place(rank, local_rank, world_size, local_size)


def _slurm_rendezvous(environment: Mapping[str, str]) -> Rendezvous | None:
    # A step may have fewer tasks than the job it runs in.
    world_size = _integer(environment, _one_of(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"))
    if world_size == 1:
        return None
    rank = _integer(environment, "SLURM_PROCID")
    local_rank = _integer(environment, "SLURM_LOCALID")
    local_size = _slurm_local_size(environment, world_size)
    if rank % local_size != local_rank:
        raise ValueError(
            f"SLURM_PROCID {rank} and SLURM_LOCALID {local_rank}: expected tasks to be numbered "
            f"machine by machine, {local_size} on each; use srun --distribution=block and the same "
            "number of tasks on each machine"
        )
    dist_url = f"tcp://{_slurm_host(environment, world_size // local_size)}:{_port(environment)}"
    if "SLURM_STEP_ID" not in environment:
        logger.warning(
            "SLURM_NTASKS is %d, so %d processes have to start, usually by srun; set SLURM_NTASKS "
            "to 1 where this one is alone",
            world_size,
            world_size,
        )
    return Rendezvous(Place(rank, local_rank, world_size, local_size), dist_url)


def _slurm_local_size(environment: Mapping[str, str], world_size: int) -> int:
    """Return the tasks per machine, which has to be the same on all of them."""
    name = _one_of(
        environment, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"
    )
    # "4(x2),3" is 4 tasks on each of two machines and 3 on one.
    groups = [
        re.fullmatch(r"(\d+)(?:\(x\d+\))?", part) for part in environment.get(name, "").split(",")
    ]
    sizes = {int(group[1]) if group else 0 for group in groups}
    local_size = sizes.pop()
    if sizes or local_size < 1 or world_size % local_size:
        raise ValueError(
            f"{name}: expected the same number of tasks on each machine, like '4(x2)', {world_size}"
            f" in all, got {environment.get(name)!r}; start with srun --ntasks-per-node"
        )
    return local_size


def _slurm_host(environment: Mapping[str, str], num_machines: int) -> str:
    if "MASTER_ADDR" in environment:
        return environment["MASTER_ADDR"]
    name = _one_of(environment, "SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST")
    if name in environment:
        return first_host(environment[name])
    if num_machines > 1:
        raise ValueError(
            f"{name}: not set; set MASTER_ADDR to the name of the first of {num_machines} machines"
        )
    return "127.0.0.1"


def _port(environment: Mapping[str, str]) -> int:
    if "MASTER_PORT" in environment:
        return _integer(environment, "MASTER_PORT")
    if "SLURM_JOB_ID" in environment:
        return _FIRST_PORT + _integer(environment, "SLURM_JOB_ID") % _NUM_PORTS
    raise ValueError("MASTER_PORT: neither it nor SLURM_JOB_ID is set; set it to a free port")


def _one_of(environment: Mapping[str, str], *names: str) -> str:
    """Return the first name that is set, or the last one."""
    return next((name for name in names if name in environment), names[-1])


def _integer(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise ValueError(
            f"environment variable {name}: expected an integer, got {environment[name]!r}"
        ) from None
