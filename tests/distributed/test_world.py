from __future__ import annotations

import pytest

from launcher.distributed.world import World, find_few_cpus, read_world
from launcher.errors import UserError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
}
SIXTH = World(rank=5, size=8, local_rank=1, local_size=4, node=1, num_nodes=2)


def test_no_launcher_is_one_process() -> None:
    assert read_world({"PATH": "/bin", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}) == World()
    assert World().is_first


def test_torchruns_variables_are_read() -> None:
    assert read_world(TORCHRUN) == SIXTH
    assert not SIXTH.is_first


def test_sruns_variables_are_read() -> None:
    assert read_world(SRUN) == SIXTH


def test_torchrun_inside_srun_takes_precedence() -> None:
    assert read_world({**TORCHRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == SIXTH


def test_missing_variables_mean_a_single_node() -> None:
    world = read_world({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
    assert world == World(rank=1, size=2, local_rank=1, local_size=2)


@pytest.mark.parametrize(
    ("tasks", "node", "local_size"),
    [("4", 0, 4), ("4(x2)", 1, 4), ("2(x2),1", 0, 2), ("2(x2),1", 1, 2), ("2(x2),1", 2, 1), ("1,3", 1, 3)],
)
def test_sruns_list_gives_the_tasks_of_each_node(tasks: str, node: int, local_size: int) -> None:
    variables = {
        "SLURM_PROCID": "4",
        "SLURM_STEP_NUM_TASKS": "5",
        "SLURM_NODEID": str(node),
        "SLURM_STEP_TASKS_PER_NODE": tasks,
    }
    assert read_world(variables).local_size == local_size


def test_a_list_of_very_many_nodes_takes_no_memory() -> None:
    variables = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "9", "SLURM_STEP_TASKS_PER_NODE": f"4(x{10**12})"}
    assert read_world(variables).local_size == 4


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("RANK", "first"),
        ("RANK", "-1"),
        ("WORLD_SIZE", ""),
        ("LOCAL_RANK", "1.0"),
        ("LOCAL_WORLD_SIZE", "four(x2)"),
        ("GROUP_RANK", "\u00b2"),
    ],
)
def test_a_variable_that_is_no_whole_number_is_named(variable: str, text: str) -> None:
    with pytest.raises(UserError, match=rf"^environment variable {variable}: '.*' is not a whole number; start with"):
        read_world({**TORCHRUN, variable: text})


@pytest.mark.parametrize(
    ("variable", "text"),
    [("RANK", "8"), ("WORLD_SIZE", "5"), ("WORLD_SIZE", "0"), ("LOCAL_RANK", "4"), ("LOCAL_WORLD_SIZE", "9")],
)
def test_contradicting_numbers_are_all_shown(variable: str, text: str) -> None:
    with pytest.raises(UserError) as raised:
        read_world({**TORCHRUN, variable: text})
    message = str(raised.value)
    assert f"{variable}={text} " in message
    assert "contradict each other; start with accelerate launch, torchrun or srun" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("workers", "variables", "cpus"),
    [
        (4, {"SLURM_CPUS_PER_TASK": "16", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, None),
        (4, {"SLURM_CPUS_PER_TASK": "15", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, 15),
        (4, {"SLURM_CPUS_PER_TASK": "4", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, None),
        (5, {"SLURM_CPUS_PER_TASK": "4", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 16),
        (None, {"SLURM_CPUS_PER_TASK": "1"}, None),
        (9, {}, None),
    ],
)
def test_threads_are_compared_with_the_cpus_of_the_job(
    workers: int | None, variables: dict[str, str], cpus: int | None
) -> None:
    found = find_few_cpus(workers, 8, SIXTH, variables)
    expected = (
        f"data.workers is {workers} on each of 4 ranks of a node, but SLURM gives the node {cpus} CPUs: "
        f"ask sbatch for --cpus-per-task={4 * (workers or 0)}"
    )
    assert found == ((expected,) if cpus is not None else ())


def test_one_cpu_for_each_rank_of_a_job_is_noted() -> None:
    [note] = find_few_cpus(None, 1, SIXTH, {"SLURM_JOB_ID": "7"})
    assert note == "each process reads and decodes images with one thread: ask sbatch for --cpus-per-task=8"
    assert find_few_cpus(None, 2, SIXTH, {"SLURM_JOB_ID": "7"}) == ()
    assert find_few_cpus(None, 1, SIXTH, {}) == ()
