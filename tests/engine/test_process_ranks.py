"""What the variables of torchrun and SLURM say about a process."""

from __future__ import annotations

import pytest

from tcm_d2.engine.process_ranks import Place, Rendezvous, first_host, rendezvous_from_environment

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "a",
}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODELIST": "node[01-03,07]",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
}
PLACE = Place(rank=5, local_rank=1, world_size=8, local_size=4)


def test_neither() -> None:
    assert rendezvous_from_environment({"RANK": "0", "SLURM_JOB_ID": "1"}) is None


def test_torchrun_comes_first() -> None:
    wanted = Rendezvous(PLACE, "env://")
    assert rendezvous_from_environment(TORCHRUN) == wanted
    assert rendezvous_from_environment({**SLURM, "SLURM_PROCID": "0", **TORCHRUN}) == wanted


def test_slurm() -> None:
    assert rendezvous_from_environment(SLURM) == Rendezvous(PLACE, "tcp://node01:23456")


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"MASTER_ADDR": "10.0.0.1"}, "tcp://10.0.0.1:23456"),
        ({"MASTER_PORT": "5555"}, "tcp://node01:5555"),
        ({"SLURM_STEP_NODELIST": "node07,node09"}, "tcp://node07:23456"),
    ],
)
def test_where_slurm_tasks_meet(changes: dict[str, str], wanted: str) -> None:
    assert rendezvous_from_environment({**SLURM, **changes}) == Rendezvous(PLACE, wanted)


@pytest.mark.parametrize(
    "sizes",
    [
        {"SLURM_TASKS_PER_NODE": "4,4"},
        {"SLURM_TASKS_PER_NODE": "", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
        {"SLURM_NTASKS": "32", "SLURM_TASKS_PER_NODE": "8(x4)", "SLURM_STEP_NUM_TASKS": "8"}
        | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
    ],
)
def test_tasks_per_machine(sizes: dict[str, str]) -> None:
    rendezvous = rendezvous_from_environment({**SLURM, **sizes})
    assert rendezvous is not None and rendezvous.place == PLACE


def test_tasks_per_machine_as_asked_for() -> None:
    environment = {k: v for k, v in SLURM.items() if k != "SLURM_TASKS_PER_NODE"}
    rendezvous = rendezvous_from_environment({**environment, "SLURM_NTASKS_PER_NODE": "4"})
    assert rendezvous is not None and rendezvous.place == PLACE


def test_one_task_starts_its_processes_itself() -> None:
    alone = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    assert rendezvous_from_environment({**SLURM, **alone}) is None
    # A step of one task in a job of several.
    alone = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}
    assert rendezvous_from_environment({**SLURM, **alone}) is None


def test_job_script_without_srun_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    rendezvous_from_environment(SLURM)
    assert not caplog.records
    rendezvous_from_environment({k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"})
    assert "8 processes have to start, usually by srun" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_TASKS_PER_NODE": "4,3(x2)"}, r"same number of tasks on each.*got '4,3\(x2\)'"),
        ({"SLURM_TASKS_PER_NODE": "3"}, r"TASKS_PER_NODE: expected.*8 in all, got '3'"),
        ({"SLURM_TASKS_PER_NODE": "x"}, "got 'x'"),
        ({"SLURM_LOCALID": "2"}, "SLURM_LOCALID 2: expected tasks to be numbered machine by"),
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID: expected an integer, got 'x'"),
        ({"SLURM_NODELIST": "node[x-3]"}, r"SLURM_NODELIST: expected host names.*'node\[x-3\]'"),
    ],
)
def test_slurm_variables_that_make_no_sense(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rendezvous_from_environment({**SLURM, **changes})


def test_slurm_variables_that_are_missing() -> None:
    environment = {k: v for k, v in SLURM.items() if k != "SLURM_JOB_ID"}
    with pytest.raises(ValueError, match="MASTER_PORT: neither it nor SLURM_JOB_ID is set"):
        rendezvous_from_environment(environment)
    environment = {k: v for k, v in SLURM.items() if k != "SLURM_NODELIST"}
    with pytest.raises(ValueError, match="MASTER_ADDR to the name of the first of 2 machines"):
        rendezvous_from_environment(environment)


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("big1", "big1"),
        ("a,b[1-2]", "a"),
        ("node[01-03,07]", "node01"),
        ("node[7,9-12],other", "node7"),
        ("node[005]", "node005"),
        ("rack[1-2]node[08-10]-ib", "rack1node08-ib"),
    ],
)
def test_first_host_of_a_list(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


@pytest.mark.parametrize("nodelist", ["", ",a", "node[1-2", "node[]", "node]"])
def test_lists_without_a_first_host(nodelist: str) -> None:
    with pytest.raises(ValueError, match="SLURM_NODELIST: expected host names"):
        first_host(nodelist)
