"""Rank, world size and node of this process, from the environment variables of launchers. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import UserError

TORCHRUN = {
    "rank": "RANK",
    "size": "WORLD_SIZE",
    "local_rank": "LOCAL_RANK",
    "local_size": "LOCAL_WORLD_SIZE",
    "node": "GROUP_RANK",
    "num_nodes": "GROUP_WORLD_SIZE",
}
SRUN = {
    "rank": "SLURM_PROCID",
    "size": "SLURM_STEP_NUM_TASKS",
    "local_rank": "SLURM_LOCALID",
    "local_size": "SLURM_STEP_TASKS_PER_NODE",
    "node": "SLURM_NODEID",
    "num_nodes": "SLURM_STEP_NUM_NODES",
}


@dataclass(frozen=True, slots=True)
class World:
    """Rank `rank` of `size`; `local_rank` of `local_size` on this node; node `node` of `num_nodes`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    num_nodes: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that writes to the console and to W&B."""
        return self.rank == 0


def read_world(environment: Mapping[str, str]) -> World:
    """Read torchrun's variables (which `accelerate launch` sets, too), else those of an `srun` step, else World().

    A missing variable keeps the default of a single node: `local_size` is then `size`.
    Raise UserError when a variable is not a whole number or the numbers contradict each other.
    """
    table = next((t for t in (TORCHRUN, SRUN) if t["rank"] in environment and t["size"] in environment), None)
    if table is None:
        return World()
    found = {name: (variable, environment[variable]) for name, variable in table.items() if variable in environment}
    tasks = found.pop("local_size", None)
    values = {name: _whole_number(*each) for name, each in found.items()}
    local_size = values["size"] if tasks is None else _tasks_on_node(*tasks, values.get("node", 0))
    world = World(**values, local_size=local_size)
    if not (0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size <= world.size):
        names = ("rank", "size", "local_rank", "local_size")
        numbers = " ".join(f"{table[name]}={getattr(world, name)}" for name in names)
        raise UserError(f"{numbers} contradict each other; start with accelerate launch, torchrun or srun")
    return world


def find_few_cpus(workers: int | None, num_cpus: int, world: World, environment: Mapping[str, str]) -> tuple[str, ...]:
    """A note when SLURM gives this node fewer CPUs than its ranks have worker threads.

    `workers`: of the recipe; None: as many as `num_cpus`, the CPUs of this rank.
    """
    if workers is None:
        if num_cpus > 1 or "SLURM_JOB_ID" not in environment:
            return ()
        return ("each process reads and decodes images with one thread: ask sbatch for --cpus-per-task=8",)
    text = environment.get("SLURM_CPUS_PER_TASK")
    if text is None:
        return ()
    tasks = _tasks_on_node(SRUN["local_size"], environment.get(SRUN["local_size"], "1"), world.node)
    cpus, threads = tasks * _whole_number("SLURM_CPUS_PER_TASK", text), workers * world.local_size
    if threads <= cpus:
        return ()
    each = f"data.workers is {workers} on each of {world.local_size} ranks of a node"
    return (f"{each}, but SLURM gives the node {cpus} CPUs: ask sbatch for --cpus-per-task={threads}",)


def _tasks_on_node(name: str, text: str, node: int) -> int:
    """Tasks on a node. `text`: a number, or SLURM's list `4(x2),1`: four on each of two nodes, one on the third."""
    tasks: list[int] = []
    for part in text.split(","):
        number, _, times = part.removesuffix(")").partition("(x")
        tasks += [_whole_number(name, number)] * min(_whole_number(name, times or "1"), node + 1)
    return tasks[min(node, len(tasks) - 1)]


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        problem = f"environment variable {name}: '{text}' is not a whole number"
        raise UserError(f"{problem}; start with accelerate launch or srun")
    return int(text)
