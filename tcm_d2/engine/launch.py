"""Start one process per device, or join those that torchrun or SLURM started.

On CUDA Detectron2's launcher starts them, on the CPU our own: Detectron2 0.6's
``launch`` asserts CUDA and NCCL. Its ``comm`` functions need a process group of the local
processes; 0.6 has a variable for it, today's main a function.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from tcm_d2.engine.process_ranks import Place, rendezvous_from_environment

logger = logging.getLogger(__name__)

# Evaluation runs on the main process while the others wait.
TIMEOUT = timedelta(hours=2)
CONNECTION_LOSS_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1


def launch(
    main: Callable[..., Any],
    num_gpus: int,
    *,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple[Any, ...] = (),
    use_cuda: bool | None = None,
) -> None:
    """Run ``main(*args)`` in this process, or in several that train together.

    Under torchrun or srun with several tasks (their environment variables are set) this process is
    one of them already, and ``num_gpus`` and the rest are not used. Otherwise ``num_gpus``
    processes are started here if there is more than one in all; they die with this one, and the
    first error of a child is raised here with its traceback.

    Args:
        main: must be importable by a fresh interpreter.
        num_gpus: processes on this machine; on the CPU, processes that share its cores. 0 is 1.
        num_machines: machines that take part, each calling this.
        machine_rank: of this machine, 0 <= rank < num_machines.
        dist_url: "tcp://host:port" of the first machine; "auto" for a free port of this one.
        args: for ``main``.
        use_cuda: None uses CUDA where there is a device.

    Raises:
        ValueError: for a bad number of processes or machines, "auto" with several machines, or
            environment variables that make no sense.
    """
    if use_cuda is None:
        use_cuda = torch.cuda.is_available()
    rendezvous = rendezvous_from_environment(os.environ)
    if rendezvous is not None:
        _run_in_place(rendezvous.place, rendezvous.dist_url, use_cuda, main, args)
        return
    local_size = max(num_gpus, 1)
    _check(local_size, num_machines, machine_rank, dist_url, use_cuda)
    world_size = local_size * num_machines
    if world_size == 1:
        main(*args)
        return
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if use_cuda:
        # Not at the top: child processes import this file first, and this import is long.
        from detectron2.engine import launch as launch_on_cuda

        launch_on_cuda(
            _run_bound_to_parent,
            local_size,
            num_machines=num_machines,
            machine_rank=machine_rank,
            dist_url=dist_url,
            args=(os.getpid(), main, args),
            timeout=TIMEOUT,
        )
        return
    mp.spawn(  # type: ignore[attr-defined,no-untyped-call]
        _cpu_worker,
        args=(os.getpid(), local_size, world_size, machine_rank, dist_url, main, args),
        nprocs=local_size,
        join=True,
    )


def _check(
    local_size: int, num_machines: int, machine_rank: int, dist_url: str, use_cuda: bool
) -> None:
    if not 0 <= machine_rank < num_machines:
        raise ValueError(
            f"--machine-rank: expected 0 .. {num_machines - 1} (--num-machines - 1), got "
            f"{machine_rank}"
        )
    if dist_url == "auto" and num_machines > 1:
        raise ValueError(
            "--dist-url: expected tcp://HOST:PORT of the first machine with several machines, got "
            "'auto'"
        )
    if use_cuda and local_size > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus: expected at most {torch.cuda.device_count()} (CUDA devices here), got "
            f"{local_size}"
        )


def _run_in_place(
    place: Place,
    dist_url: str,
    use_cuda: bool,
    main: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """Join the process group, run ``main(*args)`` and leave the group."""
    if place.world_size == 1:
        main(*args)
        return
    if use_cuda:
        torch.cuda.set_device(_device_index(place))
    elif "OMP_NUM_THREADS" not in os.environ:
        # The processes share the cores; more threads than cores make all of them slow.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.local_size))
    dist.init_process_group(
        backend="nccl" if use_cuda else "gloo",
        init_method=dist_url,
        rank=place.rank,
        world_size=place.world_size,
        timeout=TIMEOUT,
    )
    try:
        _create_local_group(place.local_size)
        comm.synchronize()
        main(*args)
        comm.synchronize()
    finally:
        _forget_local_group()
        dist.destroy_process_group()


def _device_index(place: Place) -> int:
    """Return the CUDA device of a process; SLURM may show each process its own one only."""
    num_devices = torch.cuda.device_count()
    if num_devices > 1 and place.local_rank >= num_devices:
        raise ValueError(
            f"processes on this machine: expected at most {num_devices} (CUDA devices here), got "
            f"{place.local_size}"
        )
    return place.local_rank if num_devices > 1 else 0


def _cpu_worker(
    local_rank: int,
    parent_pid: int,
    local_size: int,
    world_size: int,
    machine_rank: int,
    dist_url: str,
    main: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    _die_with_parent(parent_pid)
    place = Place(machine_rank * local_size + local_rank, local_rank, world_size, local_size)
    try:
        _run_in_place(place, dist_url, False, main, args)
    except RuntimeError as error:
        if "onnection" in str(error):
            # Another process has failed and hung up; the parent shows the error of whoever ends
            # first, which should be the reason.
            time.sleep(CONNECTION_LOSS_GRACE_S)
        raise


def _run_bound_to_parent(parent_pid: int, main: Callable[..., Any], args: tuple[Any, ...]) -> None:
    _die_with_parent(parent_pid)
    main(*args)


def _create_local_group(local_size: int) -> None:
    """Fill Detectron2's group of the processes on this machine, in 0.6 and in main."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, comm.get_world_size(), local_size):
        group = dist.new_group(list(range(first, first + local_size)))
        if first <= comm.get_rank() < first + local_size:
            comm._LOCAL_PROCESS_GROUP = group


def _forget_local_group() -> None:
    comm._LOCAL_PROCESS_GROUP = None
    create = getattr(comm, "create_local_process_group", None)
    if create is not None:
        create.cache_clear()
    comm._get_global_gloo_group.cache_clear()


def _die_with_parent(parent_pid: int) -> None:
    """Ask Linux to end this process when its parent ends, by whatever signal."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The parent may have died before the call.
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGTERM)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
